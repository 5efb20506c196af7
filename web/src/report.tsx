/** Photos of an evaluation, an audit or a question on a map, inside its page: opened from disk, with no server. */

import "./report.css";

import { setWorkerUrl } from "maplibre-gl";
import { render } from "preact";
import us from "us-atlas/states-10m.json";
import workerSource from "virtual:map-worker";
import world from "world-atlas/countries-110m.json";
import type { States, World } from "./map/borders";
import { bordersOf } from "./map/borders";
import { AnswersView } from "./views/answers";
import type { Answers } from "./views/answers";
import { Browse } from "./views/browse";
import type { Evaluation } from "./views/browse";
import type { Audit } from "./views/sides";
import { Sides } from "./views/sides";

setWorkerUrl(URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" })));

const atlas = { coarse: async () => bordersOf(world as unknown as World, us as unknown as States) };
const data = JSON.parse(document.getElementById("browse-data")!.textContent) as Evaluation | Audit | Answers;

function view() {
  if ("pairs" in data) return <Sides audit={data} atlas={atlas} />;
  if ("answers" in data) return <AnswersView file={data} atlas={atlas} />;
  return <Browse evaluation={data} atlas={atlas} />;
}

render(view(), document.getElementById("browse")!);
