/** Land, countries, states and counties, from the package itself: no network is asked. */

import fineUrl from "world-atlas/countries-10m.json?url";
import countriesUrl from "world-atlas/countries-50m.json?url";
import usUrl from "us-atlas/counties-10m.json?url";
import type { FeatureCollection, MultiLineString, Position } from "geojson";
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

type World = Topology<{ countries: GeometryCollection<{ name: string }>; land: GeometryCollection }>;
type States = Topology<{ counties: GeometryCollection; states: GeometryCollection; nation: GeometryCollection }>;

async function read<T>(url: string): Promise<T> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`borders: status ${response.status}`);
  return response.json() as Promise<T>;
}

export async function borders(): Promise<Borders> {
  const [world, us] = await Promise.all([read<World>(countriesUrl), read<States>(usUrl)]);
  const inner = (a: unknown, b: unknown) => a !== b;
  const countries = feature(world, world.objects.countries);
  return {
    land: feature(world, world.objects.land) as FeatureCollection,
    countries: mesh(world, world.objects.countries, inner),
    names: named(countries),
    states: mesh(us, us.objects.states, inner),
    counties: mesh(us, us.objects.counties, inner),
  };
}

/** Land and countries for those who look closely; three megabytes, so they come when they are needed. */
export async function fine(): Promise<Pick<Borders, "land" | "countries">> {
  const world = await read<World>(fineUrl);
  return {
    land: feature(world, world.objects.land) as FeatureCollection,
    countries: mesh(world, world.objects.countries, (a, b) => a !== b),
  };
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
