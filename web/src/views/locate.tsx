/** Photos in, answers out. */

import { useEffect, useState } from "preact/hooks";
import type { Answered } from "../answered";
import { sceneOf } from "../map/answer";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import type { Album } from "../photos";
import { answered, limit } from "../photos";
import type { Claim, Fix, Model, Place } from "../types";
import { count, km } from "../words";
import { Answer, Notice } from "./answer";
import { Choose } from "./choose";
import { Claims } from "./claims";
import { SaveAs } from "./filters";
import { PhotoList } from "./list";
import { Why } from "./why";

interface Props {
  album: Album;
  model: Model;
  coarsestKm: number | null;
  place: Place | undefined;
  onPlace: (place: Place | undefined) => void;
  onScene: (scene: Scene) => void;
  center: () => Place | undefined;
}

export function Locate({ album, model, coarsestKm, place, onPlace, onScene, center }: Props) {
  const [claim, setClaim] = useState<Claim>();
  const [moved, setMoved] = useState<Fix>();
  const [listed, setListed] = useState<Answered[]>([]);
  const photo = album.photos.find(({ id }) => id === album.selected);
  const own = photo && answered(photo, album.model);
  const many = album.photos.length > 1;
  const together = album.together && many;
  const fix = together ? album.joint?.fix : own?.fix;
  const error = together ? album.joint?.error : own?.error;

  useEffect(() => {
    if (!album.photos.length) return;
    const others = many && !together ? listed.filter(({ id }) => id !== album.selected) : [];
    onScene({ ...(fix ? sceneOf(fix, { place, claim, moved }) : {}), dots: dotsOf(others) });
  }, [fix, place, claim, moved, listed]);
  useEffect(() => {
    if (album.photos.length) return;
    const [[south, west], [north, east]] = model.bounds;
    onScene({ fit: frame([{ lat: south, lon: west }, { lat: north, lon: east }]) });
  }, [album.photos.length, model.id]);

  return (
    <>
      <Choose few={album.photos.length > 0} />
      {model.calibrated && album.photos.length > 0 && <Limit km={album.maxErrorKm} />}
      {!album.photos.length && <About model={model} coarsestKm={coarsestKm} />}
      {many && <PhotoList album={album} onShown={setListed} />}
      {error && <Notice title={together ? "No answer" : "This photo cannot be answered"}>{error}</Notice>}
      {album.photos.length > 0 && !fix && !error && <Waiting />}
      {fix && (
        <>
          {together && <p class="soft">One answer for all {album.photos.length} photos:</p>}
          <Answer fix={fix} model={model} />
          {own && !many && <SaveAs photos={[own]} disabled={false} />}
        </>
      )}
      {photo && own?.fix && (
        <>
          <Why photo={photo.file} url={photo.url} name={photo.file.name} fix={own.fix} model={album.model} onMoved={setMoved} />
          <Claims photo={photo.file} fix={own.fix} model={album.model} place={place} onPlace={onPlace} onClaim={setClaim} center={center} />
        </>
      )}
    </>
  );
}

const dotsOf = (photos: Answered[]): Scene["dots"] =>
  photos.flatMap(({ id, file, fix }) => (fix && !fix.cannot_tell ? [{ id, label: file.name, lat: fix.lat, lon: fix.lon }] : []));

function Limit({ km: now }: { km: number | undefined }) {
  return (
    <label class="limit">
      Answer only if half of such photos lie within
      <select value={now ?? ""} onChange={(event) => limit(event.currentTarget.value ? Number(event.currentTarget.value) : undefined)}>
        <option value="">any distance</option>
        {[0.05, 0.1, 0.25, 0.5, 1, 5, 25, 100, 200, 750, 2500].map((distance) => (
          <option key={distance} value={distance}>
            {km(distance)}
          </option>
        ))}
      </select>
    </label>
  );
}

function Waiting() {
  return (
    <section class="answer waiting" aria-label="The answer" aria-busy="true">
      <h2>Looking…</h2>
      <p class="soft">The photo is with the model.</p>
    </section>
  );
}

function About({ model, coarsestKm }: { model: Model; coarsestKm: number | null }) {
  return (
    <section class="about">
      <h2>Where was this photo taken, and how sure is that?</h2>
      {model.synthetic && <Notice title="A synthetic city">This model knows painted photos only; it is a demonstration.</Notice>}
      <p>
        The answer comes from <strong>{model.name}</strong>, on the machine that serves this page. Photos stay in its
        memory while they are answered; none is kept.
      </p>
      {coarsestKm !== null && <p>Whoever runs this page blurs every answer to {km(coarsestKm)}.</p>}
      <dl class="facts">
        <dt>Knows</dt>
        <dd>{model.area}</dd>
        <dt>Cells</dt>
        <dd>
          {count(model.cells)}, {model.partition}
        </dd>
        <dt>Encoder</dt>
        <dd>{model.encoder}</dd>
        <dt>Calibrated</dt>
        <dd>{model.calibrated ? `yes, with ${count(model.photos_known)} known photos` : "no: its errors are not known"}</dd>
      </dl>
    </section>
  );
}
