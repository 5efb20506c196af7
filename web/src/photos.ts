/** The photos of this visit and what was answered; they live in this page alone and are gone when it closes. */

import type { Answered } from "./answered";
import { locate, locateOne, ServiceError } from "./api";
import { Store } from "./store";
import type { Fix } from "./types";

export interface Photo {
  id: number;
  file: File;
  /** Of the photo, for the browser to draw. */
  url: string;
  /** By model. */
  fixes: Record<string, Fix>;
  errors: Record<string, string>;
}

export interface Album {
  photos: Photo[];
  selected: number | undefined;
  model: string;
  /** Whether the photos show one place, and the answer to all of them where it came. */
  together: boolean;
  /** A second model that is asked too. */
  other?: string | undefined;
  /** Of which half of such photos may lie farther off before there is no answer; undefined: however far. */
  maxErrorKm?: number | undefined;
  joint?: { fix?: Fix | undefined; error?: string | undefined } | undefined;
}

export const album = new Store<Album>({ photos: [], selected: undefined, model: "", together: false });

const AT_ONCE = 3; // questions under way; the service batches them
const PICTURE = /\.(jpe?g|png|webp|hei[cf]|avif)$/i;

let nextId = 1;
const asking = new Set<string>();

export const isPhoto = (file: File): boolean => file.type.startsWith("image/") || PICTURE.test(file.name);

export function answered(photo: Photo, model: string): Answered {
  return { id: photo.id, file: photo.file, fix: photo.fixes[model], error: photo.errors[model] };
}

export function add(files: File[]): number {
  const photos = files.filter(isPhoto).map((file) => ({
    id: nextId++,
    file,
    url: URL.createObjectURL(file),
    fixes: {},
    errors: {},
  }));
  const first = photos[0];
  if (!first) return 0;
  album.set((now) => ({ ...now, photos: [...now.photos, ...photos], selected: first.id, joint: undefined }));
  work();
  return photos.length;
}

export function select(id: number | undefined): void {
  album.set((now) => ({ ...now, selected: id }));
  work();
}

export function remove(id: number): void {
  const gone = album.get().photos.find((photo) => photo.id === id);
  if (gone) URL.revokeObjectURL(gone.url);
  album.set((now) => {
    const photos = now.photos.filter((photo) => photo.id !== id);
    const selected = now.selected === id ? photos[0]?.id : now.selected;
    return { ...now, photos, selected, joint: undefined };
  });
  work();
}

export function clear(): void {
  for (const { url } of album.get().photos) URL.revokeObjectURL(url);
  album.set((now) => ({ ...now, photos: [], selected: undefined, joint: undefined }));
}

export function choose(model: string): void {
  album.set((now) => ({ ...now, model, joint: undefined }));
  work();
}

/** Answers less sure than this are no answers; all are asked for anew. */
export function limit(maxErrorKm: number | undefined): void {
  album.set((now) => ({
    ...now,
    maxErrorKm,
    joint: undefined,
    photos: now.photos.map((photo) => ({ ...photo, fixes: {}, errors: {} })),
  }));
  work();
}

/** Lets a second model answer as well; undefined ends that. */
export function compare(other: string | undefined): void {
  album.set((now) => ({ ...now, other }));
  work();
}

export function join(together: boolean): void {
  album.set((now) => ({ ...now, together, joint: undefined }));
  work();
}

/** Asks what is not answered yet: first the selected photo with all that its map shows, then the others in their order. */
export function work(): void {
  const { photos, selected, together, joint, model, other } = album.get();
  const models = other && other !== model ? [model, other] : [model];
  if (together && photos.length > 1 && !joint) void askTogether();
  const current = photos.find(({ id }) => id === selected);
  const order = current ? [current, ...photos.filter((photo) => photo !== current)] : photos;
  for (const photo of order) {
    for (const asked of models) {
      const map = photo === current;
      const fix = photo.fixes[asked];
      if (photo.errors[asked] || (fix && (!map || fix.density !== undefined))) continue;
      const key = `${photo.id} ${asked}`;
      if (asking.has(key)) continue;
      if (asking.size >= AT_ONCE && !map) return; // whoever looks at a photo does not wait for a list
      asking.add(key);
      void ask(photo, asked, map).finally(() => {
        asking.delete(key);
        work();
      });
    }
  }
}

async function ask(photo: Photo, model: string, map: boolean): Promise<void> {
  const { maxErrorKm } = album.get();
  const stale = () => album.get().maxErrorKm !== maxErrorKm; // asked for anew meanwhile
  try {
    const fix = await locateOne(photo.file, { model, map, maxErrorKm });
    if (stale()) return;
    // What was asked for and not given is not asked for again.
    change(photo.id, (old) => ({ fixes: { ...old.fixes, [model]: map ? { ...fix, density: fix.density ?? null } : bare(fix) } }));
  } catch (error) {
    if (stale()) return;
    change(photo.id, (old) => ({ errors: { ...old.errors, [model]: sentence(error) } }));
  }
}

function bare(fix: Fix): Fix {
  const { density: _density, regions: _regions, ...rest } = fix;
  return rest;
}

async function askTogether(): Promise<void> {
  const { photos, model, maxErrorKm } = album.get();
  const ids = photos.map(({ id }) => id).join();
  const key = `together ${ids} ${model} ${maxErrorKm}`;
  if (asking.has(key)) return;
  asking.add(key);
  let joint: Album["joint"];
  try {
    const files = photos.map(({ file }) => file);
    const found = await locate(files, { model, map: true, together: true, maxErrorKm });
    const fix = found.find((one): one is Fix => !("error" in one));
    joint = fix ? { fix } : { error: "None of these photos can be read." };
  } catch (error) {
    joint = { error: sentence(error) };
  } finally {
    asking.delete(key);
  }
  album.set((now) => (now.together && now.model === model && now.maxErrorKm === maxErrorKm && now.photos.map(({ id }) => id).join() === ids ? { ...now, joint } : now));
}

function change(id: number, update: (photo: Photo) => Partial<Photo>): void {
  album.set((now) => ({
    ...now,
    photos: now.photos.map((photo) => (photo.id === id ? { ...photo, ...update(photo) } : photo)),
  }));
}

export function sentence(error: unknown): string {
  if (error instanceof ServiceError) return error.message;
  return `This page failed: ${error instanceof Error ? error.message : String(error)}`;
}
