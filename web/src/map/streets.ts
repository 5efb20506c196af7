/** Streets under the belief: tiles from the network, or a PMTiles file of the user's own; neither unless asked. */

import type { LayerSpecification, Map as MapLibre } from "maplibre-gl";
import { addProtocol } from "maplibre-gl";
import { FileSource, PMTiles, Protocol, TileType } from "pmtiles";
import type { Theme } from "./layers";
import { PALETTES } from "./layers";

export type Streets = { kind: "none" } | { kind: "online"; tiles: string } | { kind: "file"; file: File };

const SOURCE = "streets";
const ABOVE = "graticule"; // the streets lie below this layer, above the land

let protocol: Protocol | undefined;

export function removeStreets(map: MapLibre): void {
  for (const { id } of map.getStyle().layers) if (id.startsWith(`${SOURCE}-`)) map.removeLayer(id);
  if (map.getSource(SOURCE)) map.removeSource(SOURCE);
}

export async function addStreets(map: MapLibre, streets: Streets, theme: Theme): Promise<void> {
  if (streets.kind === "online") {
    const attribution = "© OpenStreetMap contributors";
    map.addSource(SOURCE, { type: "raster", tiles: [streets.tiles], tileSize: 256, maxzoom: 19, attribution });
    const paint = theme === "dark" ? { "raster-brightness-max": 0.45, "raster-saturation": -0.6 } : { "raster-saturation": -0.5 };
    map.addLayer({ id: `${SOURCE}-tiles`, type: "raster", source: SOURCE, paint }, ABOVE);
    return;
  }
  if (streets.kind === "none") return;
  if (!protocol) {
    protocol = new Protocol();
    addProtocol("pmtiles", protocol.tile);
  }
  const tiles = new PMTiles(new FileSource(streets.file));
  const { tileType, minZoom, maxZoom } = await tiles.getHeader(); // refuses what is no PMTiles file
  protocol.add(tiles);
  const tile = `pmtiles://${tiles.source.getKey()}/{z}/{x}/{y}`;
  if (tileType !== TileType.Mvt && tileType !== TileType.Mlt) {
    map.addSource(SOURCE, { type: "raster", tiles: [tile], tileSize: 256, minzoom: minZoom, maxzoom: maxZoom });
    map.addLayer({ id: `${SOURCE}-tiles`, type: "raster", source: SOURCE }, ABOVE);
    return;
  }
  const metadata = (await tiles.getMetadata()) as { vector_layers?: { id: string }[] };
  const found = drawn((metadata.vector_layers ?? []).map(({ id }) => id), theme);
  if (!found.length) throw new Error("the file names no layers");
  const encoding = tileType === TileType.Mlt ? "mlt" : "mvt";
  map.addSource(SOURCE, { type: "vector", tiles: [tile], minzoom: minZoom, maxzoom: maxZoom, encoding });
  for (const layer of found) map.addLayer(layer, ABOVE);
}

const ROADS = /road|street|transport(?!.*name)|highway/;

/** Layers for what a file names, whichever schema it follows: water and buildings as areas, roads as lines, or all lines. */
function drawn(names: string[], theme: Theme): LayerSpecification[] {
  const { water, faint, border } = PALETTES[theme];
  const known = names.some((name) => ROADS.test(name)); // a file of one's own may call them anything
  return names.flatMap((name): LayerSpecification[] => {
    const common = { id: `${SOURCE}-${name}`, source: SOURCE, "source-layer": name };
    if (/water|ocean/.test(name)) {
      return [{ ...common, type: "fill", filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": water } }];
    }
    if (/building/.test(name)) return [{ ...common, type: "fill", minzoom: 13, paint: { "fill-color": faint, "fill-opacity": 0.5 } }];
    if (!known || ROADS.test(name)) {
      const width = ["interpolate", ["exponential", 1.6], ["zoom"], 8, 0.4, 14, 1.5, 18, 8] as never;
      return [{ ...common, type: "line", filter: ["==", ["geometry-type"], "LineString"], paint: { "line-color": border, "line-width": width } }];
    }
    return [];
  });
}
