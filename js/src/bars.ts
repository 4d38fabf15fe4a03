/** Bars along the margins of a map, on the scale of its axes: what keys receive above it; how widely queries spread, and what they give to no key, beside it. */

import { element, thousands } from "./a11y.ts";
import { fit, pixelRatio } from "./draw.ts";
import type { Margins } from "./margins.ts";
import type { WeightMap } from "./math.ts";
import { BARS, edgeOf, moveTo, within } from "./plan.ts";
import type { Layout } from "./plan.ts";
import type { Palette } from "./theme.ts";
import { css } from "./theme.ts";
import type { Sight } from "./window.ts";
import { roof, seen, startOf } from "./window.ts";

export interface Drawn {
  at: Layout;
  map: WeightMap;
  /** `null` where they are not known. */
  margins: Margins | null;
  /** Whether rows share something out, so that their entropy means something. */
  spread: boolean;
  leaks: boolean;
  /** Keys that do not count for the scale. */
  aside: readonly number[];
  palette: Palette;
}

/** A value, and the place it belongs to. */
export interface Pointed {
  at: number;
  value: number;
}

/** One value for each pixel of what is in sight: of places that share one, what `join` makes of them. NaN: none. */
export function perPixel(values: ArrayLike<number>, sight: Sight, join: "furthest" | "mean"): { from: number; wide: number; value: number; place: number }[] {
  const [first, last] = seen(sight);
  const bars: { from: number; wide: number; value: number; place: number }[] = [];
  let [sum, count] = [0, 0];
  for (let i = first; i < last; i++) {
    const from = sight.pitch >= 1 ? startOf(sight, i) : Math.floor(startOf(sight, i) + 1e-6);
    let bar = bars.at(-1);
    if (bar?.from !== from) {
      bars.push((bar = { from, wide: Math.max(1, sight.pitch), value: NaN, place: i }));
      [sum, count] = [0, 0];
    }
    const value = values[i];
    if (Number.isNaN(value)) continue;
    sum += value;
    count++;
    if (join === "mean") bar.value = sum / count;
    else if (!(Math.abs(bar.value) >= Math.abs(value))) bar.value = value;
  }
  return bars;
}

type Way = readonly [number, number, number, number, number, number];
const BESIDE: Way = [0, 1, 1, 0, 0, 0]; // along y, and growing along x

/** A row of bars with its name, its scale, and the value of what is pointed at. */
class Row {
  readonly #canvas = element("canvas");
  readonly #name = element("span");
  readonly #scale = element("span");
  readonly #value: HTMLElement;
  readonly el: HTMLElement;

