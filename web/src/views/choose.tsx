/** The way in for photos: choose them; dropping and pasting work anywhere on the page. */

import { useEffect, useRef, useState } from "preact/hooks";
import { add, clear } from "../photos";

const ACCEPT = "image/jpeg,image/png,image/webp,image/heic,image/heif,image/avif,.heic,.heif,.avif";

export function Choose({ few }: { few: boolean }) {
  const input = useRef<HTMLInputElement>(null);
  const [problem, setProblem] = useState("");
  const [over, setOver] = useState(false);
  const take = (files: Iterable<File> | null | undefined) => {
    const found = [...(files ?? [])];
    if (found.length) setProblem(add(found) ? "" : "No photo among these; JPEG, PNG, WebP, HEIC and AVIF are read.");
  };
  useEffect(() => {
    const drag = (event: DragEvent) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      setOver(event.type === "dragover");
      if (event.type === "drop") take(event.dataTransfer.files);
    };
    const leave = (event: DragEvent) => !event.relatedTarget && setOver(false);
    const paste = (event: ClipboardEvent) => take(event.clipboardData?.files);
    addEventListener("dragover", drag);
    addEventListener("drop", drag);
    addEventListener("dragleave", leave);
    addEventListener("paste", paste);
    return () => {
      removeEventListener("dragover", drag);
      removeEventListener("drop", drag);
      removeEventListener("dragleave", leave);
      removeEventListener("paste", paste);
    };
  }, []);
  return (
    <div class={`choose${over ? " over" : ""}${few ? " few" : ""}`}>
      <button type="button" class="main" onClick={() => input.current?.click()}>
        {few ? "Add photos" : "Choose photos"}
      </button>
      <span>{over ? "Let go to ask" : few ? "or drop, paste" : "or drop them anywhere, or paste one"}</span>
      {few && (
        <button type="button" class="small quiet" onClick={clear}>
          Start over
        </button>
      )}
      <input
        ref={input}
        type="file"
        multiple
        hidden
        accept={ACCEPT}
        aria-label="Photos"
        onChange={(event) => {
          take(event.currentTarget.files);
          event.currentTarget.value = "";
        }}
      />
      <p role="status">{problem}</p>
    </div>
  );
}
