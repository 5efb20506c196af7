/** Answers as files that spreadsheets and maps read. */

import type { Geometry, Position } from "geojson";
import type { Answered } from "./answered";
import { claimInWords, errorInWords } from "./words";

const COLUMNS = [
  "photo", "lat", "lon", "near", "median_error_km", "p90_error_km", "expected_error_km", "area_km2",
  "unlike_training", "cannot_tell", "exif_lat", "exif_lon", "exif_distance_km", "error",
] as const;

type Row = Record<(typeof COLUMNS)[number], string | number | null>;

function row({ file, fix, error }: Answered): Row {
  return {
    photo: file.name,
    lat: fix?.lat ?? null,
    lon: fix?.lon ?? null,
    near: fix?.near ?? null,
    median_error_km: fix?.median_error_km ?? null,
    p90_error_km: fix?.p90_error_km ?? null,
    expected_error_km: fix?.expected_error_km ?? null,
    area_km2: fix?.area_km2 ?? null,
    unlike_training: fix?.unlike_training ?? null,
    cannot_tell: fix?.cannot_tell ?? null,
    exif_lat: fix?.exif?.lat ?? null,
    exif_lon: fix?.exif?.lon ?? null,
    exif_distance_km: fix?.exif?.distance_km ?? null,
    error: error ?? null,
  };
}

/** A cell that a spreadsheet neither splits nor runs: names come from strangers' files. */
function cell(value: string | number | null): string {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export function csv(photos: Answered[]): string {
  const lines = photos.map((photo) => {
    const facts = row(photo);
    return COLUMNS.map((name) => cell(facts[name])).join(",");
  });
  return [COLUMNS.join(","), ...lines, ""].join("\r\n");
}

/** RFC 7946: a point a photo, with its regions where they were asked for. */
export function geojson(photos: Answered[]): string {
  const features = photos.flatMap((photo) => {
    const { lat, lon, ...properties } = row(photo);
    const geometry = lat === null || lon === null ? null : { type: "Point", coordinates: [lon, lat] };
    const regions = (photo.fix?.regions?.features ?? []).map((region) => ({
      ...region,
      properties: { photo: photo.file.name, ...region.properties },
    }));
    return [{ type: "Feature", geometry, properties }, ...regions];
  });
  return JSON.stringify({ type: "FeatureCollection", features }, null, 2);
}

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

const placemark = (name: string, text: string, shape: string): string =>
  `<Placemark><name>${escape(name)}</name><description>${escape(text)}</description>${shape}</Placemark>`;

/** Polygons of GeoJSON as KML. */
function polygons(geometry: Geometry): string {
  const parts = geometry.type === "MultiPolygon" ? geometry.coordinates : geometry.type === "Polygon" ? [geometry.coordinates] : [];
  const ring = (positions: Position[], side: string) =>
    `<${side}><LinearRing><coordinates>${positions.map(([lon = 0, lat = 0]) => `${lon},${lat}`).join(" ")}</coordinates></LinearRing></${side}>`;
  const shapes = parts.map((rings) => `<Polygon>${rings.map((one, i) => ring(one, i ? "innerBoundaryIs" : "outerBoundaryIs")).join("")}</Polygon>`);
  return `<MultiGeometry>${shapes.join("")}</MultiGeometry>`;
}

/** OGC KML 2.2: a point a photo, in a folder with its regions where they were asked for. */
export function kml(photos: Answered[]): string {
  const marks = photos.map(({ file, fix, error }) => {
    let text = error ?? "";
    let point = "";
    if (fix?.cannot_tell) text = `cannot tell: ${fix.cannot_tell}`;
    else if (fix) {
      text = errorInWords(fix) + (fix.claim ? ` The claimed place: ${claimInWords(fix.claim)}` : "");
      point = `<Point><coordinates>${fix.lon.toFixed(7)},${fix.lat.toFixed(7)}</coordinates></Point>`;
    }
    const mark = placemark(file.name, text, point);
    const regions = fix?.cannot_tell ? [] : (fix?.regions?.features ?? []);
    if (!regions.length) return mark;
    const around = regions.map(({ geometry, properties }) =>
      placemark(`${Math.round(100 * Number(properties?.["coverage"]))} % region`, `${properties?.["area_km2"]} km2`, polygons(geometry)),
    );
    return `<Folder><name>${escape(file.name)}</name>${mark}${around.join("")}</Folder>`;
  });
  const head = '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>';
  return [head, ...marks, "</Document></kml>", ""].join("\n");
}

const WRITERS = {
  csv: { write: csv, type: "text/csv" },
  geojson: { write: geojson, type: "application/geo+json" },
  kml: { write: kml, type: "application/vnd.google-earth.kml+xml" },
} as const;

export type Format = keyof typeof WRITERS;
export const FORMATS = Object.keys(WRITERS) as Format[];

export function download(photos: Answered[], format: Format): void {
  const { write, type } = WRITERS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(photos)], { type }));
  link.download = `places.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
