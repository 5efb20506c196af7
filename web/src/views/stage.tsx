/** A photo with what depends on it: a heatmap over it, and a box that hides a part of it. */

import "./parts.css";

import { useEffect, useRef, useState } from "preact/hooks";

/** x0, y0, x1, y1 in shares of the photo. */
export type Box = [number, number, number, number];

interface Props {
  url: string;
  name: string;
  heat?: string | undefined;
  box?: Box | undefined;
  /** Told when a box was drawn; without it none can be drawn. */
  onBox?: ((box: Box | undefined) => void) | undefined;
}

const LEAST = 0.02; // of a side; what is smaller was a click
const STEP = 0.05;
const inside = (share: number) => Math.min(1, Math.max(0, share));

export function Stage({ url, name, heat, box, onBox }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const [broken, setBroken] = useState(false);
  const [ratio, setRatio] = useState<number>();
  const [drag, setDrag] = useState<{ x: number; y: number }>();
  const [drawn, setDrawn] = useState<Box>();
  useEffect(() => setBroken(false), [url]);
  const at = (event: PointerEvent) => {
    const { left, top, width, height } = frame.current!.getBoundingClientRect();
    return { x: inside((event.clientX - left) / width), y: inside((event.clientY - top) / height) };
  };
  const move = (event: PointerEvent) => {
    if (!drag) return;
    const { x, y } = at(event);
    setDrawn([Math.min(x, drag.x), Math.min(y, drag.y), Math.max(x, drag.x), Math.max(y, drag.y)]);
  };
  const drop = () => {
    if (drawn && drawn[2] - drawn[0] > LEAST && drawn[3] - drawn[1] > LEAST) onBox?.(drawn);
    setDrag(undefined);
    setDrawn(undefined);
  };
  const key = (event: KeyboardEvent) => {
    const turn = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (event.key === "Escape") return onBox?.(undefined);
    if (!turn || !onBox) return;
    event.preventDefault();
    const [x0, y0, x1, y1] = box ?? [0.375, 0.375, 0.625, 0.625];
    const [dx, dy] = turn as [number, number];
    if (!box) return onBox([x0, y0, x1, y1]);
    if (event.shiftKey) return onBox([x0, y0, Math.max(inside(x1 + dx), x0 + STEP), Math.max(inside(y1 + dy), y0 + STEP)]);
    const [sx, sy] = [Math.min(Math.max(dx, -x0), 1 - x1), Math.min(Math.max(dy, -y0), 1 - y1)];
    onBox([x0 + sx, y0 + sy, x1 + sx, y1 + sy]);
  };
  const shown = drawn ?? box;
  const label = onBox ? "The photo. Drag a box to hide a part of it; with a keyboard, arrows move the box and Shift with arrows resizes it." : undefined;
  return (
    <div class="stage">
      {broken ? (
        <p class="stage-none">This browser cannot draw {name}; the model reads it all the same.</p>
      ) : (
        <div
          ref={frame}
          class={onBox ? "stage-frame can-hide" : "stage-frame"}
          style={{ width: ratio ? `min(100%, calc(var(--stage) * ${ratio}))` : undefined }}
          {...(onBox ? { tabIndex: 0, role: "group", "aria-label": label } : {})}
          onPointerDown={(event) => {
            if (!onBox || event.button !== 0) return;
            event.preventDefault();
            frame.current!.setPointerCapture(event.pointerId);
            setDrag(at(event));
          }}
          onPointerMove={move}
          onPointerUp={drop}
          onPointerCancel={drop}
          onKeyDown={key}
        >
          <img src={url} alt={`Photo ${name}`} draggable={false} onLoad={({ currentTarget: img }) => setRatio(img.naturalWidth / img.naturalHeight)} onError={() => setBroken(true)} />
          {heat && <img class="heat" src={`data:image/png;base64,${heat}`} alt="Heatmap: what the answer depends on" draggable={false} />}
          {shown && (
            <div
              class="hidden-part"
              style={{
                left: `${shown[0] * 100}%`,
                top: `${shown[1] * 100}%`,
                width: `${(shown[2] - shown[0]) * 100}%`,
                height: `${(shown[3] - shown[1]) * 100}%`,
              }}
            />
          )}
        </div>
      )}
    </div>
  );
}
