/** The small pictures of all heads: out of the block they come in, and as pixels. */

import type { Lut, Palette, Scale } from "./theme.ts";
import { level, pixel, ramp, signedLevel } from "./theme.ts";
import type { Block, PartInfo, Reduce, Selection } from "./wire.ts";
import { needArray, thumbTable } from "./wire.ts";

export interface Thumbs {
  rows: number;
  cols: number;
  heads: number; // stored per layer
  layers: number;
  single: Uint8Array; // [layers, heads, rows, cols]
  reduced: Record<Reduce, Uint8Array>; // [layers + heads + 1, rows, cols]
  allowed: Float32Array; // [layers, rows]
  weights: Float32Array; // [256]
  /** The codes are of differences: the one in the middle is none. */
  signed: boolean;
}

export function thumbsOf(block: Block): Thumbs {
  const single = needArray(block, "heads", "u8", [-1, -1, -1, -1]);
  const [layers, heads, rows, cols] = single.shape;
  const reduced = (name: Reduce): Uint8Array => needArray(block, name, "u8", [layers + heads + 1, rows, cols]).data;
  const { vmax, signed } = block.meta;
  const most = typeof vmax === "number" ? vmax : 1;
  return {
    rows, cols, heads, layers, signed: signed === true,
    single: single.data,
    reduced: { mean: reduced("mean"), max: reduced("max"), min: reduced("min") },
    allowed: needArray(block, "allowed", "f32", [layers, rows]).data,
    weights: signed === true ? deltaTable(most) : thumbTable(most),
  };
}

const NONE = 125; // code of no difference
const LAST = 250; // largest code that is a weight; 253 NaN, 254 padded, 255 masked

/** Difference behind each code: ±vmax·((v − 125) / 125)². */
const deltaTable = (vmax: number): Float32Array =>
  thumbTable(vmax).map((weight, v) => (v <= LAST ? Math.sign(v - NONE) * vmax * ((v - NONE) / NONE) ** 2 : weight));

/** Codes of one cell, [rows, cols]. */
export function codesOf({ single, reduced, rows, cols, heads, layers }: Thumbs, { layer, head }: Pick<Selection, "layer" | "head">, reduce: Reduce): Uint8Array {
  const size = rows * cols;
  const [source, at] = layer !== null && head !== null ? [single, layer * heads + head] : [reduced[reduce], layer ?? layers + (head ?? heads)];
  return source.subarray(at * size, (at + 1) * size);
}

// ── colours ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** The colours of the 256 codes, in each row of the pictures of a layer (or of the margin): rows may differ in how many keys they may look at. */
export type Inks = (layer: number | null) => (row: number) => Lut;

export function inksOf(thumbs: Thumbs, part: PartInfo, palette: Palette, scale: Scale): Inks {
  const { weights, signed } = thumbs;
  const lut = ramp(palette, signed ? "difference" : scale);
  const known = new Map<number, Lut>();
  const coloured = (allowed: number): Lut => {
    const colours = known.get(allowed) ?? new Uint32Array(256).fill(pixel(palette.accent)); // NaN
    if (known.has(allowed)) return colours;
    for (let code = 0; code <= LAST; code++) colours[code] = lut[Math.round(255 * (signed ? signedLevel(weights[code], scale) : level(weights[code], scale, allowed)))];
    colours[254] = pixel(palette.line);
    colours[255] = pixel(palette.ground);
    known.set(allowed, colours);
    return colours;
  };
  return (layer) => (row) => coloured(scale === "uniform" && !signed ? allowedIn(thumbs, part, layer, row) : 0);
}

/** Keys a query of thumbnail row `row` may look at, in `layer` or on average over all. */
function allowedIn({ allowed, rows }: Thumbs, { layers }: PartInfo, layer: number | null, row: number): number {
  if (layer !== null) return allowed[layer * rows + row];
  const there = layers.flatMap(({ heads }, at) => (heads > 0 ? allowed[at * rows + row] : []));
  return there.reduce((sum, n) => sum + n, 0) / there.length;
}

// ── pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Where pixels go: rows of `stride`, the first one at `at`. */
export interface Box {
  pixels: Uint32Array;
  stride: number;
  at: number;
  width: number;
  height: number;
}

const COARSE = 8; // marks along the side of the smallest pictures, of two pixels or more each

/** How many marks a picture of `cell` pixels can carry along its side: fewer than it has pixels where it is small. */
export const marksOf = (cell: number): number => (cell < 16 ? Math.max(2, Math.min(COARSE, Math.round(cell / 2))) : Infinity);

/** The picture of a head, at most `marks` marks along each side; the strongest code stands for what does not fit. */
export function paintThumb(thumbs: Thumbs, codes: Uint8Array, inks: (row: number) => Lut, box: Box, marks = Infinity): void {
  const { pixels, stride, at, width, height } = box;
  const [rows, cols] = [Math.min(thumbs.rows, marks, height), Math.min(thumbs.cols, marks, width)];
  const shown = rows < thumbs.rows || cols < thumbs.cols ? pooled(codes, thumbs, rows, cols) : codes;
  const [down, across] = [spans(rows, height), spans(cols, width)];
  for (let y = 0; y < height; y++) {
    const [r0, r1, fr] = down[y];
    const row = at + y * stride;
    if (y > 0 && fr === 0 && down[y - 1][0] === r0 && down[y - 1][2] === 0) {
      pixels.copyWithin(row, row - stride, row - stride + width);
      continue;
    }
    const lut = inks(Math.floor(((r0 + 0.5) * thumbs.rows) / rows));
    for (let x = 0; x < width; x++) {
      const [c0, c1, fc] = across[x];
      const top = blend(lut[shown[r0 * cols + c0]], lut[shown[r0 * cols + c1]], fc);
      pixels[row + x] = fr === 0 ? top : blend(top, blend(lut[shown[r1 * cols + c0]], lut[shown[r1 * cols + c1]], fc), fr);
    }
  }
}

function pooled(codes: Uint8Array, thumbs: Thumbs, rows: number, cols: number): Uint8Array {
  const bin = (n: number, all: number, bins: number): number => Math.floor((n * all) / bins);
  return new Uint8Array(rows * cols).map((_, n) => {
    const [r, c] = [Math.floor(n / cols), n % cols];
    const [r0, r1] = [bin(r, thumbs.rows, rows), bin(r + 1, thumbs.rows, rows)];
    return strongestCode(codes, thumbs.cols, r0, r1, bin(c, thumbs.cols, cols), bin(c + 1, thumbs.cols, cols), thumbs.signed);
  });
}

type Span = readonly [first: number, last: number, share: number];

/** Which of `n` cells lie under each of `size` pixels, which are no fewer: the two, and the share of the second. */
function spans(n: number, size: number): readonly Span[] {
  const known = kept.get(n * 65536 + size);
  if (known !== undefined) return known;
  const made = Array.from({ length: size }, (_, x): Span => {
    const [from, to] = [(x * n) / size, ((x + 1) * n) / size];
    const first = Math.floor(from + 1e-9);
    const last = Math.max(first, Math.ceil(to - 1e-9) - 1);
    return [first, last, last > first ? (to - last) / (to - from) : 0];
  });
  kept.set(n * 65536 + size, made);
  return made;
}

const kept = new Map<number, readonly Span[]>(); // thousands of heads ask for the same

export function strongestCode(codes: Uint8Array, cols: number, r0: number, r1: number, c0: number, c1: number, signed: boolean): number {
  let [most, found, size] = [254, -1, -1];
  for (let r = r0; r < r1; r++) {
    for (let c = c0; c < c1; c++) {
      const code = codes[r * cols + c];
      if (code === 253) return code;
      const far = signed ? Math.abs(code - NONE) : code;
      if (code > LAST) most = Math.max(most, code);
      else if (far > size) [found, size] = [code, far];
    }
  }
  return found >= 0 ? found : most;
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
