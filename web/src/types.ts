/** What the service says, as JSON. Positions are degrees, distances kilometres. */

import type { FeatureCollection } from "geojson";

export interface Place {
  lat: number;
  lon: number;
}

export interface Model {
  id: string;
  name: string;
  partition: string;
  cells: number;
  calibrated: boolean;
  encoder: string;
  answer: string;
  /** The model card, Markdown. */
  card?: string;
  /** [[south, west], [north, east]] */
  bounds: [[number, number], [number, number]];
  center: [number, number];
  photos_known: number;
  /** How many it learned from, where it says so. */
  photos_trained: number | null;
  /** What it knows, in words. */
  area: string;
  /** Whether its photos were painted by a program. */
  synthetic: boolean;
}

export interface Service {
  models: Model[];
  coarsest_answer_km: number | null;
  limits: { bytes: number; pixels: number; photos: number };
  /** How many photos of a known place there are, to play with and to compare models on. */
  test_photos: number;
  /** A template of tiles, `https://.../{z}/{x}/{y}.png`, that the reader may switch on; null where there is none. */
  street_map: string | null;
}

export interface Claim extends Place {
  distance_km: number;
  within_km: number | null;
  probability: number | null;
  /** Coverage of the smallest region that holds the place; null outside of all. */
  region: number | null;
}

export interface Named {
  name: string;
  probability: number;
}

export interface Cell extends Place {
  token: string;
  probability: number;
}

export interface Neighbour extends Place {
  /** Its share in what all known photos say. */
  similarity?: number;
  /** From the answer. */
  distance_km?: number;
  thumbnail?: string;
}

export interface Fix extends Place {
  expected_error_km: number | null;
  calibrated: boolean;
  median_error_km: number | null;
  p90_error_km: number | null;
  area_km2: number | null;
  unlike_training: number | null;
  region: string[];
  cannot_tell: string | null;
  claim: Claim | null;
  near: string | null;
  places: Named[];
  cells: Cell[];
  words?: string;
  exif?: (Place & { distance_km: number }) | null;
  regions?: FeatureCollection | null;
  density?: FeatureCollection | null;
  neighbours?: Neighbour[];
}

export interface Broken {
  path?: string;
  error: string;
}

export interface Explained {
  /** Base64; transparent where nothing depends on the photo. */
  heatmap_png: string | null;
  scores: { signed: boolean } | null;
  fix: Fix;
}

export interface Game {
  id: string;
  rounds: number;
  scale_km: number;
}

export interface Guessed {
  truth: Place;
  model: Place;
  points_you: number;
  points_model: number;
  error_km_you: number;
  error_km_model: number;
}

/** A photo of the test set: where it was taken, and what a model says. */
export interface Tested {
  truth: Place;
  error_km: number;
  fix: Fix;
}
