/** Vectors as strips: a cell for each dimension, strips of the same dimensions below each other, one dimension looked at in all of them. */

import { element, stepped } from "./a11y.ts";
import { fit, pixelRatio, watchWidth } from "./draw.ts";
import type { Numbers } from "./head.ts";
import { norm, reach } from "./head.ts";
import { figure } from "./stages.ts";
import { css, paletteAt, ramp, signedLevel } from "./theme.ts";
import { chorded, listen } from "./until.ts";

export interface Strip {
  name: readonly (Node | string)[];
  values: Numbers;
  /** The model's own, where `values` are not. */
  own?: Numbers | null | undefined;
  /** Heights from a middle line, rather than colours. */
  bars?: boolean;
  /** The size that has the deepest colour; the largest there is where it is left out. */
  most?: number;
  /** What is said about all of it, at its end; its norm where it is left out. */
  said?: string;
}

/** How `n` dimensions are laid out in `width` pixels: lines of `perLine` cells. */
export interface Wrapped {
  lines: number;
  perLine: number;
  /** Pixels per cell, and how tall a line is. */
  cell: number;
  tall: number;
}

const WIDEST = 22; // pixels of a cell

export function wrap(n: number, width: number): Wrapped {
  const least = n > 512 ? 1.25 : 2.4; // pixels
  const lines = Math.max(1, Math.ceil((n * least) / Math.max(1, width)));
  const perLine = Math.max(1, Math.ceil(n / lines));
  return { lines, perLine, cell: Math.min(WIDEST, width / perLine), tall: lines <= 1 ? 18 : lines <= 3 ? 12 : 7 };
}

const DEEPEST = 0.75; // of the ramp: beyond, both of its ends become alike

/** Colours of numbers in the theme of `el`; `most` is the size that has the deepest one. */
export function shades(el: Element): (value: number, most: number) => string {
  const lut = ramp(paletteAt(el), "difference");
  return (value, most) => {
    const at = 0.5 + DEEPEST * (signedLevel(most === 0 ? 0 : value / most, "sqrt") - 0.5);
    const colour = lut.at(Math.round(255 * at)) ?? 0;
    return Number.isNaN(value) ? "transparent" : css([colour & 255, (colour >> 8) & 255, (colour >> 16) & 255]);
  };
}

const BAR = 44; // pixels of height, both ways
const OWN = 6; // pixels of the model's own strip, below the one that is switched
const GAP = 2;

interface Room {
  el: HTMLElement;
  name: HTMLElement;
  box: HTMLElement;
  canvas: HTMLCanvasElement;
  cursor: HTMLElement;
  said: HTMLElement;
}

/** Strips with one tab stop: arrows go from dimension to dimension. */
export class Strips {
  readonly el = element("div", { class: "attn-vectors", role: "slider", tabindex: 0, "aria-orientation": "horizontal", "aria-valuemin": 0 });
  readonly #readout = element("p", { class: "attn-readout attn-quiet", "aria-hidden": "true" });
  readonly #rooms: Room[] = [];
  #strips: readonly Strip[] = [];
  #order: readonly number[] | null = null;
  #width = 0;
  #wrapped = wrap(1, 1);
  #at: number | null = null; // place, which is a dimension unless the dimensions are sorted
  #rest: number | null = null; // where it returns to when the pointer leaves
  #read: (dimension: number) => string = String;
  #hint = "";

