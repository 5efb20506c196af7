/** The service behind the page. Every photo goes there anew: nothing is kept. */

import type { Broken, Claim, Explained, Fix, Game, Guessed, Place, Service, Tested } from "./types";

/** A sentence of the service about what went wrong (RFC 9457), or of ours where there was no answer. */
export class ServiceError extends Error {
  constructor(
    message: string,
    readonly status?: number,
  ) {
    super(message);
  }
}

let key: string | undefined;

/** The key that this server asks for; it is kept by this page alone. */
export function openWith(given: string): void {
  key = given;
}

const TRIES = 5; // while the queue is full, or more was asked than a minute allows
const at = (path: string) => new URL(path, document.baseURI).href;

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  for (let tried = 1; ; tried++) {
    let response: Response;
    try {
      const headers = new Headers(init.headers);
      if (key) headers.set("Authorization", `Bearer ${key}`);
      response = await fetch(at(path), { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ServiceError("The service does not answer; is graticule serve still running?");
    }
    if (response.ok) return response;
    if ((response.status === 503 || response.status === 429) && tried < TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((done) => setTimeout(done, Math.min(seconds, 10) * 1000));
      continue;
    }
    throw new ServiceError(await reason(response), response.status);
  }
}

async function reason(response: Response): Promise<string> {
  const problem: unknown = await response.json().catch(() => null);
  if (problem && typeof problem === "object" && "detail" in problem && typeof problem.detail === "string") {
    return problem.detail;
  }
  return `The service answered with status ${response.status}.`;
}

function form(photos: Blob[], name: "photo" | "photos", settings: Record<string, string | number | boolean | undefined>) {
  const data = new FormData();
  for (const photo of photos) data.append(name, photo, photo instanceof File ? photo.name : "photo");
  for (const [key, value] of Object.entries(settings)) if (value !== undefined) data.append(key, String(value));
  return data;
}

/** What is served; models of one name get that of their folder with it. */
export async function service(): Promise<Service> {
  const found = (await (await ask("v1/model")).json()) as Service;
  const alone = new Set(found.models.map(({ name }) => name)).size === found.models.length;
  return alone ? found : { ...found, models: found.models.map((model) => ({ ...model, name: `${model.name} (${model.id})` })) };
}

export interface Asked {
  model?: string | undefined;
  /** Whether the regions and the density of the belief are wanted. */
  map?: boolean;
  together?: boolean;
  /** Fixes of which half lie farther off say that they cannot tell. */
  maxErrorKm?: number | undefined;
}

export async function locate(photos: Blob[], { model, map = false, together = false, maxErrorKm }: Asked = {}) {
  const body = form(photos, "photos", { model, together, regions: map, density: map, neighbours: map ? 6 : 0, max_error_km: maxErrorKm, top: 5 });
  const answer = (await (await ask("v1/locate", { method: "POST", body })).json()) as {
    fixes: (Fix | Broken)[];
  };
  return answer.fixes;
}

/** One photo's answer; a photo that cannot be read is an error. */
export async function locateOne(photo: Blob, asked: Asked = {}): Promise<Fix> {
  const [fix] = await locate([photo], asked);
  if (!fix) throw new ServiceError("The service gave no answer.");
  if ("error" in fix) throw new ServiceError(fix.error);
  return fix;
}

export async function probability(photo: Blob, place: Place, withinKm?: number, model?: string): Promise<Claim> {
  const body = form([photo], "photo", { lat: place.lat, lon: place.lon, within_km: withinKm, model });
  return (await ask("v1/probability", { method: "POST", body })).json() as Promise<Claim>;
}

export interface Why {
  /** None where only the answer is asked for. */
  method?: string | undefined;
  /** x0, y0, x1, y1: shares of the photo's width and height. */
  hide?: [number, number, number, number] | undefined;
  model?: string | undefined;
  progress?: (share: number) => void;
  /** Told a coarse heatmap on the way to a finer one. */
  sketch?: (png: string) => void;
  signal?: AbortSignal;
}

export async function explain(photo: Blob, { method, hide, model, progress, sketch, signal }: Why): Promise<Explained> {
  const body = form([photo], "photo", { method, hide: hide?.map((share) => share.toFixed(4)).join(","), model });
  const headers = { Accept: "text/event-stream" };
  const response = await ask("v1/explain", { method: "POST", body, headers, signal: signal ?? null });
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    return response.json() as Promise<Explained>;
  }
  let answer: Explained | undefined;
  for await (const { event, data } of events(response)) {
    const said = JSON.parse(data) as Record<string, unknown>;
    if (event === "problem") throw new ServiceError(String(said["detail"]));
    if (event === "answer") answer = said as unknown as Explained;
    if (event === "sketch") sketch?.(String(said["heatmap_png"]));
    if (event === "progress") progress?.(Number(said["done"]) / Number(said["total"]));
  }
  if (answer) return answer;
  throw new ServiceError("The explanation broke off; try again.");
}

async function* events(response: Response): AsyncGenerator<{ event: string; data: string }> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const said = (field: string) =>
        lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).trim());
      const data = said("data").join("\n");
      if (data) yield { event: said("event")[0] ?? "message", data };
    }
  }
}

const json = (value: unknown): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const play = async (seed: number, rounds: number): Promise<Game> =>
  (await ask("v1/play", json({ seed, rounds }))).json() as Promise<Game>;

export const roundPhoto = async (game: string, round: number): Promise<Blob> =>
  (await ask(`v1/play/${encodeURIComponent(game)}/${round}/photo`)).blob();

export const guess = async (game: string, round: number, { lat, lon }: Place): Promise<Guessed> =>
  (await ask(`v1/play/${encodeURIComponent(game)}/${round}/guess`, json({ lat, lon }))).json() as Promise<Guessed>;

export const testPhoto = async (number: number): Promise<Blob> => (await ask(`v1/test/${number}/photo`)).blob();

export const tested = async (number: number, model: string, signal: AbortSignal): Promise<Tested> =>
  (await ask(`v1/test/${number}`, { ...json({ model }), signal })).json() as Promise<Tested>;
