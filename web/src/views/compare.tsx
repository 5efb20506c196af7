/** Two bundles on the same photos. */

import { useEffect, useState } from "preact/hooks";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import type { Album, Photo } from "../photos";
import { compare, select } from "../photos";
import type { Fix, Model, Place } from "../types";
import { count, distanceKm, errorInWords, isUnlike, km, median, position } from "../words";
import { Notice } from "./answer";
import { CompareTest } from "./compare-test";

interface Props {
  album: Album;
  models: Model[];
  /** Photos of the test set; 0 where there is none. */
  testPhotos: number;
  onScene: (scene: Scene) => void;
}

export function Compare({ album, models, testPhotos, onScene }: Props) {
  const a = models.find(({ id }) => id === album.model) ?? models[0]!;
  const [otherId, setOtherId] = useState<string>();
  const b = models.find(({ id }) => id === otherId && id !== a.id) ?? models.find(({ id }) => id !== a.id);
  const [onTest, setOnTest] = useState(false);
  const photo = onTest ? undefined : album.photos.find(({ id }) => id === album.selected);
  const [fixA, fixB] = [photo?.fixes[a.id], b && photo?.fixes[b.id]];

  useEffect(() => {
    compare(onTest ? undefined : b?.id);
    return () => compare(undefined);
  }, [b?.id, onTest]);

  useEffect(() => {
    if (onTest) return;
    const places = [fixA, fixB].filter((fix): fix is Fix => !!fix);
    const truth = fixA?.exif ?? fixB?.exif;
    onScene({
      pins: [
        ...(fixA ? [{ lat: fixA.lat, lon: fixA.lon, kind: "answer" as const, label: `${a.name}: ${position(fixA)}` }] : []),
        ...(fixB && b ? [{ lat: fixB.lat, lon: fixB.lon, kind: "other" as const, label: `${b.name}: ${position(fixB)}` }] : []),
        ...(truth ? [{ lat: truth.lat, lon: truth.lon, kind: "exif" as const, label: "The photo's own position" }] : []),
      ],
      lines: fixA && fixB ? [[fixA, fixB]] : [],
      regions: fixA?.regions,
      legend: b && { answer: a.name, other: b.name },
      fit: frame([...places, ...(truth ? [truth] : [])]),
    });
  }, [fixA, fixB, onTest]);

  if (!b) {
    return (
      <section class="compare" aria-labelledby="compare-title">
        <h2 id="compare-title">Compare two models</h2>
        <Notice title="One model is served">
          To compare, serve two bundles: <code>graticule serve BUNDLE OTHER</code>.
        </Notice>
      </section>
    );
  }
  const both = album.photos.filter((one) => one.fixes[a.id] && one.fixes[b.id]);
  return (
    <section class="compare" aria-labelledby="compare-title">
      <h2 id="compare-title">Compare two models</h2>
      <div class="row">
        <p>
          <strong>{a.name}</strong> against
        </p>
        <label>
          The other
          <select value={b.id} onChange={(event) => setOtherId(event.currentTarget.value)}>
            {models.filter(({ id }) => id !== a.id).map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
      </div>
      <fieldset class="row">
        <legend>Photos</legend>
        <label class="check">
          <input type="radio" name="photos" checked={!onTest} onChange={() => setOnTest(false)} />
          yours
        </label>
        <label class="check">
          <input type="radio" name="photos" checked={onTest} disabled={!testPhotos} onChange={() => setOnTest(true)} />
          {testPhotos ? `the test set, ${count(testPhotos)} photos that neither trained on` : "a test set (graticule serve … --play DATASET)"}
        </label>
      </fieldset>
      {onTest && <CompareTest key={`${a.id} ${b.id}`} a={a} b={b} photos={testPhotos} onScene={onScene} />}
      {!onTest && !album.photos.length && <p>Choose photos first, under Locate.</p>}
      {photo && (
        <div class="two">
          <One model={a} fix={fixA} error={photo.errors[a.id]} pin="●" />
          <One model={b} fix={fixB} error={photo.errors[b.id]} pin="■" />
        </div>
      )}
      {fixA && fixB && (
        <p class="says" role="status">
          The two answers lie {km(distanceKm(fixA, fixB))} apart.
        </p>
      )}
      {!onTest && both.length > 0 && <Table photos={both} a={a} b={b} selected={album.selected} />}
    </section>
  );
}

function One({ model, fix, error, pin }: { model: Model; fix: Fix | undefined; error: string | undefined; pin: string }) {
  return (
    <div class="one">
      <h3>
        <span aria-hidden="true" class={pin === "●" ? "mark-a" : "mark-b"}>
          {pin}
        </span>{" "}
        {model.name}
      </h3>
      {error && <p>{error}</p>}
      {!fix && !error && <p>Asking…</p>}
      {fix && (
        <>
          <p>{fix.cannot_tell ? `Cannot tell: ${fix.cannot_tell}.` : fix.near ? `Near ${fix.near}` : position(fix)}</p>
          {isUnlike(fix) && <p>Unlike what this model knows.</p>}
          <p class="soft">{errorInWords(fix)}</p>
          {fix.exif && <p>{km(fix.exif.distance_km)} from the photo's own position.</p>}
        </>
      )}
    </div>
  );
}

function Table({ photos, a, b, selected }: { photos: Photo[]; a: Model; b: Model; selected: number | undefined }) {
  const rows = photos.map((photo) => {
    const [fixA, fixB] = [photo.fixes[a.id]!, photo.fixes[b.id]!];
    const truth: Place | null | undefined = fixA.exif ?? fixB.exif;
    return { photo, apart: distanceKm(fixA, fixB), errors: truth ? [distanceKm(fixA, truth), distanceKm(fixB, truth)] as const : undefined, fixA, fixB };
  });
  const known = rows.flatMap(({ errors }) => (errors ? [errors] : []));
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="Both models, photo by photo">
      <table>
        <thead>
          <tr>
            <th scope="col">Photo</th>
            <th scope="col" class="n">Apart</th>
            <th scope="col" class="n">● {known.length ? "error" : "half within"}</th>
            <th scope="col" class="n">■ {known.length ? "error" : "half within"}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ photo, apart, errors, fixA, fixB }) => (
            <tr key={photo.id}>
              <td>
                <button type="button" class="link" aria-current={photo.id === selected ? "true" : undefined} onClick={() => select(photo.id)}>
                  {photo.file.name}
                </button>
              </td>
              <td class="n">{km(apart)}</td>
              <td class="n">{known.length ? errors && km(errors[0]) : km(fixA.median_error_km ?? fixA.expected_error_km)}</td>
              <td class="n">{known.length ? errors && km(errors[1]) : km(fixB.median_error_km ?? fixB.expected_error_km)}</td>
            </tr>
          ))}
        </tbody>
        {known.length > 1 && (
          <tfoot>
            <tr>
              <th scope="row" colSpan={2}>Median of {known.length} photos that say where they were taken</th>
              <td class="n">{km(median(known.map(([error]) => error)))}</td>
              <td class="n">{km(median(known.map(([, error]) => error)))}</td>
            </tr>
          </tfoot>
        )}
      </table>
    </div>
  );
}
