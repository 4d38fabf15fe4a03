/** Canvas primitives: sharp surfaces, cells, hatching, edges. They know colours and numbers, not tokens or heads. */

import type { Curve } from "./layout.ts";
import { isWeight, MASKED, PADDED } from "./math.ts";
import type { Lut, Palette, Rgb, Scale } from "./theme.ts";
import { css, level, pixel, ramp, signedLevel } from "./theme.ts";
import { atEnd, listen } from "./until.ts";

/** Sizes `canvas` for the screen's pixels and clears it; the context is in CSS pixels. */
export function fit(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const ratio = pixelRatio();
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("This browser gives no canvas to draw on.");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export const pixelRatio = (): number => Math.min(3, Math.max(1, window.devicePixelRatio));

/** `draw`, at most once per frame however often it is asked for, and not after `signal` aborts. */
export function perFrame(draw: () => void, signal: AbortSignal): () => void {
  let asked = 0;
  atEnd(signal, () => { cancelAnimationFrame(asked); });
  return () => {
    if (asked !== 0 || signal.aborted) return;
    asked = requestAnimationFrame(() => {
      asked = 0;
      draw();
    });
  };
}

/** Calls `changed` with the room inside `element`, left to right, once it is known and whenever it, or the zoom, changes. */
export function watchWidth(element: HTMLElement, changed: (width: number) => void, signal: AbortSignal): void {
  let [known, width] = ["", 0];
  const tell = perFrame(() => {
    const now = `${width} × ${pixelRatio()}`;
    if (now === known || width === 0) return;
    known = now;
    changed(width);
  }, signal);
  listen(window, { resize: tell }, signal);
  if (typeof ResizeObserver === "undefined") {
    const timer = setInterval(() => {
      const { paddingLeft, paddingRight } = getComputedStyle(element);
      width = element.clientWidth - parseInt(paddingLeft) - parseInt(paddingRight);
      tell();
    }, 200);
    atEnd(signal, () => { clearInterval(timer); });
    return;
  }
  const observer = new ResizeObserver((entries) => {
    width = Math.floor(entries[entries.length - 1].contentRect.width);
    tell();
  });
  observer.observe(element);
  atEnd(signal, () => { observer.disconnect(); });
}

// ── cells ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the cells of a map are painted with. */
export interface Paint {
  scale: Scale;
  lut: Lut;
  masked: number; // pixels
  nan: number;
  /** Cells are differences: `lut` goes from −1 to 1. */
  signed: boolean;
  /** The weight at the end of the ramp. */
  most: number;
}

export const paintOf = (palette: Palette, scale: Scale, signed = false, most = 1): Paint => ({
  scale, signed, most, lut: ramp(palette, signed ? "difference" : scale), masked: pixel(palette.ground), nan: pixel(palette.accent),
});

const CLEAR = 0; // padded cells let the hatching behind them through

/** Which of the 256 colours of `paint` a weight has. */
export function shadeOf(weight: number, { scale, signed, most }: Paint, allowed: number): number {
  if (signed) return Math.round(255 * signedLevel(weight, scale));
  return Math.round(255 * level(scale === "uniform" ? weight : weight / most, scale, allowed)); // relative to uniform, all is as it is
}

function cellPixel(cell: number, paint: Paint, allowed: number): number {
  if (isWeight(cell)) return paint.lut[shadeOf(cell, paint, allowed)];
  return cell === MASKED ? paint.masked : cell === PADDED ? CLEAR : paint.nan;
}

/** An offscreen picture, one pixel per cell, that can be filled a band of rows at a time. */
export class CellImage {
  readonly canvas = document.createElement("canvas");
  readonly #context: CanvasRenderingContext2D | null;

  constructor(
    readonly rows: number,
    readonly cols: number,
  ) {
    this.canvas.width = Math.max(1, cols);
    this.canvas.height = Math.max(1, rows);
    this.#context = this.canvas.getContext("2d");
  }

  /** Paints rows [from, to) of `cells`, which holds all rows. */
  paint(cells: Float32Array, from: number, to: number, paint: Paint, allowed: (row: number) => number): void {
    if (this.#context === null || to <= from) return;
    const image = new ImageData(this.cols, to - from);
    const pixels = new Uint32Array(image.data.buffer);
    for (let r = from, at = 0; r < to; r++) {
      const keys = paint.scale === "uniform" ? allowed(r) : 0;
      for (let c = 0; c < this.cols; c++) pixels[at++] = cellPixel(cells[r * this.cols + c], paint, keys);
    }
    this.#context.putImageData(image, 0, from);
  }
}

/** Diagonal hatching in `colour`: for what is padding, not text. */
export function hatch(context: CanvasRenderingContext2D, colour: string): CanvasPattern | string {
  const size = 6 * pixelRatio();
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  if (pen === null) return colour;
  pen.strokeStyle = colour;
  pen.lineWidth = pixelRatio();
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift - 1, size + 1);
    pen.lineTo(shift + size + 1, -1);
  }
  pen.stroke();
  const pattern = context.createPattern(tile, "repeat");
  pattern?.setTransform(new DOMMatrix().scale(1 / pixelRatio()));
  return pattern ?? colour;
}

