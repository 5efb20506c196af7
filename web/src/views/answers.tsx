/** Answers of one or many photos inside a file of their own: the map, what is said of each photo, and a table of many. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Answered, Filter } from "../answered";
import { ALL, filtered } from "../answered";
import { sceneOf } from "../map/answer";
import type { Atlas } from "../map/borders";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import type { Fix, Model } from "../types";
import { claimInWords, count, isUnlike, km, percent, position } from "../words";
import { Answer, Notice } from "./answer";
import { useSystemTheme } from "./browse";
import { Filters, SaveAs } from "./filters";
import { MapView } from "./map-view";
import { Stage } from "./stage";

export interface One {
  name: string;
  /** A JPEG as data; null where there is none in the file. */
  photo: string | null;
  /** Where a street map shows the place; null of a city that is none. */
  link?: string | null;
  fix?: Fix;
  error?: string;
  /** Base64 of a PNG to lay over the photo; `signed` where blue speaks against the answer. */
  heat?: string;
  signed?: boolean;
  why?: string;
  /** A picture of this photo beside the known one that shares most with it, with lines, and how strong that is. */
  match?: { picture: string; words: string };
}

export interface Answers {
  answers: One[];
  /** How many photos were asked; `answers` are the first of them, and `drawn` of these have a picture and a region. */
  total: number;
  drawn: number;
  model: Pick<Model, "name" | "cells" | "calibrated" | "synthetic" | "area">;
}

type Row = Answered & { one: One };

const NONE = { kind: "none" } as const;
const AT_ONCE = 200; // rows of the table: more would make the page slow
const nothing = () => undefined;

export function AnswersView({ file, atlas }: { file: Answers; atlas: Atlas }) {
  const rows = useMemo<Row[]>(() => file.answers.map((one, id) => ({ id, file: { name: one.name }, fix: one.fix, error: one.error, one })), [file]);
  const [filter, setFilter] = useState<Filter>(ALL);
  const [selected, setSelected] = useState<number | undefined>(rows.length === 1 ? 0 : undefined);
  const shown = useMemo(() => filtered(rows, filter), [rows, filter]);
  const [scene, setScene] = useState<Scene>({});
  const theme = useSystemTheme();
  const row = selected === undefined ? undefined : rows[selected];
  useEffect(() => setScene(row?.fix ? oneOf(row.fix, others(shown, row)) : allOf(shown)), [row, shown]);
  return (
    <div class={rows.length > 1 ? "answers many" : "answers"}>
      <div class="answers-one" role="status">
        {row ? <Detail one={row.one} onAll={rows.length > 1 ? () => setSelected(undefined) : undefined} /> : <Overview file={file} />}
      </div>
      <div class="answers-map">
        <MapView scene={scene} theme={theme} streets={NONE} atlas={atlas} onClick={nothing} onDot={setSelected} onStreetsFailed={nothing} />
      </div>
      <div class="answers-all">
        {row?.one.match && (
          <figure>
            <img src={row.one.match.picture} alt="Lines between points of this photo and of the known photo that agrees most" />
            <figcaption class="soft">{row.one.match.words}</figcaption>
          </figure>
        )}
        {rows.length > 1 && <Filters filter={filter} onFilter={setFilter} />}
        {rows.length > 1 && <Table key={JSON.stringify(filter)} rows={shown} selected={selected} onSelect={setSelected} />}
        <SaveAs photos={shown} />
      </div>
    </div>
  );
}

function Detail({ one, onAll }: { one: One; onAll: (() => void) | undefined }) {
  const { name, photo, link, fix, error, heat, signed, why } = one;
  const [seen, setSeen] = useState(true);
  return (
    <>
      {onAll && (
        <button type="button" class="small" onClick={onAll}>
          All photos
        </button>
      )}
      {photo && <Stage url={photo} name={name} heat={heat && seen ? heat : undefined} />}
      {heat && (
        <label class="check">
          <input type="checkbox" checked={seen} onChange={(event) => setSeen(event.currentTarget.checked)} />
          Why here ({why}): the answer depends on what is orange{signed ? "; blue speaks against it" : ""}
        </label>
      )}
      <p class="soft file-name">{name}</p>
      {error && <Notice title="This photo cannot be answered">{error}</Notice>}
      {fix && <Claimed fix={fix} />}
      {fix && <Answer fix={fix} model={undefined} />}
      {link && !fix?.cannot_tell && <a href={link}>The place on OpenStreetMap</a>}
    </>
  );
}

