/** What a map shows of one question: plain values that every view makes and one map draws. */

import type { FeatureCollection, Position } from "geojson";
import type { Fix, Place } from "../types";
import type { Bounds } from "./graticule";

/** Each kind has its own shape, so that nobody needs its colour. */
export type PinKind = "answer" | "other" | "moved" | "exif" | "claim" | "truth" | "you";

export interface Pin extends Place {
  kind: PinKind;
  label: string;
}

export interface Dot extends Place {
  id: number;
  label: string;
}

export interface Scene {
  density?: FeatureCollection | null | undefined;
  regions?: FeatureCollection | null | undefined;
  pins?: Pin[] | undefined;
  dots?: Dot[] | undefined;
  lines?: [Place, Place][] | undefined;
  circle?: (Place & { radiusKm: number }) | undefined;
  /** What should be seen; a new object moves the map there. */
  fit?: Bounds | undefined;
}

const DECADES = 3; // of density that are drawn below the highest

/** The density with a `shade` in [0, 1] a cell: the logarithm of its probability a square kilometre. */
export function shaded(density: FeatureCollection): FeatureCollection {
  const of = (properties: unknown) => Number((properties as { per_km2?: number } | null)?.per_km2 ?? 0);
  const most = Math.max(...density.features.map(({ properties }) => of(properties)), Number.MIN_VALUE);
  return {
    type: "FeatureCollection",
    features: density.features.flatMap((cell) => {
      const shade = 1 + Math.log10(of(cell.properties) / most) / DECADES;
      return shade > 0 ? [{ ...cell, properties: { shade } }] : [];
    }),
  };
}

const LEAST_KM = 0.15; // half of the narrowest view

/** The smallest frame around places, across the antimeridian where that is shorter; undefined of none. */
export function frame(places: Place[], leastKm = LEAST_KM): Bounds | undefined {
  if (!places.length) return undefined;
  const lats = places.map(({ lat }) => lat);
  const plain = spread(places.map(({ lon }) => lon));
  const turned = spread(places.map(({ lon }) => (lon < 0 ? lon + 360 : lon)));
  const [west, east] = turned[1] - turned[0] < plain[1] - plain[0] ? turned : plain;
  const [south, north] = spread(lats);
  const dLat = leastKm / 111.2;
  const dLon = dLat / Math.max(Math.cos((((south + north) / 2) * Math.PI) / 180), 0.05);
  return { west: west - dLon, south: Math.max(south - dLat, -85), east: east + dLon, north: Math.min(north + dLat, 85) };
}

function spread(values: number[]): [number, number] {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return [least, most];
}

/** The corners of polygons. */
export function corners(collection: FeatureCollection | null | undefined, least = 0): Place[] {
  const places: Place[] = [];
  const walk = (value: unknown): void => {
    if (!Array.isArray(value)) return;
    if (typeof value[0] === "number") places.push({ lon: value[0], lat: (value as Position)[1] ?? 0 });
    else value.forEach(walk);
  };
  for (const { geometry, properties } of collection?.features ?? []) {
    if (geometry && "coordinates" in geometry && Number(properties?.["coverage"] ?? 1) >= least) walk(geometry.coordinates);
  }
  return places;
}

/** The frame of an answer: its largest region, or the error to expect around it. */
export function frameOf(fix: Fix, more: Place[] = []): Bounds | undefined {
  const region = corners(fix.regions);
  const reach = fix.p90_error_km ?? fix.expected_error_km ?? 100;
  return frame([fix, ...region, ...more], region.length ? LEAST_KM : reach);
}

/** A circle on the sphere as a ring of `[lon, lat]`. */
export function ring({ lat, lon, radiusKm }: Place & { radiusKm: number }): Position[] {
  const rad = Math.PI / 180;
  const r = radiusKm / 6371.0088;
  return Array.from({ length: 97 }, (_, i) => {
    const bearing = (i / 96) * 2 * Math.PI;
    const y = Math.asin(Math.sin(lat * rad) * Math.cos(r) + Math.cos(lat * rad) * Math.sin(r) * Math.cos(bearing));
    const x = Math.atan2(
      Math.sin(bearing) * Math.sin(r) * Math.cos(lat * rad),
      Math.cos(r) - Math.sin(lat * rad) * Math.sin(y),
    );
    return [lon + x / rad, y / rad];
  });
}