  constructor(name: string, signal: AbortSignal) {
    this.el.ariaLabel = name;
    this.el.append(this.#readout);
    watchWidth(this.#room().box, (width) => { this.#width = width; this.#draw(); }, signal);
    listen(this.el, {
      pointermove: (event) => { this.#look(this.#placeAt(event)); },
      pointerleave: () => { this.#look(this.#rest); },
      click: (event) => { this.#look((this.#rest = this.#placeAt(event) ?? this.#rest)); },
      blur: () => { this.#look((this.#rest = null)); },
      keydown: (event) => {
        const to = event.key === "Escape" ? -1 : stepped(event.key, this.#at ?? -1, this.#length);
        if (to === null || chorded(event)) return;
        event.preventDefault();
        this.#look((this.#rest = to < 0 ? null : to));
      },
    }, signal);
  }

  /** Shows `strips`, all of one length; `read` tells what a dimension holds, `hint` stands there before, `order` sorts the dimensions. */
  show(strips: readonly Strip[], hint: string, read: (dimension: number) => string, order: readonly number[] | null = null): void {
    [this.#strips, this.#order, this.#read, this.#hint] = [strips, order, read, hint];
    while (this.#rooms.length < strips.length) this.#room();
    if (this.#at !== null && this.#at >= this.#length) this.#at = this.#rest = null;
    this.el.setAttribute("aria-valuemax", String(Math.max(0, this.#length - 1)));
    this.#draw();
  }

  get #length(): number {
    return this.#strips.at(0)?.values.length ?? 0;
  }

  #room(): Room {
    const [canvas, cursor] = [element("canvas", { "aria-hidden": "true" }), element("i")];
    const [name, box, said] = [element("span", { class: "attn-name" }), element("div", { class: "attn-room" }, canvas, cursor), element("span", { class: "attn-said" })];
    const room = { el: element("div", { class: "attn-vector" }, name, box, said), name, box, canvas, cursor, said };
    this.#readout.before(room.el);
    this.#rooms.push(room);
    return room;
  }

  #dimension(place: number): number {
    return this.#order?.[place] ?? place;
  }

  #draw(): void {
    if (this.#width === 0) return;
    this.#wrapped = wrap(this.#length, this.#width);
    this.#strips.forEach((strip, n) => {
      const { name, said, canvas } = this.#rooms[n];
      name.replaceChildren(...strip.name);
      said.textContent = strip.said ?? `norm ${figure(norm(strip.values))}`;
      this.#paint(canvas, strip);
    });
    this.#look(this.#at);
  }

  #paint(canvas: HTMLCanvasElement, { values, own = null, bars = false, most = Math.max(reach(values), reach(own ?? values)) }: Strip): void {
    const { lines, perLine, cell, tall } = this.#wrapped;
    const pitch = this.#pitch(bars, own);
    const pen = fit(canvas, perLine * cell, lines * pitch);
    const { line, soft, ramp: more, less } = paletteAt(canvas);
    const shade = shades(canvas);
    const snap = (x: number): number => Math.round(x * pixelRatio()) / pixelRatio();
    const air = cell >= 6 ? 1 : 0;
    pen.fillStyle = css(line);
    if (bars) for (let at = 0; at < lines; at++) pen.fillRect(0, at * pitch + BAR / 2, perLine * cell, 1);
    pen.strokeStyle = css(soft);
    for (const numbers of own === null ? [values] : [values, own]) {
      for (let place = 0; place < numbers.length; place++) {
        const value = numbers[this.#dimension(place)];
        const top = Math.floor(place / perLine) * pitch;
        const left = snap((place % perLine) * cell);
        const wide = snap(((place % perLine) + 1) * cell) - left - air;
        if (!bars) {
          pen.fillStyle = shade(value, most);
          pen.fillRect(left, numbers === values ? top : top + tall + GAP, wide, numbers === values ? tall : OWN);
          continue;
        }
        const high = ((Math.abs(value) / most) * BAR) / 2;
        if (!(high > 0.2)) continue;
        const y = top + BAR / 2 - (value > 0 ? high : 0);
        pen.fillStyle = css(value > 0 ? more[3] : less[1]);
        if (numbers === values) pen.fillRect(left, y, wide, high);
        else pen.strokeRect(left + 0.5, y, Math.max(0.5, wide - 1), high);
      }
    }
  }

  /** Pixels from one line of a strip to the next. */
  #pitch(bars = false, own: Numbers | null = null): number {
    return (bars ? BAR : this.#wrapped.tall + (own === null ? 0 : GAP + OWN)) + GAP;
  }

  // ── the dimension that is looked at ──

  #placeAt({ target, clientX, clientY }: MouseEvent): number | null {
    const n = this.#rooms.findIndex(({ box }) => target instanceof Node && box.contains(target));
    if (n < 0) return null;
    const { left, top } = this.#rooms[n].canvas.getBoundingClientRect();
    const { perLine, cell, lines } = this.#wrapped;
    const column = Math.floor((clientX - left) / cell);
    const line = Math.min(lines - 1, Math.floor((clientY - top) / this.#pitch(this.#strips[n].bars, this.#strips[n].own)));
    const place = line * perLine + column;
    return column >= 0 && column < perLine && line >= 0 && place < this.#length ? place : null;
  }

  #look(place: number | null): void {
    this.#at = place;
    const { perLine, cell } = this.#wrapped;
    this.#strips.forEach(({ bars, own }, n) => {
      const { cursor } = this.#rooms[n];
      cursor.hidden = place === null;
      if (place === null) return;
      const pitch = this.#pitch(bars, own);
      const wide = Math.max(3, cell);
      const [x, y] = [(place % perLine) * cell - (wide - cell) / 2 - 1, Math.floor(place / perLine) * pitch - 1];
      Object.assign(cursor.style, { left: `${x}px`, top: `${y}px`, width: `${wide + 1}px`, height: `${pitch}px` });
    });
    const text = place === null ? this.#hint : this.#read(this.#dimension(place));
    if (this.#readout.textContent !== text) this.#readout.textContent = text;
    this.el.setAttribute("aria-valuenow", String(place ?? 0));
    this.el.setAttribute("aria-valuetext", text);
    if (place === null) delete this.el.dataset["dimension"];
    else this.el.dataset["dimension"] = String(this.#dimension(place));
  }
}
