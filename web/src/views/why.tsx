/** "Why here?": which parts of a photo the answer depends on, and what it would be without one of them. */

import { useEffect, useRef, useState } from "preact/hooks";
import { explain } from "../api";
import { sentence } from "../photos";
import type { Explained, Fix } from "../types";
import { distanceKm, errorInWords, km, position } from "../words";
import type { Box } from "./stage";
import { Stage } from "./stage";

const METHODS = {
  saliency: "saliency: quick",
  occlusion: "occlusion: clearer",
};

interface Props {
  photo: Blob;
  url: string;
  name: string;
  fix: Fix;
  model: string;
  /** Told where the answer moves when a part of the photo is hidden. */
  onMoved?: (fix: Fix | undefined) => void;
}

export function Why({ photo, url, name, fix, model, onMoved }: Props) {
  const [method, setMethod] = useState<keyof typeof METHODS>("saliency");
  const [heat, setHeat] = useState<Pick<Explained, "heatmap_png" | "scores">>();
  const [seen, setSeen] = useState(true);
  const [box, setBox] = useState<Box>();
  const [moved, setMoved] = useState<Fix>();
  const [share, setShare] = useState<number>();
  const [problem, setProblem] = useState("");
  const running = useRef<AbortController>(undefined);

  const reset = () => {
    running.current?.abort();
    setShare(undefined);
    setProblem("");
  };
  useEffect(() => {
    setHeat(undefined);
    setBox(undefined);
    setMoved(undefined);
    onMoved?.(undefined);
    return reset;
  }, [photo, model]);

  const run = async (hide?: Box) => {
    reset();
    const control = new AbortController();
    running.current = control;
    setShare(0);
    try {
      const sketch = (heatmap_png: string) => setHeat({ heatmap_png, scores: { signed: true } });
      const said = await explain(photo, { method: hide ? undefined : method, hide, model, progress: setShare, sketch, signal: control.signal });
      if (hide) {
        setMoved(said.fix);
        onMoved?.(said.fix);
      } else setHeat(said);
    } catch (error) {
      if (!control.signal.aborted) setProblem(sentence(error));
    }
    if (running.current === control) setShare(undefined);
  };

  const hide = (next: Box | undefined) => {
    setBox(next);
    if (next) return void run(next);
    reset();
    setMoved(undefined);
    onMoved?.(undefined);
  };

  return (
    <section class="why" aria-labelledby="why-title">
      <Stage url={url} name={name} heat={seen ? (heat?.heatmap_png ?? undefined) : undefined} box={box} onBox={hide} />
      <h3 id="why-title">Why here?</h3>
      <div class="row">
        <label>
          Method
          <select value={method} onChange={(event) => setMethod(event.currentTarget.value as keyof typeof METHODS)}>
            {Object.entries(METHODS).map(([key, words]) => (
              <option key={key} value={key}>
                {words}
              </option>
            ))}
          </select>
        </label>
        <button type="button" disabled={share !== undefined} onClick={() => void run()}>
          Show what it depends on
        </button>
      </div>
      <div class="says" role="status">
        {share !== undefined && (
          <>
            <progress max={1} value={share || undefined} aria-label="Explaining" />
            <button type="button" class="small" onClick={reset}>
              Stop
            </button>
          </>
        )}
        {problem}
        {share === undefined && !problem && moved && (
          <span>
            Without this part the answer moves {km(distanceKm(fix, moved))}, to{" "}
            {moved.near ? `near ${moved.near}` : position(moved)}. {errorInWords(moved)}
          </span>
        )}
        {share === undefined && !problem && !moved && <span class="soft">Drag a box over the photo to hide a part and watch the answer move.</span>}
      </div>
      <div class="row">
        {heat && (
          <label class="check">
            <input type="checkbox" checked={seen} onChange={(event) => setSeen(event.currentTarget.checked)} />
            Heatmap: the answer depends on what is orange{heat.scores?.signed ? "; blue speaks against it" : ""}
          </label>
        )}
        {box && (
          <button type="button" class="small" onClick={() => hide(undefined)}>
            Show the whole photo
          </button>
        )}
      </div>
    </section>
  );
}
