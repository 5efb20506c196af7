import { readdirSync, readFileSync } from "node:fs";
import { defineConfig } from "vite";

// The map of reports: one script and one style, which Python puts inside the page; it opens from disk, so even the map's worker is text
// in it. The page is built before, and with it that worker.
const built = "../graticule/serving/page/assets/";
const worker = () => readFileSync(built + readdirSync(built).find((name) => name.startsWith("maplibre-gl-worker")), "utf-8");

export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  plugins: [
    {
      name: "map-worker",
      resolveId: (id) => (id === "virtual:map-worker" ? `\0${id}` : undefined),
      load: (id) => (id === "\0virtual:map-worker" ? `export default ${JSON.stringify(worker())};` : undefined),
    },
  ],
  define: { "process.env.NODE_ENV": JSON.stringify("production") },
  build: {
    rolldownOptions: { checks: { pluginTimings: false } },
    outDir: "../graticule/serving/page/report",
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 4000,
    lib: { entry: "src/report.tsx", formats: ["es"], fileName: () => "report.js", cssFileName: "report" },
  },
});