export function cross(context: CanvasRenderingContext2D, x: number, y: number, size: number): void {
  const arm = size * 0.28;
  context.moveTo(x - arm, y - arm);
  context.lineTo(x + arm, y + arm);
  context.moveTo(x - arm, y + arm);
  context.lineTo(x + arm, y - arm);
}

// ── edges ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Edge {
  /** From its query to its key. */
  curve: Curve;
  /** Below 0 in differences; its size is what shows. */
  weight: number;
  /** Its key is out of sight: of a hairline only the beginning is drawn. */
  away?: boolean;
}

export interface Stroke {
  colour: Rgb;
  /** Lengths of dashes and gaps; drawn through where it is left out. */
  dash?: readonly number[];
  /** 0 … 1, for all edges alike. */
  alpha?: number;
}

const STUB = 0.2; // of a hairline that ends out of sight
const FADED = 0.3; // what is left of a hairline at its key

/** Hairlines, weakest first so that the strong ones lie on top. They fade towards the key, so that their direction shows. */
export function hairlines(context: CanvasRenderingContext2D, edges: readonly Edge[], { colour, dash = [], alpha = 1 }: Stroke): void {
  context.lineWidth = 1;
  context.setLineDash(dash as number[]);
  const [strong, faded, gone] = [1, FADED, 0].map((share) => css(colour, share));
  for (let n = edges.length - 1; n >= 0; n--) {
    const { curve, weight, away } = edges[n];
    const [x0, y0, x1, y1, x2, y2, x3, y3] = away === true ? start(curve, STUB) : curve;
    const fade = context.createLinearGradient(x0, y0, x3, y3);
    fade.addColorStop(0, strong);
    fade.addColorStop(1, away === true ? gone : faded);
    context.strokeStyle = fade;
    context.globalAlpha = alpha * hairlineAlpha(weight);
    context.beginPath();
    context.moveTo(x0, y0);
    context.bezierCurveTo(x1, y1, x2, y2, x3, y3);
    context.stroke();
  }
  context.globalAlpha = 1;
  context.setLineDash([]);
}

/** How pale each of `count` hairlines is, so that a crowd is no blot. */
export const crowd = (count: number): number => Math.min(1, (120 / Math.max(1, count)) ** 0.4);

const hairlineAlpha = (weight: number): number => 0.16 + 0.6 * Math.sqrt(Math.min(1, Math.abs(weight)));

/** The first `share` of a curve (de Casteljau). */
export function start([x0, y0, x1, y1, x2, y2, x3, y3]: Curve, share: number): Curve {
  const between = (p: number, q: number): number => p + (q - p) * share;
  const one = (a: number, b: number, c: number, d: number): [number, number, number] => {
    const [ab, bc, cd] = [between(a, b), between(b, c), between(c, d)];
    return [ab, between(ab, bc), between(between(ab, bc), between(bc, cd))];
  };
  const [[ax, bx, cx], [ay, by, cy]] = [one(x0, x1, x2, x3), one(y0, y1, y2, y3)];
  return [x0, y0, ax, ay, bx, by, cx, cy];
}

