/** Photos with their answers as lists and files have them, and how a list is filtered. */

import type { Fix } from "./types";
import { isUnlike } from "./words";

export interface Answered {
  id: number;
  file: { name: string };
  fix?: Fix | undefined;
  error?: string | undefined;
}

export type Kind = "all" | "answered" | "cannot" | "unlike" | "exif" | "failed";

export const KINDS: Record<Kind, { name: string; holds: (photo: Answered) => boolean }> = {
  all: { name: "all", holds: () => true },
  answered: { name: "answered", holds: ({ fix }) => !!fix && !fix.cannot_tell && !isUnlike(fix) },
  cannot: { name: "cannot tell", holds: ({ fix }) => !!fix?.cannot_tell },
  unlike: { name: "unlike the training photos", holds: ({ fix }) => !!fix && isUnlike(fix) },
  exif: { name: "with a position of their own", holds: ({ fix }) => !!fix?.exif },
  failed: { name: "not readable", holds: ({ error }) => !!error },
};

export interface Filter {
  text: string;
  kind: Kind;
  sort: "order" | "sure" | "exif";
}

export const ALL: Filter = { text: "", kind: "all", sort: "order" };

export function filtered<Photo extends Answered>(photos: Photo[], { text, kind, sort }: Filter): Photo[] {
  const wanted = text.trim().toLowerCase();
  const found = photos.filter((photo) => {
    const said = [photo.file.name, photo.fix?.near ?? "", ...(photo.fix?.places.map(({ name }) => name) ?? [])];
    return (
      KINDS[kind].holds(photo) &&
      (!wanted || said.some((name) => name.toLowerCase().includes(wanted)))
    );
  });
  const rank = (photo: Answered) =>
    sort === "sure" ? (photo.fix?.median_error_km ?? Infinity) : -(photo.fix?.exif?.distance_km ?? -1);
  return sort === "order" ? found : found.sort((a, b) => rank(a) - rank(b));
}
