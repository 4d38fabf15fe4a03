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
    const [r0, r1, fr] = [down.first[y], down.last[y], down.share[y]];
    const row = at + y * stride;
    if (y > 0 && fr === 0 && down.first[y - 1] === r0 && down.share[y - 1] === 0) {
      pixels.copyWithin(row, row - stride, row - stride + width);
      continue;
    }
    const lut = inks(Math.floor(((r0 + 0.5) * thumbs.rows) / rows));
    for (let x = 0; x < width; x++) {
      const c0 = across.first[x];
      const c1 = across.last[x];
      const fc = across.share[x];
      const top = blend(lut[shown[r0 * cols + c0]], lut[shown[r0 * cols + c1]], fc);
      pixels[row + x] = fr === 0 ? top : blend(top, blend(lut[shown[r1 * cols + c0]], lut[shown[r1 * cols + c1]], fc), fr);
    }
  }
}

function pooled(codes: Uint8Array, thumbs: Thumbs, rows: number, cols: number): Uint8Array {
  const made = new Uint8Array(rows * cols);
  const [down, across] = [spans(rows, thumbs.rows), spans(cols, thumbs.cols)];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < cols; c++) {
      made[r * cols + c] = strongestCode(codes, thumbs.cols, down.starts[r], down.starts[r + 1], across.starts[c], across.starts[c + 1], thumbs.signed);
    }
  }
  return made;
}

/** `n` cells laid along `size` pixels, which are no fewer. */
interface Spans {
  /** The cells under each pixel: the first and the last, which are one or two, and the share of the last if it is another. */
  first: Uint16Array;
  last: Uint16Array;
  share: Float32Array;
  /** Where the pixels of each cell begin; one more than there are cells. */
  starts: Uint16Array;
}

function spans(n: number, size: number): Spans {
  const known = kept.get(n * 65536 + size);
  if (known !== undefined) return known;
  const made = { first: new Uint16Array(size), last: new Uint16Array(size), share: new Float32Array(size), starts: new Uint16Array(n + 1).map((_, at) => Math.floor((at * size) / n)) };
  for (let x = 0; x < size; x++) {
    const [from, to] = [(x * n) / size, ((x + 1) * n) / size];
    const first = (made.first[x] = Math.floor(from + 1e-9));
    const last = (made.last[x] = Math.max(first, Math.ceil(to - 1e-9) - 1));
    made.share[x] = last > first ? (to - last) / (to - from) : 0;
  }
  kept.set(n * 65536 + size, made);
  return made;
}

const kept = new Map<number, Spans>(); // thousands of heads ask for the same

export function strongestCode(codes: Uint8Array, cols: number, r0: number, r1: number, c0: number, c1: number, signed: boolean): number {
  let most = 254;
  let found = -1;
  let size = -1;
  for (let r = r0; r < r1; r++) {
    for (let at = r * cols + c0; at < r * cols + c1; at++) {
      const code = codes[at];
      if (code === 253) return code;
      const far = signed ? Math.abs(code - NONE) : code;
      if (code > LAST) most = Math.max(most, code);
      else if (far > size) {
        found = code;
        size = far;
      }
    }
  }
  return found >= 0 ? found : most;
}

function blend(one: number, other: number, share: number): number {
  if (share === 0 || one === other) return one;
  let mixed = 0;
  for (let bit = 0; bit < 32; bit += 8) {
    const part = (one >>> bit) & 255;
    mixed |= Math.round(part + (((other >>> bit) & 255) - part) * share) << bit;
  }
  return mixed >>> 0;
}
