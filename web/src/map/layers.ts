/** What is drawn, from bottom to top, in light and dark. Lightness alone orders the density, for those who see few hues. */

import type { LayerSpecification } from "maplibre-gl";

export type Theme = "light" | "dark";

interface Palette {
  water: string;
  land: string;
  border: string;
  faint: string;
  grid: string;
  text: string;
  halo: string;
  region: string;
  /** From where little is believed to where most is. */
  density: [string, string, string, string, string];
}

export const PALETTES: Record<Theme, Palette> = {
  light: {
    water: "#dbe7ee",
    land: "#f7f5ef",
    border: "#8b8f98",
    faint: "#b9bcc4",
    grid: "#a9bccb",
    text: "#4a4f5a",
    halo: "#ffffff",
    region: "#1c1c22",
    density: ["#cfe6c8", "#7fcdbb", "#2f9ec4", "#225ea8", "#0c2358"],
  },
  dark: {
    water: "#11161d",
    land: "#20242c",
    border: "#737a87",
    faint: "#454b57",
    grid: "#313b48",
    text: "#aab1bd",
    halo: "#11161d",
    region: "#f4f4f8",
    density: ["#1f3f63", "#23688f", "#2fa1a0", "#9bd67a", "#fbf7a0"],
  },
};

const FONT = ["system-ui", "sans-serif"];

export const SOURCES = [
  "land", "countries", "states", "counties", "names", "graticule", "density", "regions", "lines", "circle", "dots",
] as const;
export type SourceName = (typeof SOURCES)[number];

export function layers(theme: Theme): LayerSpecification[] {
  const { water, land, border, faint, grid, text, halo, region, density } = PALETTES[theme];
  const [d0, d1, d2, d3, d4] = density;
  return [
    { id: "water", type: "background", paint: { "background-color": water } },
    { id: "land", type: "fill", source: "land", paint: { "fill-color": land } },
    { id: "counties", type: "line", source: "counties", minzoom: 5, paint: { "line-color": faint, "line-width": 0.5 } },
    { id: "states", type: "line", source: "states", minzoom: 2.5, paint: { "line-color": faint, "line-width": 1 } },
    { id: "graticule", type: "line", source: "graticule", paint: { "line-color": grid, "line-width": 0.7 } },
    {
      id: "density",
      type: "fill",
      source: "density",
      paint: {
        "fill-antialias": false,
        "fill-color": ["interpolate", ["linear"], ["get", "shade"], 0, d0, 0.25, d1, 0.5, d2, 0.75, d3, 1, d4],
        "fill-opacity": ["interpolate", ["linear"], ["get", "shade"], 0, 0, 0.15, 0.45, 0.6, 0.75, 1, 0.85],
      },
    },
    { id: "countries", type: "line", source: "countries", paint: { "line-color": border, "line-width": 1 } },
    {
      id: "region-90",
      type: "line",
      source: "regions",
      filter: [">", ["get", "coverage"], 0.5],
      paint: { "line-color": region, "line-width": 1.4, "line-dasharray": [2.5, 1.8] },
    },
    {
      id: "region-50",
      type: "line",
      source: "regions",
      filter: ["<=", ["get", "coverage"], 0.5],
      paint: { "line-color": region, "line-width": 2 },
    },
    { id: "circle", type: "line", source: "circle", paint: { "line-color": "#a3337a", "line-width": 2 } },
    { id: "lines", type: "line", source: "lines", paint: { "line-color": region, "line-width": 1.5, "line-dasharray": [1, 1.5] } },
    {
      id: "dots",
      type: "circle",
      source: "dots",
      paint: { "circle-radius": 5, "circle-color": "#d55e00", "circle-stroke-color": "#ffffff", "circle-stroke-width": 1.5 },
    },
    {
      id: "names",
      type: "symbol",
      source: "names",
      maxzoom: 7,
      layout: {
        "text-field": ["get", "name"],
        "text-font": FONT,
        "text-size": 12,
        "text-max-width": 7,
        "symbol-sort-key": ["-", 0, ["get", "area"]],
        "text-padding": 6,
      },
      paint: { "text-color": text, "text-halo-color": halo, "text-halo-width": 1.2 },
    },
    {
      id: "graticule-names",
      type: "symbol",
      source: "graticule",
      filter: ["==", ["geometry-type"], "Point"],
      layout: {
        "text-field": ["get", "label"],
        "text-font": FONT,
        "text-size": 10,
        "text-anchor": "bottom-left",
        "text-offset": [0.3, -0.1],
        "text-padding": 0,
      },
      paint: { "text-color": text, "text-halo-color": halo, "text-halo-width": 1 },
    },
  ];
}
