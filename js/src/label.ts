/** Tokens as things on screen: chips, how wide they are, and the card that says what a token is underneath. */

import { cut, element, thousands } from "./a11y.ts";
import type { Palette, Scale } from "./theme.ts";
import { gradient, LEGENDS } from "./theme.ts";
import type { Axis } from "./wire.ts";

const SHOWN = 60; // characters of a token in a label; the card has more
const IN_FULL = 400;

/** The text of a token, set apart from the direction of its neighbours. Special tokens are outlined. */
export function chip(axis: Axis, i: number): HTMLElement {
  const title = facts(axis, i).map((part) => (typeof part === "string" ? part : part.textContent)).join("");
  return element("span", { class: axis.special.includes(i) ? "attn-chip attn-special" : "attn-chip", dir: "auto", title }, cut(axis.labels[i], SHOWN));
}

/** Widths of texts in the font of an element. Reading widths from a canvas costs no layout. */
export class Ruler {
  readonly #context = document.createElement("canvas").getContext("2d");

  constructor(element: Element, weight = 600) {
    const { fontFamily, fontSize } = getComputedStyle(element);
    if (this.#context !== null) this.#context.font = `${weight} ${fontSize} ${fontFamily}`;
  }

  width(text: string): number {
    return this.#context?.measureText(text).width ?? text.length * 7;
  }

  /** Width of the widest label, at most `most`. Measures the longest few: a long one is wide in any font. */
  widest(labels: readonly string[], most: number): number {
    const longest = [...labels].sort((a, b) => b.length - a.length).slice(0, 60);
    return Math.min(most, Math.ceil(longest.reduce((widest, label) => Math.max(widest, this.width(cut(label, SHOWN))), 0)));
  }
}

/** What token `i` is: its whole text as the tokenizer has it, and where it stands. */
export function facts(axis: Axis, i: number): (Node | string)[] {
  const place = ` · position ${thousands(i)}${axis.special.includes(i) ? " · special token" : ""}`;
  return [element("bdi", {}, cut(axis.raw.at(i) ?? axis.labels[i], IN_FULL)), place];
}

/** A small card over the picture. It never takes the pointer; what is on it can be heard elsewhere. */
export class Card {
  readonly el = element("div", { class: "attn-card", "aria-hidden": "true" });

  constructor(private readonly host: HTMLElement) {
    host.append(this.el);
  }

  hide(): void {
    this.el.classList.remove("attn-shown");
  }

  /** Shows `content` beside (x, y) of the host. */
  show(content: readonly Node[], x: number, y: number): void {
    this.el.replaceChildren(...content);
    this.el.classList.add("attn-shown");
    const { offsetWidth: width, offsetHeight: height } = this.el;
    const left = Math.max(0, Math.min(x + 14, this.host.clientWidth - width));
    const above = y - height - 10;
    const top = above >= 0 ? above : Math.min(y + 18, this.host.clientHeight - height);
    this.el.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}

/** The ramp between its ends, and the name of the scale; `also` are signs that stand beside it ("masked", "padding"). */
export function legend(palette: Palette, scale: Scale, also: readonly Node[] = []): HTMLElement {
  const { low, high, name } = LEGENDS[scale];
  const bar = element("span", { class: "attn-ramp", style: `background: ${gradient(palette, scale)}` });
  return element("div", { class: "attn-legend" }, element("span", {}, low, bar, high), element("span", {}, name), ...also);
}
