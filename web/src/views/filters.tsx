/** Which photos of a list are shown, in which order, and files of them to take away. */

import "./parts.css";

import type { Answered, Filter, Kind } from "../answered";
import { KINDS } from "../answered";
import { download, FORMATS } from "../export";

export function Filters({ filter, onFilter }: { filter: Filter; onFilter: (filter: Filter) => void }) {
  const change = (part: Partial<Filter>) => onFilter({ ...filter, ...part });
  return (
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
  );
}

export function SaveAs({ photos, disabled = false }: { photos: Answered[]; disabled?: boolean }) {
  return (
    <div class="row">
      <span>Save as</span>
      {FORMATS.map((format) => (
        <button type="button" key={format} class="small" disabled={disabled} onClick={() => download(photos, format)}>
          {{ csv: "CSV", geojson: "GeoJSON", kml: "KML" }[format]}
        </button>
      ))}
    </div>
  );
}