const WIDEST = 7.5; // pixels at the query end of an edge that carries everything
const NARROW = 0.38; // width at the key, as a share of the width at the query
const DASH = [9, 5] as const;

/** Edges as tapers, wide at the query and narrow at the key, so that their direction shows without colour; dashed where there is a `dash`. */
export function tapers(context: CanvasRenderingContext2D, edges: readonly Edge[], { colour, dash, alpha = 1 }: Stroke, widest = WIDEST): void {
  context.fillStyle = context.strokeStyle = css(colour);
  context.lineWidth = 1;
  for (let n = edges.length - 1; n >= 0; n--) {
    const { curve, weight } = edges[n];
    const root = Math.sqrt(Math.min(1, Math.abs(weight)));
    context.globalAlpha = alpha * (0.3 + 0.65 * root);
    context.beginPath();
    if (root < 0.12) {
      const [x0, y0, x1, y1, x2, y2, x3, y3] = curve;
      context.setLineDash(dash === undefined ? [] : [4, 3]);
      context.moveTo(x0, y0);
      context.bezierCurveTo(x1, y1, x2, y2, x3, y3);
      context.stroke();
      context.setLineDash([]);
    } else {
      for (const [from, to] of dash === undefined ? [[0, 1] as const] : dashes(curve)) taperPath(context, curve, 0.6 + (widest * root) / 2, from, to);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

const longOf = ([x0, y0, x1, y1, x2, y2, x3, y3]: Curve): number =>
  (Math.hypot(x1 - x0, y1 - y0) + Math.hypot(x2 - x1, y2 - y1) + Math.hypot(x3 - x2, y3 - y2) + Math.hypot(x3 - x0, y3 - y0)) / 2;

/** The pieces of a dashed curve, as shares of it. */
function dashes(curve: Curve): (readonly [from: number, to: number])[] {
  const [on, off] = DASH;
  const count = Math.max(2, Math.round(longOf(curve) / (on + off)));
  return Array.from({ length: count }, (_, n) => [n / count, (n + on / (on + off)) / count]);
}

/** The outline of the piece [from, to] of a curve, `half` wide on each side at the query. */
function taperPath(context: CanvasRenderingContext2D, curve: Curve, half: number, from: number, to: number): void {
  const [x0, y0, x1, y1, x2, y2, x3, y3] = curve;
  const side = (t: number, sign: number, first: boolean): void => {
    const s = 1 - t;
    const x = s * s * s * x0 + 3 * s * s * t * x1 + 3 * s * t * t * x2 + t * t * t * x3;
    const y = s * s * s * y0 + 3 * s * s * t * y1 + 3 * s * t * t * y2 + t * t * t * y3;
    const tx = s * s * (x1 - x0) + 2 * s * t * (x2 - x1) + t * t * (x3 - x2);
    const ty = s * s * (y1 - y0) + 2 * s * t * (y2 - y1) + t * t * (y3 - y2);
    const width = (sign * half * (1 - (1 - NARROW) * t)) / (Math.hypot(tx, ty) || 1);
    if (first) context.moveTo(x - ty * width, y + tx * width);
    else context.lineTo(x - ty * width, y + tx * width);
  };
  const steps = Math.max(2, Math.ceil(Math.min(96, 16 + longOf(curve) / 20) * (to - from)));
  for (let n = 0; n <= steps; n++) side(from + ((to - from) * n) / steps, 1, n === 0);
  for (let n = steps; n >= 0; n--) side(from + ((to - from) * n) / steps, -1, false);
  context.closePath();
}

export const MARKERS = "●■▲◆▼✚";

/** One of six signs that are told apart by their shape. */
export function marker(context: CanvasRenderingContext2D, which: number, x: number, y: number, size: number): void {
  Object.assign(context, { font: `${1.6 * size}px sans-serif`, textAlign: "center", textBaseline: "middle" });
  context.fillText(MARKERS[which], x, y);
}
