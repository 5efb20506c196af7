/** Name, views, model, streets, light and dark. */

import { useRef } from "preact/hooks";
import type { Theme } from "../map/layers";
import type { Streets } from "../map/streets";
import type { Model } from "../types";

export type Tab = "locate" | "play" | "compare";

const TABS: Record<Tab, string> = { locate: "Locate", play: "Play", compare: "Compare" };

interface Props {
  models: Model[];
  model: string;
  onModel: (id: string) => void;
  tab: Tab;
  onTab: (tab: Tab) => void;
  theme: Theme;
  onTheme: (theme: Theme) => void;
  streets: Streets;
  onStreets: (streets: Streets) => void;
  /** Tiles from the network, where the server allows them. */
  tiles: string | null;
}

export function Header({ models, model, onModel, tab, onTab, theme, onTheme, streets, onStreets, tiles }: Props) {
  const file = useRef<HTMLInputElement>(null);
  const names = Object.keys(TABS) as Tab[];
  const turn = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(tab) + step + names.length) % names.length]!;
    onTab(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <header class="head">
      <h1>Graticule</h1>
      <div class="tabs" role="tablist" aria-label="Views" onKeyDown={turn}>
        {names.map((name) => (
          <button
            type="button"
            key={name}
            role="tab"
            id={`tab-${name}`}
            aria-selected={tab === name}
            {...(tab === name ? { "aria-controls": `view-${name}` } : {})}
            tabIndex={tab === name ? 0 : -1}
            onClick={() => onTab(name)}
          >
            {TABS[name]}
          </button>
        ))}
      </div>
      <div class="options">
        {models.length > 1 && (
          <label>
            <span>Model</span>
            <select value={model} onChange={(event) => onModel(event.currentTarget.value)}>
              {models.map(({ id, name }) => (
                <option key={id} value={id}>
                  {name}
                </option>
              ))}
            </select>
          </label>
        )}
        <label>
          <span>Streets</span>
          <select
            value={streets.kind}
            onChange={(event) => {
              const kind = event.currentTarget.value;
              if (kind === "file") {
                event.currentTarget.value = streets.kind; // until a file is there
                file.current?.click();
              } else onStreets(kind === "online" && tiles ? { kind, tiles } : { kind: "none" });
            }}
          >
            <option value="none">none</option>
            {tiles && <option value="online">online, {new URL(tiles).hostname}</option>}
            <option value="file">{streets.kind === "file" ? streets.file.name : "a PMTiles file…"}</option>
          </select>
        </label>
        <input
          ref={file}
          type="file"
          hidden
          accept=".pmtiles"
          aria-label="PMTiles file"
          onChange={(event) => {
            const chosen = event.currentTarget.files?.[0];
            if (chosen) onStreets({ kind: "file", file: chosen });
            event.currentTarget.value = "";
          }}
        />
        <button type="button" class="small theme" onClick={() => onTheme(theme === "dark" ? "light" : "dark")}>
          {theme === "dark" ? "Light" : "Dark"}
        </button>
      </div>
    </header>
  );
}
