/** Land, countries, states and counties. */

import type { Feature, FeatureCollection, MultiLineString, Position } from "geojson";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";

export interface Borders {
  land: FeatureCollection;
  countries: MultiLineString;
  /** A name a country, at the middle of its largest part. */
  names: FeatureCollection;
  states: MultiLineString;
  counties: MultiLineString;
}

/** Where a map has its borders from. */
export interface Atlas {
  coarse: () => Promise<Borders>;
  /** For those who look closely; where there is nothing finer, left out. */
  fine?: () => Promise<Pick<Borders, "land" | "countries">>;
}

export type World = Topology<{ countries: GeometryCollection<{ name: string }>; land: GeometryCollection }>;
export type States = Topology<{ counties?: GeometryCollection; states: GeometryCollection }>;

/** From the topologies of world-atlas and us-atlas. */
export function bordersOf(world: World, us: States): Borders {
  const inner = (a: unknown, b: unknown) => a !== b;
  const countries = unrolled(feature(world, world.objects.countries));
  return {
    ...landOf(world),
    names: named(countries),
    states: mesh(us, us.objects.states, inner),
    counties: us.objects.counties ? mesh(us, us.objects.counties, inner) : { type: "MultiLineString", coordinates: [] },
  };
}

/** Land and countries alone. */
export const landOf = (world: World): Pick<Borders, "land" | "countries"> => ({
  land: unrolled(feature(world, world.objects.land)) as FeatureCollection,
  countries: mesh(world, world.objects.countries, (a, b) => a !== b),
});

/** Areas whose rings run on through the antimeridian (181 is 179° W), where they else would cross the whole map. */
function unrolled<T extends Feature | FeatureCollection>(areas: T): T {
  const each: Feature[] = areas.type === "FeatureCollection" ? areas.features : [areas];
  for (const { geometry } of each) {
    if (geometry?.type === "Polygon") geometry.coordinates = geometry.coordinates.map(runOn);
    if (geometry?.type === "MultiPolygon") geometry.coordinates = geometry.coordinates.map((rings) => rings.map(runOn));
  }
  return areas;
}

/** A ring without jumps of a full turn; one around a pole has to have one. */
function runOn(ring: Position[]): Position[] {
  let turn = 0;
  let before = ring[0]?.[0] ?? 0;
  const found = ring.map(([x = 0, y = 0]) => {
    turn -= 360 * Math.round((x - before) / 360);
    before = x;
    return [x + turn, y];
  });
  return turn ? ring : found;
}

function named(countries: ReturnType<typeof feature<{ name: string }>>): FeatureCollection {
  const all = "features" in countries ? countries.features : [countries];
  return {
    type: "FeatureCollection",
    features: all.flatMap(({ geometry, properties }) => {
      const polygons =
        geometry?.type === "Polygon" ? [geometry.coordinates] : geometry?.type === "MultiPolygon" ? geometry.coordinates : [];
      const rings = polygons.map((polygon) => middle(polygon[0] ?? []));
      const largest = rings.sort((a, b) => b.area - a.area)[0];
      if (!largest) return [];
      return [
        {
          type: "Feature" as const,
          geometry: { type: "Point" as const, coordinates: largest.at },
          properties: { name: properties.name, area: largest.area },
        },
      ];
    }),
  };
}

/** Area in square degrees and centroid of a ring (shoelace formula). */
function middle(ring: Position[]): { area: number; at: Position } {
  let area = 0;
  let [x, y] = [0, 0];
  ring.forEach(([x0 = 0, y0 = 0], i) => {
    const [x1 = 0, y1 = 0] = ring[(i + 1) % ring.length] ?? [];
    const cross = x0 * y1 - x1 * y0;
    area += cross / 2;
    x += (x0 + x1) * cross;
    y += (y0 + y1) * cross;
  });
  return { area: Math.abs(area), at: area ? [x / (6 * area), y / (6 * area)] : (ring[0] ?? [0, 0]) };
}