function Claimed({ fix: { claim, exif } }: { fix: Fix }) {
  const own = claim && exif && claim.lat === exif.lat && claim.lon === exif.lon;
  return (
    <>
      {exif && (
        <p class="claim">
          <strong>The photo itself says {position(exif)}.</strong> {own ? claimInWords(claim) : `${km(exif.distance_km)} from the answer.`}
        </p>
      )}
      {claim && !own && (
        <p class="claim">
          <strong>Claimed: {position(claim)}.</strong> {claimInWords(claim)}
        </p>
      )}
    </>
  );
}

function Overview({ file: { answers, total, drawn, model } }: { file: Answers }) {
  const fixes = answers.flatMap(({ fix }) => (fix ? [fix] : []));
  const strange = fixes.filter(isUnlike).length;
  const cannot = fixes.filter(({ cannot_tell }) => cannot_tell).length;
  return (
    <>
      <h2>{count(total)} photos</h2>
      <dl class="facts">
        <dt>Answered</dt>
        <dd>{count(fixes.length - cannot)}</dd>
        {cannot > 0 && <dt>Cannot tell</dt>}
        {cannot > 0 && <dd>{count(cannot)}</dd>}
        {strange > 0 && <dt>Unlike the training photos</dt>}
        {strange > 0 && <dd>{count(strange)}</dd>}
        {answers.length > fixes.length && <dt>Not readable</dt>}
        {answers.length > fixes.length && <dd>{count(answers.length - fixes.length)}</dd>}
        <dt>The model knows</dt>
        <dd>{model.area}</dd>
      </dl>
      {total > answers.length && (
        <Notice title={`This file holds the first ${count(answers.length)} photos.`}>
          The other {count(total - answers.length)} stand in the files that --out and --engine write.
        </Notice>
      )}
      {answers.length > drawn && <p class="soft">The first {count(drawn)} have a picture and a region here; the others their answer alone.</p>}
      <p class="soft">Choose a photo in the table or on the map.</p>
    </>
  );
}

function Table({ rows, selected, onSelect }: { rows: Row[]; selected: number | undefined; onSelect: (id: number | undefined) => void }) {
  const [most, setMost] = useState(AT_ONCE);
  return (
    <>
      <div class="scroll" tabIndex={0} role="group" aria-label="Table of photos">
        <table>
          <thead>
            <tr>
              <th scope="col">Photo</th>
              <th scope="col">Place</th>
              <th scope="col" class="n">
                Half within
              </th>
              <th scope="col" class="n">
                Nine of ten
              </th>
              <th scope="col">Likely</th>
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, most).map(({ id, one: { name, photo, fix, error } }) => (
              <tr key={id} aria-current={id === selected ? "true" : undefined}>
                <td>
                  <button type="button" class="link" onClick={() => onSelect(id === selected ? undefined : id)}>
                    {photo && <img src={photo} alt="" loading="lazy" />}
                    <span>{name}</span>
                  </button>
                </td>
                <td>{error ?? place(fix)}</td>
                <td class="n">{fix && !fix.cannot_tell && !isUnlike(fix) ? km(fix.median_error_km ?? fix.expected_error_km) : ""}</td>
                <td class="n">{fix && !fix.cannot_tell && !isUnlike(fix) ? km(fix.p90_error_km) : ""}</td>
                <td>{fix?.places.map(({ name: named, probability }) => `${named} ${percent(probability)}`).join("; ")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="soft" role="status">
        {count(Math.min(most, rows.length))} of {count(rows.length)} photos{" "}
        {rows.length > most && (
          <button type="button" class="small" onClick={() => setMost(most + AT_ONCE)}>
            Show {count(Math.min(AT_ONCE, rows.length - most))} more
          </button>
        )}
      </p>
    </>
  );
}

function place(fix: Fix | undefined): string {
  if (!fix) return "";
  if (fix.cannot_tell) return `cannot tell: ${fix.cannot_tell}`;
  return `${fix.near ? `near ${fix.near}` : position(fix)}${isUnlike(fix) ? "; unlike the training photos" : ""}`;
}

const dots = (rows: Row[]): NonNullable<Scene["dots"]> =>
  rows.flatMap(({ id, file, fix }) => (fix && !fix.cannot_tell ? [{ id, label: file.name, lat: fix.lat, lon: fix.lon }] : []));

const others = (rows: Row[], one: Row) => dots(rows.filter((row) => row !== one));

const allOf = (rows: Row[]): Scene => ({ dots: dots(rows), fit: frame(dots(rows)) });

function oneOf(fix: Fix, dots: Scene["dots"]): Scene {
  const { claim, exif } = fix;
  const own = claim && exif && claim.lat === exif.lat && claim.lon === exif.lon;
  return { ...sceneOf(fix, claim && !own ? { place: claim, claim } : {}), dots };
}
