/** Borders and the map's worker as the package serves them: no network is asked. */

import { setWorkerUrl } from "maplibre-gl";
import workerUrl from "maplibre-gl/dist/maplibre-gl-worker.mjs?worker&url";
import usUrl from "us-atlas/counties-10m.json?url";
import fineUrl from "world-atlas/countries-10m.json?url";
import coarseUrl from "world-atlas/countries-50m.json?url";
import type { Atlas, States, World } from "./borders";
import { bordersOf, landOf } from "./borders";

setWorkerUrl(new URL(workerUrl, import.meta.url).href);

async function read<T>(url: string): Promise<T> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`borders: status ${response.status}`);
  return response.json() as Promise<T>;
}

export const atlas: Atlas = {
  coarse: async () => bordersOf(...(await Promise.all([read<World>(coarseUrl), read<States>(usUrl)]))),
  fine: async () => landOf(await read<World>(fineUrl)), // three megabytes, so they come when they are needed
};
