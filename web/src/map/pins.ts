/** Pins: a shape and a colour a kind (colours of Okabe and Ito, apart for colour-blind readers). */

import type { PinKind } from "./scene";

interface Look {
  colour: string;
  /** On a field of 24 by 24, around its middle. */
  path: string;
  name: string;
}

export const PINS: Record<PinKind, Look> = {
  answer: { colour: "#d55e00", path: "M12 4a8 8 0 1 0 .01 0z", name: "the model's answer" },
  other: { colour: "#0072b2", path: "M5 5h14v14H5z", name: "the other answer" },
  moved: { colour: "#0072b2", path: "M5 5h14v14H5z", name: "without the hidden part" },
  exif: { colour: "#a3337a", path: "M12 2l10 10-10 10L2 12z", name: "what the photo says" },
  claim: { colour: "#a3337a", path: "M9 3h6v6h6v6h-6v6H9v-6H3V9h6z", name: "the claimed place" },
  truth: { colour: "#007a57", path: "M12 1.5l3 7 7.5.7-5.700 5 1.700 7.400-6.500-3.900-6.500 3.900 1.700-7.400-5.700-5 7.500-.7z", name: "the truth" },
  you: { colour: "#0072b2", path: "M12 2.500l10 18H2z", name: "your guess" },
};

const SVG = "http://www.w3.org/2000/svg";

export function pin(kind: PinKind, label: string): HTMLElement {
  const { colour, path } = PINS[kind];
  const element = document.createElement("div");
  element.className = "pin";
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  element.title = label;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  const shape = document.createElementNS(SVG, "path");
  for (const [name, value] of Object.entries({ d: path, fill: colour, stroke: "#fff", "stroke-width": "2", "stroke-linejoin": "round" })) {
    shape.setAttribute(name, value);
  }
  svg.append(shape);
  element.append(svg);
  return element;
}
