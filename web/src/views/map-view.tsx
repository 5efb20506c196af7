/** The map on the page, and what its signs mean. */

import { useEffect, useImperativeHandle, useRef, useState } from "preact/hooks";
import type { Ref } from "preact";
import type { Atlas } from "../map/borders";
import type { Theme } from "../map/layers";
import { PALETTES } from "../map/layers";
import { PlaceMap } from "../map/map";
import { PINS } from "../map/pins";
import type { Scene } from "../map/scene";
import type { Streets } from "../map/streets";
import type { Place } from "../types";

interface Props {
  scene: Scene;
  theme: Theme;
  streets: Streets;
  atlas: Atlas;
  onClick: (place: Place) => void;
  onDot: (id: number) => void;
  onStreetsFailed: (why: string) => void;
  center?: Ref<() => Place | undefined>;
}

export function MapView({ scene, theme, streets, atlas, onClick, onDot, onStreetsFailed, center }: Props) {
  const container = useRef<HTMLDivElement>(null);
  const map = useRef<PlaceMap>(undefined);
  const [problem, setProblem] = useState(false);
  const [drawn, setDrawn] = useState(false);
  const tell = useRef({ onClick, onDot });
  tell.current = { onClick, onDot };
  useImperativeHandle(center ?? null, () => () => map.current?.center(), []);

  useEffect(() => {
    try {
      map.current = new PlaceMap(
        container.current!,
        theme,
        atlas,
        (place) => tell.current.onClick(place),
        (id) => tell.current.onDot(id),
        scene,
      );
      void map.current.ready.then(() => setDrawn(true));
    } catch {
      setProblem(true); // no WebGL
    }
    return () => map.current?.remove();
  }, []);
  useEffect(() => void map.current?.show(scene), [scene]);
  useEffect(() => void map.current?.paint(theme), [theme]);
  useEffect(() => {
    map.current?.over(streets).catch(() => onStreetsFailed("This file holds no tiles with streets; a PMTiles file ends in .pmtiles."));
  }, [streets]);

  return (
    <div class={`map ${theme}`}>
      <div ref={container} class="map-canvas" role="region" aria-label="Map. Arrow keys move it, plus and minus zoom." />
      {!drawn && !problem && <p class="map-none">Drawing the map…</p>}
      {problem && <p class="map-none">This browser draws no map (it needs WebGL 2). The answer stands in words beside it.</p>}
      <Legend scene={scene} theme={theme} />
    </div>
  );
}

function Legend({ scene, theme }: { scene: Scene; theme: Theme }) {
  const kinds = [...new Set((scene.pins ?? []).map(({ kind }) => kind))];
  const coverages = new Set((scene.regions?.features ?? []).map(({ properties }) => Number(properties?.["coverage"])));
  if (!kinds.length && !scene.density && !scene.dots?.length && !scene.known?.length) return null;
  return (
    <ul class="legend" aria-label="Legend of the map">
      {kinds.map((kind) => (
        <li key={kind}>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <path d={PINS[kind].path} fill={PINS[kind].colour} />
          </svg>
          {scene.legend?.[kind] ?? PINS[kind].name}
        </li>
      ))}
      {!!scene.known?.length && (
        <li>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <circle cx="12" cy="12" r="5" fill="#fff" stroke="#00598c" stroke-width="4" />
          </svg>
          {scene.legend?.known ?? "known photos alike"}
        </li>
      )}
      {!!scene.dots?.length && (
        <li>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <circle cx="12" cy="12" r="5" fill={PINS.answer.colour} />
          </svg>
          {scene.legend?.dots ?? (kinds.length ? "other photos" : "photos")}
        </li>
      )}
      {[...coverages].sort().map((coverage) => (
        <li key={coverage}>
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <path d="M0 12h24" stroke="currentColor" stroke-width="3" stroke-dasharray={coverage > 0.5 ? "6 4" : undefined} />
          </svg>
          {Math.round(coverage * 100)} % region
        </li>
      ))}
      {scene.density && (
        <li>
          <svg viewBox="0 0 60 12" class="ramp" aria-hidden="true">
            {PALETTES[theme].density.map((colour, i) => (
              <path key={colour} d={`M${i * 12} 0h12v12h-12z`} fill={colour} />
            ))}
          </svg>
          less to more likely
        </li>
      )}
    </ul>
  );
}
