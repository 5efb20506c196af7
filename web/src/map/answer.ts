/** What a map shows of one answer. */

import type { Claim, Fix, Place } from "../types";
import { isUnlike, position } from "../words";
import type { Scene } from "./scene";
import { frameOf } from "./scene";

export interface Beside {
  /** A place that is claimed, and how it fits. */
  place?: Place | undefined;
  claim?: Claim | undefined;
  /** The answer without a part of the photo. */
  moved?: Fix | undefined;
}

export function sceneOf(fix: Fix, { place, claim, moved }: Beside = {}): Scene {
  const pins: Scene["pins"] = [];
  if (fix.exif) pins.push({ lat: fix.exif.lat, lon: fix.exif.lon, kind: "exif", label: `The photo says: ${position(fix.exif)}` });
  if (place) pins.push({ ...place, kind: "claim", label: `The claimed place: ${position(place)}` });
  if (moved) pins.push({ lat: moved.lat, lon: moved.lon, kind: "moved", label: `Without the hidden part: ${position(moved)}` });
  if (!fix.cannot_tell) pins.push({ lat: fix.lat, lon: fix.lon, kind: "answer", label: `The answer: ${position(fix)}` });
  return {
    density: fix.density,
    regions: fix.regions,
    pins,
    known: fix.neighbours,
    lines: moved ? [[fix, moved]] : [],
    circle: place && claim?.within_km ? { ...place, radiusKm: claim.within_km } : undefined,
    fit: fits(fix),
  };
}

const seen = new WeakMap<Fix, Scene["fit"]>();

/** The same object for the same answer, so that the map stays where the reader moved it. */
function fits(fix: Fix): Scene["fit"] {
  if (!seen.has(fix)) seen.set(fix, frameOf(fix, fix.exif && !isUnlike(fix) ? [fix.exif] : []));
  return seen.get(fix);
}
