/** Many photos: filters, an order, one answer each or one for all, and files to take away. */

import { useEffect, useState } from "preact/hooks";
import type { Answered, Filter } from "../answered";
import { ALL, filtered } from "../answered";
import type { Album } from "../photos";
import { answered, join, remove, select } from "../photos";
import { Filters, SaveAs } from "./filters";
import { brief } from "../words";

interface Props {
  album: Album;
  onShown: (photos: Answered[]) => void;
}

export function PhotoList({ album, onShown }: Props) {
  const [filter, setFilter] = useState<Filter>(ALL);
  const all = album.photos.map((photo) => answered(photo, album.model));
  const shown = filtered(all, filter);
  const urls = new Map(album.photos.map(({ id, url }) => [id, url]));
  const done = all.filter(({ fix, error }) => fix || error).length;
  useEffect(() => onShown(shown), [album, filter]);
  return (
    <section class="list" aria-labelledby="list-title">
      <h2 id="list-title" class="minor" aria-live="polite">
        {done < all.length ? `${done} of ${all.length} photos answered` : `${all.length} photos`}
        {shown.length < all.length ? `, ${shown.length} shown` : ""}
      </h2>
      <label class="check">
        <input type="checkbox" checked={album.together} onChange={(event) => join(event.currentTarget.checked)} />
        They show one place: answer them together
      </label>
      <Filters filter={filter} onFilter={setFilter} />
      <ul class="photos">
        {shown.map((photo) => (
          <li key={photo.id}>
            <button type="button" class="photo" aria-current={photo.id === album.selected ? "true" : undefined} onClick={() => select(photo.id)}>
              <img src={urls.get(photo.id)} alt="" loading="lazy" />
              <span class="photo-name">{photo.file.name}</span>
              <span class="photo-says">{photo.error ?? brief(photo.fix)}</span>
            </button>
            <button type="button" class="small remove" aria-label={`Remove ${photo.file.name}`} onClick={() => remove(photo.id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
      <SaveAs photos={shown} disabled={!done} />
    </section>
  );
}
