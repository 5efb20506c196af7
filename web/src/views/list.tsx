/** Many photos: filters, an order, one answer each or one for all, and files to take away. */

import { useEffect, useState } from "preact/hooks";
import { download, FORMATS } from "../export";
import type { Album, Answered, Filter, Kind } from "../photos";
import { answered, filtered, join, KINDS, remove, select } from "../photos";
import { isUnlike, km } from "../words";

interface Props {
  album: Album;
  onShown: (photos: Answered[]) => void;
}

export function PhotoList({ album, onShown }: Props) {
  const [filter, setFilter] = useState<Filter>({ text: "", kind: "all", sort: "order" });
  const change = (part: Partial<Filter>) => setFilter((now) => ({ ...now, ...part }));
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
      <div class="row filters">
        <label>
          Search
          <input type="search" value={filter.text} placeholder="name or place" onInput={(event) => change({ text: event.currentTarget.value })} />
        </label>
        <label>
          Show
          <select value={filter.kind} onChange={(event) => change({ kind: event.currentTarget.value as Kind })}>
            {Object.entries(KINDS).map(([kind, { name }]) => (
              <option key={kind} value={kind}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          Order
          <select value={filter.sort} onChange={(event) => change({ sort: event.currentTarget.value as Filter["sort"] })}>
            <option value="order">as added</option>
            <option value="sure">surest first</option>
            <option value="exif">farthest from their EXIF first</option>
          </select>
        </label>
      </div>
      <ul class="photos">
        {shown.map((photo) => (
          <li key={photo.id}>
            <button type="button" class="photo" aria-current={photo.id === album.selected ? "true" : undefined} onClick={() => select(photo.id)}>
              <img src={urls.get(photo.id)} alt="" loading="lazy" />
              <span class="photo-name">{photo.file.name}</span>
              <span class="photo-says">{brief(photo)}</span>
            </button>
            <button type="button" class="small remove" aria-label={`Remove ${photo.file.name}`} onClick={() => remove(photo.id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
      <div class="row">
        <span>Save as</span>
        {FORMATS.map((format) => (
          <button type="button" key={format} class="small" disabled={!done} onClick={() => download(shown, format)}>
            {{ csv: "CSV", geojson: "GeoJSON", kml: "KML" }[format]}
          </button>
        ))}
      </div>
    </section>
  );
}

function brief({ fix, error }: Answered): string {
  if (error) return error;
  if (!fix) return "asking…";
  if (fix.cannot_tell) return "cannot tell";
  const off = isUnlike(fix) ? "unlike the training photos" : km(fix.median_error_km ?? fix.expected_error_km);
  return [fix.near ? `near ${fix.near}` : undefined, off].filter(Boolean).join(" · ");
}
