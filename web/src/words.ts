/** Numbers for people, as the command line writes them. */

import type { Claim, Fix, Place } from "./types";

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** A distance: metres below one kilometre. */
export function km(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
  if (value < 0.9995) return `${(value * 1000).toFixed(0)} m`;
  return value < 100 ? `${value.toFixed(1)} km` : `${grouped.format(value)} km`;
}

export const area = (km2: number): string =>
  km2 < 0.1 ? `${grouped.format(km2 * 1e6)} m²` : km2 < 100 ? `${km2.toFixed(1)} km²` : `${grouped.format(km2)} km²`;

export const count = (value: number): string => grouped.format(value);

export function percent(share: number): string {
  if (share > 0 && share < 0.001) return "less than 0.1 %";
  if (share < 0.1) return `${(share * 100).toFixed(1)} %`;
  return `${(share * 100).toFixed(0)} %`;
}

export const position = ({ lat, lon }: Place): string => `${lat.toFixed(5)}, ${lon.toFixed(5)}`;

export const STRANGE = 0.95; // as in inference/decode.py

export const isUnlike = (fix: Fix): boolean => (fix.unlike_training ?? 0) >= STRANGE;

export const FEW_PHOTOS = 300; // as in inference/formats.py

/** How far off such an answer is. */
export function errorInWords(fix: Fix): string {
  if (isUnlike(fix)) return "How far off this is, is not known.";
  if (fix.median_error_km !== null && fix.p90_error_km !== null) {
    return `Half of such photos lie within ${km(fix.median_error_km)}, nine of ten within ${km(fix.p90_error_km)}.`;
  }
  if (fix.expected_error_km === null) return "The error is unknown; this model is not calibrated.";
  return `About ${km(fix.expected_error_km)} off; this model is not calibrated.`;
}

/** One line in a list of many, the warning first. */
export function brief(fix: Fix | undefined): string {
  if (!fix) return "asking…";
  if (fix.cannot_tell) return "cannot tell";
  const near = fix.near ? `near ${fix.near}` : undefined;
  const said = isUnlike(fix) ? ["unlike the training photos", near] : [near, km(fix.median_error_km ?? fix.expected_error_km)];
  return said.filter(Boolean).join(" · ");
}

const LIKELY = 0.8; // as in inference/claims.py

export function claimInWords(claim: Claim): string {
  const off = `${km(claim.distance_km)} from the answer`;
  if (claim.probability === null || claim.within_km === null) return `${off}; this model is not calibrated.`;
  const where = claim.region === null ? "outside the 95 % region" : `in the ${percent(claim.region)} region`;
  const verdict = claim.region === null ? "unlikely" : claim.region <= LIKELY ? "likely" : "possible";
  return `${percent(claim.probability)} of the belief lies within ${km(claim.within_km)} of the claim; it lies ${where} (${verdict}), ${off}.`;
}

/** Reads `LAT, LON` in degrees; undefined where it is none. */
export function readPosition(text: string): Place | undefined {
  const parts = text.trim().split(/[\s,;]+/).map(Number);
  const [lat, lon] = parts;
  if (parts.length !== 2 || lat === undefined || lon === undefined) return undefined;
  return Math.abs(lat) <= 90 && Math.abs(lon) <= 180 ? { lat, lon } : undefined;
}

const EARTH_RADIUS_KM = 6371.0088; // IUGG mean radius, as in geo/sphere.py

/** Great-circle distance (haversine). */
export function distanceKm(a: Place, b: Place): number {
  const rad = Math.PI / 180;
  const h =
    Math.sin(((b.lat - a.lat) * rad) / 2) ** 2 +
    Math.cos(a.lat * rad) * Math.cos(b.lat * rad) * Math.sin(((b.lon - a.lon) * rad) / 2) ** 2;
  return 2 * EARTH_RADIUS_KM * Math.asin(Math.min(1, Math.sqrt(h)));
}

/** The middle value, or the mean of the two in the middle; undefined of none. */
export function median(values: number[]): number | undefined {
  const sorted = [...values].sort((x, y) => x - y);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : sorted.length ? (sorted[half - 1]! + sorted[half]!) / 2 : undefined;
}
