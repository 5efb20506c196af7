/** One map for all views: borders from the package, a scene on top, a street map only where somebody asks for it. */

import "maplibre-gl/dist/maplibre-gl.css";
import "./map.css";

import type { Feature, FeatureCollection, GeoJSON } from "geojson";
import type { GeoJSONSource, SourceSpecification } from "maplibre-gl";
import { AttributionControl, Map as MapLibre, Marker, NavigationControl, ScaleControl } from "maplibre-gl";
import type { Place } from "../types";
import type { Atlas } from "./borders";
import type { Bounds } from "./graticule";
import { graticule } from "./graticule";
import type { SourceName, Theme } from "./layers";
import { layers, SOURCES } from "./layers";
import { pin } from "./pins";
import type { Scene } from "./scene";
import { ring, shaded } from "./scene";
import type { Streets } from "./streets";
import { addStreets, removeStreets } from "./streets";

const EMPTY: FeatureCollection = { type: "FeatureCollection", features: [] };
const CLOSE = 5; // zoom from which coarse borders look wrong
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class PlaceMap {
  private readonly map: MapLibre;
  readonly ready: Promise<void>;
  private pins: Marker[] = [];
  private scene: Scene = {};
  /** Whether coarse borders stand where fine ones could. */
  private coarse = false;
  private streets: Streets = { kind: "none" };
  /** One street map after the other, however fast somebody changes their mind. */
  private laid: Promise<void> = Promise.resolve();

  /**
   * @param click - a place was clicked
   * @param dot - a dot was clicked, by its id
   * @param first - what is drawn first, so that nobody sees the whole world before it
   * @throws Error where the browser draws no WebGL
   */
  constructor(
    container: HTMLElement,
    private theme: Theme,
    private readonly atlas: Atlas,
    click: (place: Place) => void,
    dot: (id: number) => void,
    first: Scene,
  ) {
    this.scene = { fit: first.fit };
    const drawn: Partial<Record<SourceName, GeoJSON>> = { dots: dotsOf(first), lines: linesOf(first) };
    const sources = SOURCES.map((name): [string, SourceSpecification] => [name, { type: "geojson", data: drawn[name] ?? EMPTY }]);
    const view = first.fit ? { bounds: corners(first.fit), fitBoundsOptions: { padding: padded(container), maxZoom: 17 } } : { center: WORLD, zoom: 0.8 };
    this.map = new MapLibre({
      container,
      style: { version: 8, sources: Object.fromEntries(sources), layers: layers(theme) },
      ...view,
      maxZoom: 19,
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      fadeDuration: 0,
      // Servers of tiles want to know which page asks; no more than its origin is told, and only if they are switched on.
      transformRequest: (url) => (url.startsWith("http") && !url.startsWith(location.origin) ? { url, referrerPolicy: "origin" } : { url }),
    });
    this.map.touchZoomRotate.disableRotation();
    this.map.keyboard.disableRotation();
    this.map.addControl(new NavigationControl({ showCompass: false }), "top-right");
    this.map.addControl(new ScaleControl({ maxWidth: 110 }), "bottom-left");
    this.map.addControl(new AttributionControl({ compact: true, customAttribution: "Borders: Natural Earth, US Census" }));
    this.ready = new Promise((done) => this.map.once("load", () => done()));
    // For tests and pictures: whether all is drawn.
    this.map.on("idle", () => (container.dataset["still"] = "true"));
    this.map.on("dataloading", () => delete container.dataset["still"]);
    this.map.on("moveend", () => {
      this.drawGraticule();
      if (this.map.getZoom() > CLOSE) void this.refine();
    });
    this.map.on("click", (event) => {
      const found = this.map.getLayer("dots") ? this.map.queryRenderedFeatures(event.point, { layers: ["dots"] }) : [];
      const id = found[0]?.properties["id"] as number | undefined;
      if (id !== undefined) return dot(id);
      const { lat, lng } = event.lngLat.wrap();
      click({ lat, lon: lng });
    });
    void this.ready.then(async () => {
      this.drawGraticule();
      const lines = await atlas.coarse();
      for (const [name, data] of Object.entries(lines)) this.set(name as SourceName, data as GeoJSON);
      this.coarse = true;
      container.dataset["ready"] = "true"; // for tests: all that is drawn first is there
      if (this.map.getZoom() > CLOSE) await this.refine();
    });
  }

  private set(name: SourceName, data: GeoJSON): void {
    this.map.getSource<GeoJSONSource>(name)?.setData(data);
  }

  private async refine(): Promise<void> {
    if (!this.coarse || !this.atlas.fine) return;
    this.coarse = false;
    for (const [name, data] of Object.entries(await this.atlas.fine())) this.set(name as SourceName, data as GeoJSON);
  }

  private drawGraticule(): void {
    const box = this.map.getBounds();
    const at = { west: box.getWest(), south: box.getSouth(), east: box.getEast(), north: box.getNorth() };
    this.set("graticule", graticule(at));
  }

  /** Where the middle of the map is: the pointer of those who use a keyboard. */
  center(): Place {
    const { lat, lng } = this.map.getCenter().wrap();
    return { lat, lon: lng };
  }

  async show(scene: Scene): Promise<void> {
    const before = this.scene;
    this.scene = scene;
    await this.ready;
    if (this.scene !== scene) return; // a newer one came meanwhile
    if (scene.density !== before.density) this.set("density", scene.density ? shaded(scene.density) : EMPTY);
    if (scene.regions !== before.regions) this.set("regions", scene.regions ?? EMPTY);
    this.set("lines", linesOf(scene));
    this.set("dots", dotsOf(scene));
    this.set("known", collection((scene.known ?? []).map((place) => point(place, {}))));
    const around = scene.circle && ring(scene.circle);
    this.set("circle", collection(around ? [{ type: "Feature", geometry: { type: "LineString", coordinates: around }, properties: {} }] : []));
    for (const old of this.pins) old.remove();
    this.pins = (scene.pins ?? []).map(({ kind, label, lat, lon }) =>
      new Marker({ element: pin(kind, label) }).setLngLat([lon, lat]).addTo(this.map),
    );
    if (scene.fit && scene.fit !== before.fit) this.look(scene.fit);
  }

  look(bounds: Bounds): void {
    this.map.fitBounds(corners(bounds), { padding: padded(this.map.getContainer()), maxZoom: 17, duration: STILL.matches ? 0 : 600 });
  }

  async paint(theme: Theme): Promise<void> {
    if (theme === this.theme) return;
    this.theme = theme;
    await this.ready;
    for (const layer of layers(theme)) {
      for (const [name, value] of Object.entries(layer.paint ?? {})) this.map.setPaintProperty(layer.id, name as never, value as never);
    }
    await this.over(this.streets);
  }

  /** Puts a street map under the belief, or takes it away. */
  async over(streets: Streets): Promise<void> {
    this.streets = streets;
    const laid = this.laid.then(async () => {
      await this.ready;
      removeStreets(this.map);
      await addStreets(this.map, streets, this.theme);
    });
    this.laid = laid.catch(() => undefined);
    await laid;
  }

  resize(): void {
    this.map.resize();
  }

  remove(): void {
    this.map.remove();
  }
}

const WORLD: [number, number] = [0, 25];

const corners = ({ west, south, east, north }: Bounds): [[number, number], [number, number]] => [[west, south], [east, north]];

const padded = ({ clientWidth, clientHeight }: HTMLElement): number => Math.round(Math.min(clientWidth, clientHeight) * 0.12);

const linesOf = (scene: Scene): FeatureCollection => collection((scene.lines ?? []).map(([a, b]) => line([a, b])));

const dotsOf = (scene: Scene): FeatureCollection =>
  collection((scene.dots ?? []).map(({ lat, lon, ...properties }) => point({ lat, lon }, properties)));

const collection = (features: Feature[]): FeatureCollection => ({ type: "FeatureCollection", features });

const point = ({ lat, lon }: Place, properties: Record<string, unknown>): Feature => ({
  type: "Feature",
  geometry: { type: "Point", coordinates: [lon, lat] },
  properties,
});

const line = (places: Place[]): Feature => ({
  type: "Feature",
  geometry: { type: "LineString", coordinates: places.map(({ lat, lon }) => [lon, lat]) },
  properties: {},
});
