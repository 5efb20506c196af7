declare module "virtual:map-worker" {
  /** The code of the map's worker, as text. */
  const source: string;
  export default source;
}
