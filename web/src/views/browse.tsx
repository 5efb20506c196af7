/** Every photo of an evaluation: a list to sort and filter, a map that shows the truth, the answer and the likely cells. */

import type { FeatureCollection } from "geojson";
import { useEffect, useMemo, useState } from "preact/hooks";
import type { Atlas } from "../map/borders";
import type { Theme } from "../map/layers";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import type { Place } from "../types";
import { count, km, percent, position } from "../words";
import { MapView } from "./map-view";

export interface Shown extends Place {
  name: string;
  answer: Place;
  error_km: number;
  expected_km: number | null;
  p90_km: number | null;
  /** Rows of `cells` and the network's own probabilities. */
  likely: [number, number][];
  /** A small JPEG as data. */
  photo: string | null;
}

export interface Evaluation {
  photos: Shown[];
  /** How many there are; `photos` are as many of them as fit, evenly spaced by error. */
  total: number;
  /** Rings of `[lon, lat]` by row of the partition. */
  cells: Record<string, [number, number][]>;
}

const SORTS = { worst: "worst first", best: "best first", surest: "surest first", name: "by name" };
type Sort = keyof typeof SORTS;
const ERRORS = [0.025, 0.1, 0.2, 1, 25, 200, 750, 2500]; // km
const NONE = { kind: "none" } as const;

export function Browse({ evaluation, atlas }: { evaluation: Evaluation; atlas: Atlas }) {
  const { photos, total } = evaluation;
  const [sort, setSort] = useState<Sort>("worst");
  const [text, setText] = useState("");
  const [overKm, setOverKm] = useState(0);
  const [selected, setSelected] = useState<number>();
  const theme = useSystemTheme();
  const shown = useMemo(() => listed(photos, sort, text, overKm), [sort, text, overKm]);
  const photo = selected === undefined ? undefined : photos[selected];
  const scene = useMemo(() => (photo ? sceneOf(photo, evaluation) : overview(photos, shown)), [photo, shown]);
  return (
    <div class="browse">
      <div class="browse-list">
        <div class="browse-filters">
          <label>
            Search <input type="search" value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </label>
          <label>
            Order{" "}
            <select value={sort} onChange={(event) => setSort(event.currentTarget.value as Sort)}>
              {Object.entries(SORTS).map(([key, words]) => (
                <option key={key} value={key}>
                  {words}
                </option>
              ))}
            </select>
          </label>
          <label>
            Errors{" "}
            <select value={overKm} onChange={(event) => setOverKm(Number(event.currentTarget.value))}>
              <option value={0}>all</option>
              {ERRORS.map((error) => (
                <option key={error} value={error}>
                  over {km(error)}
                </option>
              ))}
            </select>
          </label>
        </div>
        <p class="soft" role="status">
          {count(shown.length)} of {count(photos.length)} photos
          {total > photos.length ? `, which stand for ${count(total)}, evenly spaced by error` : ""}
        </p>
        <ul>
          {shown.map((i) => {
            const { name, error_km, expected_km, photo: thumb } = photos[i]!;
            return (
              <li key={i}>
                <button type="button" aria-pressed={i === selected} onClick={() => setSelected(i === selected ? undefined : i)}>
                  {thumb ? <img src={thumb} alt="" loading="lazy" /> : <span />}
                  <span>
                    <strong>{km(error_km)}</strong>
                    {expected_km !== null && ` (expected ${km(expected_km)})`}
                  </span>
                  <small>{name}</small>
                </button>
              </li>
            );
          })}
        </ul>
      </div>
      <div class="browse-map">
        <MapView scene={scene} theme={theme} streets={NONE} atlas={atlas} onClick={() => undefined} onDot={setSelected} onStreetsFailed={() => undefined} />
      </div>
      <div class="browse-one" role="status">
        {photo ? (
          <>
            {photo.photo && <img src={photo.photo} alt={`Photo ${photo.name}`} />}
            <p>
              <strong>{km(photo.error_km)} off.</strong> Taken at {position(photo)}, answered {position(photo.answer)}.
              {photo.likely.length > 0 && ` The likeliest cells hold ${photo.likely.slice(0, 3).map(([, share]) => percent(share)).join(", ")}.`}
            </p>
            <button type="button" onClick={() => setSelected(undefined)}>
              All photos
            </button>
          </>
        ) : (
          <p class="soft">Choose a photo in the list or on the map to see its truth, its answer and the cells that were likely.</p>
        )}
      </div>
    </div>
  );
}

function listed(photos: Shown[], sort: Sort, text: string, overKm: number): number[] {
  const wanted = text.trim().toLowerCase();
  const order: Record<Sort, (a: Shown, b: Shown) => number> = {
    worst: (a, b) => b.error_km - a.error_km,
    best: (a, b) => a.error_km - b.error_km,
    surest: (a, b) => (a.expected_km ?? Infinity) - (b.expected_km ?? Infinity),
    name: (a, b) => (a.name < b.name ? -1 : 1),
  };
  return photos
    .map((_, i) => i)
    .filter((i) => photos[i]!.error_km >= overKm && photos[i]!.name.toLowerCase().includes(wanted))
    .sort((a, b) => order[sort](photos[a]!, photos[b]!));
}

const overview = (photos: Shown[], shown: number[]): Scene => ({
  dots: shown.map((id) => ({ id, label: photos[id]!.name, lat: photos[id]!.lat, lon: photos[id]!.lon })),
  fit: frame(photos),
});

function sceneOf({ lat, lon, answer, likely, error_km }: Shown, { cells }: Evaluation): Scene {
  const features = likely.flatMap(([row, share]) => {
    const ring = cells[row];
    if (!ring) return [];
    const geometry = { type: "Polygon" as const, coordinates: [ring] };
    return [{ type: "Feature" as const, geometry, properties: { per_km2: share } }];
  });
  const density: FeatureCollection | null = features.length ? { type: "FeatureCollection", features } : null;
  return {
    density,
    pins: [
      { ...answer, kind: "answer", label: `The model's answer, ${km(error_km)} off` },
      { lat, lon, kind: "truth", label: "Where it was taken" },
    ],
    lines: [[{ lat, lon }, answer]],
    fit: frame([{ lat, lon }, answer]),
  };
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

export function useSystemTheme(): Theme {
  const [dark, setDark] = useState(DARK.matches);
  useEffect(() => {
    const follow = () => setDark(DARK.matches);
    DARK.addEventListener("change", follow);
    return () => DARK.removeEventListener("change", follow);
  }, []);
  return dark ? "dark" : "light";
}
