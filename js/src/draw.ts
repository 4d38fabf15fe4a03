/** Canvas primitives: sharp surfaces, cells, hatching, edges. They know colours and numbers, not tokens or heads. */

import { MASKED, PADDED } from "./math.ts";
import type { Lut, Palette, Scale } from "./theme.ts";
import { css, level, pixel } from "./theme.ts";
import { atEnd, listen } from "./until.ts";

/** Sizes `canvas` for the screen's pixels and clears it; the context is in CSS pixels. */
export function fit(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const ratio = pixelRatio();
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
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
}

export const paintOf = (palette: Palette, scale: Scale, lut: Lut): Paint => ({ scale, lut, masked: pixel(palette.ground), nan: pixel(palette.accent) });

const CLEAR = 0; // padded cells let the hatching behind them through

function cellPixel(cell: number, paint: Paint, allowed: number): number {
  if (cell >= 0) return paint.lut[Math.round(255 * level(cell, paint.scale, allowed))];
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

/** Rows × cols thumbnail codes, drawn into a width × height box of `pixels` (`stride` wide) that starts at `at`. */
export function paintThumb(
  codes: Uint8Array, rows: number, cols: number, lutOf: (row: number) => Lut,
  pixels: Uint32Array, stride: number, at: number, width: number, height: number,
): void {
  const [down, across] = [spans(rows, height), spans(cols, width)];
  for (let y = 0; y < height; y++) {
    const [r0, r1, fr] = down[y];
    const lut = lutOf(r0);
    for (let x = 0; x < width; x++) {
      const [c0, c1, fc] = across[x];
      let colour: number;
      if (rows > height || cols > width) {
        colour = lut[strongestCode(codes, cols, r0, Math.max(r1, r0 + 1), c0, Math.max(c1, c0 + 1))];
      } else {
        const top = blend(lut[codes[r0 * cols + c0]], lut[codes[r0 * cols + c1]], fc);
        colour = fr === 0 ? top : blend(top, blend(lut[codes[r1 * cols + c0]], lut[codes[r1 * cols + c1]], fc), fr);
      }
      pixels[at + y * stride + x] = colour;
    }
  }
}

type Span = readonly [first: number, last: number, share: number];

/**
 * Which of `n` cells lie under each of `size` pixels. With room to spare: the two cells under a pixel and the share of the
 * second. Without: the range [first, last) of cells to pool.
 */
function spans(n: number, size: number): Span[] {
  return Array.from({ length: size }, (_, x): Span => {
    const [from, to] = [(x * n) / size, ((x + 1) * n) / size];
    if (n > size) return [Math.floor(from), Math.floor(to), 0];
    const first = Math.min(n - 1, Math.floor(from + 1e-9));
    const last = Math.min(n - 1, Math.ceil(to - 1e-9) - 1);
    return [first, Math.max(first, last), last > first ? (to - last) / (to - from) : 0];
  });
}

const CODE_ORDER = 250; // largest code that is a weight; 253 NaN, 254 padded, 255 masked

function strongestCode(codes: Uint8Array, cols: number, r0: number, r1: number, c0: number, c1: number): number {
  let most = 254;
  let weight = -1;
  for (let r = r0; r < r1; r++) {
    for (let c = c0; c < c1; c++) {
      const code = codes[r * cols + c];
      if (code <= CODE_ORDER) weight = Math.max(weight, code);
      else if (code === 253) return code;
      else most = Math.max(most, code);
    }
  }
  return weight >= 0 ? weight : most;
}

function blend(one: number, other: number, share: number): number {
  if (share === 0 || one === other) return one;
  let mixed = 0;
  for (let bit = 0; bit < 32; bit += 8) {
    const [p, q] = [(one >>> bit) & 255, (other >>> bit) & 255];
    mixed |= Math.round(p + (q - p) * share) << bit;
  }
  return mixed >>> 0;
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
  /** Heights of the two ends. */
  from: number;
  to: number;
  weight: number;
  /** Ends out of sight. */
  away?: boolean;
}

/** Hairlines from x0 to x1, weakest first so that the strong ones lie on top. Stronger is darker, and a crowd is paler. */
export function hairlines(context: CanvasRenderingContext2D, edges: readonly Edge[], x0: number, x1: number, palette: Palette): void {
  const middle = (x0 + x1) / 2;
  const crowd = Math.min(1, (120 / edges.length) ** 0.4);
  context.lineWidth = 1;
  context.strokeStyle = css(palette.soft);
  for (let n = edges.length - 1; n >= 0; n--) {
    const { from, to, weight, away } = edges[n];
    context.globalAlpha = crowd * hairlineAlpha(weight) * (away === true ? 0.4 : 1);
    context.beginPath();
    context.moveTo(x0, from);
    context.bezierCurveTo(middle, from, middle, to, x1, to);
    context.stroke();
  }
  context.globalAlpha = 1;
}

const hairlineAlpha = (weight: number): number => 0.1 + 0.42 * Math.sqrt(Math.min(1, weight));

const WIDEST = 7.5; // pixels at the query end of an edge that carries everything

/** Edges as tapers, wide at the query and narrow at the key, so that their direction shows without colour. */
export function tapers(context: CanvasRenderingContext2D, edges: readonly Edge[], x0: number, x1: number, colour: string, alpha = 1): void {
  context.fillStyle = context.strokeStyle = colour;
  for (let n = edges.length - 1; n >= 0; n--) {
    const { from, to, weight } = edges[n];
    const root = Math.sqrt(Math.min(1, weight));
    context.globalAlpha = alpha * (0.3 + 0.65 * root);
    context.beginPath();
    if (root < 0.12) {
      const middle = (x0 + x1) / 2;
      context.lineWidth = 1;
      context.moveTo(x0, from);
      context.bezierCurveTo(middle, from, middle, to, x1, to);
      context.stroke();
    } else {
      taperPath(context, from, to, x0, x1, 0.6 + (WIDEST * root) / 2);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

const NARROW = 0.38; // width at the key, as a share of the width at the query

/** The outline of the curve of a hairline, `half` wide on each side at the query. */
function taperPath(context: CanvasRenderingContext2D, from: number, to: number, x0: number, x1: number, half: number): void {
  const [dx, dy] = [x1 - x0, to - from];
  const side = (t: number, sign: number): void => {
    const s = 1 - t;
    // Control points at the middle: x runs 0, ½, ½, 1 and y runs 0, 0, 1, 1.
    const x = x0 + dx * (1.5 * s * s * t + 1.5 * s * t * t + t * t * t);
    const y = from + dy * (3 * s * t * t + t * t * t);
    const [tx, ty] = [dx * (1.5 * s * s + 1.5 * t * t), 6 * dy * s * t];
    const length = Math.hypot(tx, ty) || 1;
    const width = (sign * half * (1 - (1 - NARROW) * t)) / length;
    context.lineTo(x - ty * width, y + tx * width);
  };
  const steps = Math.min(96, 16 + Math.round(Math.abs(dy) / 20));
  for (let n = 0; n <= steps; n++) side(n / steps, 1);
  for (let n = steps; n >= 0; n--) side(n / steps, -1);
  context.closePath();
}
