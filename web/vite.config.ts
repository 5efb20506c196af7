import { defineConfig } from "vite";

// Everything is served from the package: relative addresses, so that a reverse proxy may put the page under a path, and no
// file is inlined as data, so that a strict content security policy holds.
export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    rolldownOptions: { checks: { pluginTimings: false } }, // how long plugins take is nobody's business who installs
    outDir: "../graticule/serving/page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 2000,
    target: "es2022",
  },
  worker: { format: "es" },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
});