  constructor(margin: string) {
    this.#value = element("span", { class: "attn-bar-value", "data-margin": margin });
    this.el = element("div", {}, this.#canvas, this.#name, this.#scale, this.#value);
  }

  /** What is written at (x, y): the scale, and the name above or below it. */
  say(name: string, title: string, scale: readonly string[], x: number, y: number, apart: number, width: number): void {
    this.#canvas.title = title;
    this.#name.textContent = name;
    this.#scale.replaceChildren(...scale.map((end) => element("i", {}, end)));
    moveTo(this.#scale, x, y);
    moveTo(this.#name, x, y + apart);
    this.#name.style.width = this.#scale.style.width = `${width}px`;
  }

  /** Draws `bars` in the box at (x, y); the pen goes along them as `way` says. A value of 1 is `long`. */
  draw(bars: ReturnType<typeof perPixel>, [x, y, width, height]: readonly number[], way: Way, long: number, { aside, palette }: Drawn): CanvasRenderingContext2D {
    const ratio = pixelRatio();
    const pen = fit(this.#canvas, width, height);
    moveTo(this.#canvas, x, y);
    pen.transform(...way);
    pen.fillStyle = css(palette.line);
    pen.fillRect(0, 0, Math.max(width, height), 1);
    pen.fillStyle = css(palette.soft);
    for (const { from, wide, value, place } of bars) {
      if (!(Math.abs(value) > 0)) continue;
      pen.globalAlpha = aside.includes(place) ? 0.35 : 0.7;
      pen.fillRect(from / ratio, 0, wide / ratio - (wide / ratio >= 4 ? 1 : 0), Math.sign(value) * Math.max(0.5, Math.abs(value) * long));
    }
    pen.globalAlpha = 1;
    return pen;
  }

  /** Writes the value of what is pointed at, exactly, beside its bar. */
  point(pointed: Pointed | null, x: string, y: number, signed = false): void {
    const el = this.#value;
    const there = pointed !== null && !Number.isNaN(pointed.value);
    el.classList.toggle("attn-shown", there);
    if (!there) return;
    const { at, value } = pointed;
    el.dataset["token"] = String(at);
    el.dataset["value"] = String(value);
    const size = Math.abs(value);
    el.textContent = `${value < 0 ? "−" : signed && value > 0 ? "+" : ""}${size >= 0.01 || size === 0 ? size.toFixed(2) : tiny(size)}`;
    el.style.transform = `translate(${x}, ${Math.round(y)}px)`;
  }
}

export class Bars {
  readonly #received = new Row("received");
  readonly #entropy = new Row("entropy");
  readonly #leaks = new Row("leak");
  readonly el = element("div", { class: "attn-margins", "aria-hidden": "true" }, this.#received.el, this.#entropy.el, this.#leaks.el);

  draw(drawn: Drawn): void {
    const { at: { rows, cols, left, top, width, height }, map, margins, spread, leaks, aside } = drawn;
    const about = margins?.sampled === true ? "≈ " : "";
    this.#received.el.hidden = margins === null;
    this.#entropy.el.hidden = margins === null || !spread;
    this.#leaks.el.hidden = !leaks;
    let x = left + width + BARS.beside;
    if (margins !== null) {
      const bars = perPixel(margins.received, cols, "furthest");
      const most = roof(bars.reduce((largest, { value, place }) => (Math.abs(value) > largest && !aside.includes(place) ? Math.abs(value) : largest), 1e-4));
      const above = top - BARS.above - BARS.rise;
      const tall = map.signed ? BARS.rise / 2 : BARS.rise;
      const capped = bars.map((bar) => ({ ...bar, value: Math.max(-most, Math.min(most, bar.value)) }));
      this.#received.draw(capped, [left, above, width, BARS.rise], [1, 0, 0, -1, 0, tall], tall / most, drawn);
      const title = `${map.signed ? "Difference of what" : "What"} each key receives: mean over the queries that may see it${margins.sampled ? ", from a sample of them; exact where the pointer is" : ""}`;
      this.#received.say(`${about}receives`, title, [`${map.signed ? "±" : ""}${most >= 0.01 ? most : tiny(most)}`], 0, above - 3, 13, left - 4);
    }
    if (margins !== null && spread) {
      let keys = 1;
      for (let i = map.nq - 1; i >= 0 && keys < map.nk; i--) keys = Math.max(keys, map.allowed(i));
      const scale = (BARS.run - 1) / (Math.log(keys) || 1);
      const bars = perPixel(margins.entropy, rows, "mean");
      const pen = this.#entropy.draw(bars, [x, top, BARS.run, height], BESIDE, scale, drawn);
      for (const { from, wide, place } of bars) pen.fillRect(from / pixelRatio(), Math.log(Math.max(1, map.allowed(place))) * scale, wide / pixelRatio(), 1);
      const title = `How widely each query spreads its weight: entropy of its row, in nats. The line is the most there can be: ln ${thousands(keys)} = ${Math.log(keys).toFixed(2)} for ${thousands(keys)} keys`;
      this.#entropy.say(`${about}entropy`, title, ["0", Math.log(keys).toFixed(1)], x, top - 16, -15, BARS.run);
      x += BARS.run + BARS.beside;
    }
    if (!leaks) return;
    const shares = Array.from({ length: map.nq }, (_, i) => map.leak(i));
    this.#leaks.draw(perPixel(shares, rows, "furthest"), [x, top, BARS.leak, height], BESIDE, BARS.leak, drawn);
    this.#leaks.say("leaves", "What each query gives to no key", ["0", "1"], x, top - 16, -15, BARS.leak);
  }

  /** Writes the values of what the pointer or the keyboard is at. */
  point(key: Pointed | null, query: Pointed | null, signed: boolean, { rows, cols, left, top, width, height }: Layout): void {
    this.#received.point(key, `calc(${left + Math.max(14, within(cols, (key?.at ?? 0) + 0.5))}px - 50%)`, top - BARS.above - BARS.rise - 3, signed);
    const y = edgeOf(rows, (query?.at ?? 0) + 0.5);
    this.#entropy.point(y >= 0 && y <= height ? query : null, `${left + width + BARS.beside + BARS.run - 28}px`, top + y - 8);
  }
}

const tiny = (value: number): string => value.toExponential(0).replace("e-", "e−");
