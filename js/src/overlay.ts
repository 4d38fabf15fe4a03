/** Weights drawn over a picture, patch by patch. */

import { element } from "./a11y.ts";
import { cross, fit, hatch } from "./draw.ts";
import type { Heard } from "./heard.ts";
import { hear } from "./heard.ts";
import type { Side } from "./layout.ts";
import { isWeight, MASKED, PADDED, strongest } from "./math.ts";
import type { Patches } from "./patches.ts";
import { patchBeside } from "./patches.ts";
import type { Palette, Rgb } from "./theme.ts";
import { css } from "./theme.ts";
import type { Line } from "./tinted.ts";
import type { Block } from "./wire.ts";
import { findArray } from "./wire.ts";

const TALL = 440; // pixels of a picture at most, either way
const MARKED = 3; // patches that have their number on them, unless it would lie on that of a stronger one

/** What a picture is drawn with. */
export interface Drawn {
  line: Line;
  tint: (weight: number, token: number) => string;
  palette: Palette;
  pinned: readonly number[];
  written: (weight: number) => string;
}

type Box = [x: number, y: number, width: number, height: number];

/** A picture, or the grid of its patches, with weights over it. One tab stop: arrows go from patch to patch. */
export class Picture {
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #cell = element("div", { role: "gridcell", tabindex: 0 });
  readonly #grid: HTMLElement;
  readonly #marks = element("div", { "aria-hidden": "true" });
  readonly el: HTMLElement;
  readonly #patches: Patches;
  readonly #hook: string;
  #image: HTMLCanvasElement | null = null;
  #size: readonly [width: number, height: number] = [1, 1];
  #at = 0;

