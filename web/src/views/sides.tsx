/** Training and test photos of an audit on one map, with the pairs that give most away. */

import { useMemo, useState } from "preact/hooks";
import type { Atlas } from "../map/borders";
import type { Scene } from "../map/scene";
import { frame } from "../map/scene";
import type { Place } from "../types";
import { useSystemTheme } from "./browse";
import { MapView } from "./map-view";

export interface Audit {
  /** `[lat, lon]` of as many photos as a map needs. */
  train: [number, number][];
  test: [number, number][];
  /** Each with what lies between its photos, in words. */
  pairs: { why: string; between: string; test: Place & { name: string }; train: Place & { name: string } }[];
}

const NONE = { kind: "none" } as const;
const LEGEND = { known: "training photos", dots: "test photos", answer: "the test photo", truth: "its training photo" };
const place = ([lat, lon]: [number, number]): Place => ({ lat, lon });

export function Sides({ audit, atlas }: { audit: Audit; atlas: Atlas }) {
  const [chosen, setChosen] = useState<number>();
  const theme = useSystemTheme();
  const [train, test] = [audit.train.map(place), audit.test.map(place)];
  const scene = useMemo((): Scene => {
    const pair = chosen === undefined ? undefined : audit.pairs[chosen];
    return {
      known: train,
      dots: test.map((at) => ({ ...at, id: -1, label: "" })),
      pins: pair && [
        { lat: pair.train.lat, lon: pair.train.lon, kind: "truth", label: `Training photo ${pair.train.name}` },
        { lat: pair.test.lat, lon: pair.test.lon, kind: "answer", label: `Test photo ${pair.test.name}` },
      ],
      lines: pair ? [[pair.train, pair.test]] : [],
      legend: LEGEND,
      fit: pair ? frame([pair.train, pair.test]) : frame([...train, ...test]),
    };
  }, [chosen]);
  return (
    <div class="browse">
      <div class="browse-list">
        <p>
          <strong>The pairs that give most away</strong>
        </p>
        <p class="soft">Choose one to see it on the map; its photos are shown below.</p>
        <ul>
          {audit.pairs.map(({ why, between, test: one }, i) => (
            <li key={i}>
              <button type="button" class="words" aria-pressed={i === chosen} onClick={() => setChosen(i === chosen ? undefined : i)}>
                <span>
                  <strong>{why}</strong>: {between}
                </span>
                <small>{one.name}</small>
              </button>
            </li>
          ))}
        </ul>
      </div>
      <div class="browse-map">
        <MapView scene={scene} theme={theme} streets={NONE} atlas={atlas} onClick={() => undefined} onDot={() => undefined} onStreetsFailed={() => undefined} />
      </div>
    </div>
  );
}
