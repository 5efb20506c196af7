/** Lines of latitude and longitude, at steps that suit what the map shows. */

import type { FeatureCollection } from "geojson";

const STEPS = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]; // degrees
const WANTED = 4; // lines, at least, across the narrower side

export interface Bounds {
  west: number;
  south: number;
  east: number;
  north: number;
}

export function graticule({ west, south, east, north }: Bounds): FeatureCollection {
  const span = Math.min(east - west, north - south);
  const step = STEPS.find((degrees) => span / degrees >= WANTED) ?? 0.0005;
  const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  const [bottom, top] = [Math.max(south, -85), Math.min(north, 85)];
  const features: FeatureCollection["features"] = [];
  const add = (coordinates: [number, number][], at: [number, number], label: string) => {
    features.push({ type: "Feature", geometry: { type: "LineString", coordinates }, properties: {} });
    features.push({ type: "Feature", geometry: { type: "Point", coordinates: at }, properties: { label } });
  };
  for (let i = Math.ceil(west / step); i * step <= east; i++) {
    const lon = i * step;
    const turned = ((((lon + 180) % 360) + 360) % 360) - 180;
    const side = Math.abs(turned) < 1e-9 ? "" : turned < 0 ? "W" : "E";
    add([[lon, bottom], [lon, top]], [lon, bottom], `${Math.abs(turned).toFixed(digits)}°${side}`);
  }
  for (let i = Math.ceil(bottom / step); i * step <= top; i++) {
    const lat = i * step;
    const side = Math.abs(lat) < 1e-9 ? "" : lat < 0 ? "S" : "N";
    add([[west, lat], [east, lat]], [west, lat], `${Math.abs(lat).toFixed(digits)}°${side}`);
  }
  return { type: "FeatureCollection", features };
}