  constructor(patches: Patches, side: Side, heard: Heard, signal: AbortSignal) {
    this.#patches = patches;
    this.#hook = `data-${side}`;
    const { rows, cols, tokens } = patches;
    this.#grid = element("div", { role: "grid", "aria-label": `Image, ${rows} × ${cols} patches`, "aria-rowcount": rows, "aria-colcount": cols }, element("div", { role: "row" }, this.#cell));
    this.el = element("div", { class: "attn-canvas" }, this.#canvas, this.#marks, this.#grid);
    const at = (event: Event): number => {
      if (!(event instanceof MouseEvent)) return this.#at;
      const { left, top, width, height } = this.#grid.getBoundingClientRect();
      const place = (share: number, n: number): number => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
      return place((event.clientY - top) / height, rows) * cols + place((event.clientX - left) / width, cols);
    };
    const point = (patch: number | null): void => { heard.point(patch === null ? null : tokens[patch]); };
    const go = (to: number): void => {
      this.#at = to;
      this.#cell.focus({ preventScroll: true });
      point(to);
    };
    hear(this.#grid, { point, press: (patch) => { heard.press(tokens[patch]); }, escape: heard.escape }, { at, to: (key, patch) => patchBeside(key, patch, patches), go }, signal);
  }

  get painted(): boolean {
    return this.#image !== null;
  }

  /** Takes the pixels of the picture. */
  paint(block: Block): void {
    const rgb = findArray(block, "rgb", "u8", [-1, -1, 3]);
    const pen = document.createElement("canvas").getContext("2d");
    if (rgb === null || pen === null) return;
    const [height, width] = rgb.shape;
    Object.assign(pen.canvas, { width, height });
    const pixels = new ImageData(width, height);
    pixels.data.fill(255);
    rgb.data.forEach((value, n) => { pixels.data[Math.floor(n / 3) * 4 + (n % 3)] = value; });
    pen.putImageData(pixels, 0, 0);
    this.#image = pen.canvas;
  }

  draw({ line: { cells, from }, tint, palette, pinned, written }: Drawn): void {
    const { rows, cols, tokens, of } = this.#patches;
    const shape = this.#image === null ? cols / rows : this.#image.width / this.#image.height;
    const room = this.el.parentElement?.clientWidth ?? 0; // 0 before there is a layout: it is drawn again when there is
    const width = Math.round(Math.min(room === 0 ? TALL : room, TALL, TALL * shape));
    const height = Math.round(width / shape);
    this.#size = [width, height];
    Object.assign(this.#grid.style, { width: `${width}px`, height: `${height}px` });
    const pen = fit(this.#canvas, width, height);
    if (this.#image !== null) {
      // Pale, and close to the ground, so that the ramp stands out wherever it lies.
      pen.filter = "grayscale(0.75)";
      pen.globalAlpha = 0.6;
      pen.drawImage(this.#image, 0, 0, width, height);
      pen.filter = "none";
      pen.globalAlpha = 1;
    }
    if (cells !== null) this.#weigh(pen, cells, tint, palette);
    if (this.#image === null) this.#rule(pen, palette);
    const outline = (patch: number, colour: Rgb, wide: number): void => {
      const [x, y, w, h] = this.#box(patch);
      for (const [rgb, line] of [[palette.ground, wide + 2], [colour, wide]] as const) {
        pen.strokeStyle = css(rgb);
        pen.lineWidth = line;
        pen.strokeRect(x + wide / 2, y + wide / 2, w - wide, h - wide);
      }
    };
    const patchesOf = (places: readonly number[]): number[] => places.flatMap((token) => of.get(token) ?? []);
    const most = cells === null ? [] : Array.from(strongest(Float32Array.from(tokens, (token) => cells[token]), 1, MARKED).indices);
    for (const patch of most) outline(patch, palette.ink, 1);
    for (const patch of patchesOf(pinned)) outline(patch, palette.accent, 1);
    for (const patch of patchesOf(from)) outline((this.#at = patch), palette.accent, 2.5);
    const apart = most.filter((patch, n) => most.slice(0, n).every((other) => {
      const [[x, y], [left, top]] = [this.#box(patch), this.#box(other)];
      return Math.abs(x - left) > 44 || Math.abs(y - top) > 16;
    }));
    this.#marks.replaceChildren(...apart.map((patch) => {
      const [x, y, w, h] = this.#box(patch);
      const weight = cells?.[tokens[patch]] ?? 0;
      const [left, top] = [Math.min(width - 20, Math.max(20, x + w / 2)), y > 18 ? y - 16 : y + h + 1];
      return element("span", { [this.#hook]: tokens[patch], "data-weight": weight, style: `transform: translate(calc(${Math.round(left)}px - 50%), ${top}px)` }, written(weight));
    }));
    this.#tell(cells, written);
  }

  #box(patch: number): Box {
    const { rows, cols } = this.#patches;
    const [width, height] = this.#size;
    const [row, col] = [Math.floor(patch / cols), patch % cols];
    const [x, y] = [Math.round((col * width) / cols), Math.round((row * height) / rows)];
    return [x, y, Math.round(((col + 1) * width) / cols) - x, Math.round(((row + 1) * height) / rows) - y];
  }

  #weigh(pen: CanvasRenderingContext2D, cells: Float32Array, tint: Drawn["tint"], palette: Palette): void {
    const pattern = hatch(pen, css(palette.soft, 0.6));
    pen.strokeStyle = css(palette.accent);
    this.#patches.tokens.forEach((token, patch) => {
      const cell = cells[token];
      const [x, y, width, height] = this.#box(patch);
      if (Number.isNaN(cell)) {
        pen.beginPath();
        cross(pen, x + width / 2, y + height / 2, Math.min(width, height));
        pen.stroke();
        return;
      }
      pen.fillStyle = isWeight(cell) ? tint(cell, token) : pattern;
      pen.fillRect(x, y, width, height);
    });
  }

  #rule(pen: CanvasRenderingContext2D, palette: Palette): void {
    const [width, height] = this.#size;
    pen.strokeStyle = css(palette.line);
    pen.strokeRect(0.5, 0.5, width - 1, height - 1);
    if (width / this.#patches.cols < 8) return;
    this.#patches.tokens.forEach((_, patch) => {
      const [x, y, w, h] = this.#box(patch);
      pen.strokeRect(x - 0.5, y - 0.5, w, h);
    });
  }

  /** Puts the cell that has the keyboard where it is, with its number. */
  #tell(cells: Float32Array | null, written: Drawn["written"]): void {
    const { cols, tokens } = this.#patches;
    const [x, y, width, height] = this.#box(this.#at);
    const [row, col] = [Math.floor(this.#at / cols), this.#at % cols];
    const weight = cells?.[tokens[this.#at]] ?? NaN;
    const number = cells === null ? "" : isWeight(weight) ? `, ${written(weight)}` : weight === MASKED ? ", masked" : weight === PADDED ? ", padding" : ", NaN";
    const now = { style: `transform: translate(${x}px, ${y}px); width: ${width}px; height: ${height}px`, "aria-rowindex": row + 1, "aria-colindex": col + 1, "aria-label": `row ${row}, column ${col}${number}`, [this.#hook]: tokens[this.#at], "data-weight": weight };
    for (const [name, value] of Object.entries(now)) this.#cell.setAttribute(name, String(value));
  }
}
