/**
 * Attention weights out of blocks, and numbers about them. Pure: no drawing, no messages.
 *
 * One head as Q and K gives every weight again:
 *
 *     s_ij = cap · tanh(q_i·k_j · scale / cap) + bias_ij        p_ij = exp(s_ij − lse_i)        0 where not allowed
 *
 * A row costs n_k · d multiply-adds (0.05 ms at 1024 × 64) and a whole map n_q times that (25 to 40 ms), so rows are
 * computed when somebody looks at them, and nothing of size n_q × n_k is kept.
 */

import type { Block } from "./wire.ts";
import { damaged, findArray, isCount, MASKED, needArray, PADDED, weightTable, WireError } from "./wire.ts";

export { MASKED, PADDED };

/** Whether a cell holds a number to look at, and no code and no NaN. */
export const isWeight = (cell: number): boolean => cell > MASKED;

/**
 * The weights of one map, [n_q, n_k]. Cells are weights ≥ 0 (of either sign where the map is `signed`), NaN (the model
 * made one), or the codes MASKED (the query may not see the key) and PADDED (one of the two is padding).
 */
export interface WeightMap {
  readonly nq: number;
  readonly nk: number;
  /** The difference of two maps: cells may be below 0. */
  readonly signed: boolean;
  /** Stored pooled: a cell stands for `step` query rows × key columns; exact rows and columns have to be asked for. */
  readonly pooled: boolean;
  readonly step: readonly [number, number];
  /** What a pooled cell is, where that is not "the strongest" of its block. */
  readonly pooledAs?: string;
  /** Stored from some of the query rows only: a maximum may be missing. */
  readonly sampled: boolean;
  /** No weight is larger than this. */
  readonly vmax: number;
  /** Multiply-adds behind one cell: d where the map is computed from Q and K, 1 where weights are stored. */
  readonly depth: number;
  /** Bound on the error of a weight, as it was measured when the map was packed. */
  readonly maxError: number;
  /** Row of query `i`, [n_k], a fresh array. `null` only when pooled. */
  row(i: number): Float32Array | null;
  /** Column of key `j`, [n_q], a fresh array. `null` only when pooled. */
  column(j: number): Float32Array | null;
  /** Cells [r0, r1) × [c0, c1), row by row, into `out` when it is large enough. Pooled maps repeat the pooled cell. */
  tile(r0: number, r1: number, c0: number, c1: number, out?: Float32Array): Float32Array;
  /** Number of keys query `i` may attend to, padding not counted. An estimate from the pooled cells when pooled. */
  allowed(i: number): number;
  /** What query `i` gives to no key (to a sink): 1 − row sum. 0 in maps without sinks. */
  leak(i: number): number;
}

/** The map in a "qk" or "weights" block. Throws WireError, in words, when the arrays do not fit together. */
export function weightMap(block: Block): WeightMap {
  if (block.kind === "qk") return computedMap(block);
  if (block.kind === "weights") return storedMap(block);
  throw new WireError(`Data of the kind “${block.kind}” hold no attention map.`);
}

/** Writes the cells [r0, r1) × [c0, c1) of a map, row by row. */
export type Fill = (r0: number, r1: number, c0: number, c1: number, out: Float32Array) => void;

/** A map whose cells come from `fill`. */
export function filled(about: Omit<WeightMap, "tile" | "row" | "column">, fill: Fill): WeightMap {
  const { nq, nk, pooled } = about;
  const tile: WeightMap["tile"] = (r0, r1, c0, c1, out) => {
    checkTile(nq, nk, r0, r1, c0, c1);
    const size = (r1 - r0) * (c1 - c0);
    const cells = out !== undefined && out.length >= size ? out : new Float32Array(size);
    fill(r0, r1, c0, c1, cells);
    return cells;
  };
  return { ...about, tile, row: (i) => (pooled ? null : tile(i, i + 1, 0, nk)), column: (j) => (pooled ? null : tile(0, nq, j, j + 1)) };
}

/** All cells of a "weights" block, [r, c] row by row: what the answers to "row" and "column" carry. */
export function cellsOf(block: Block): Float32Array {
  const { rows, cols, decode } = storedCells(block);
  const out = new Float32Array(rows * cols);
  for (let r = 0; r < rows; r++) decode(r, 0, cols, out, r * cols);
  return out;
}

const NEAR = 6144; // floats of K worked on at a time, so that they stay in the first-level cache (24 kB)

// ── a head as Q and K ───────────────────────────────────────────────────────────────────────────────────────────────

function computedMap(block: Block): WeightMap {
  const [nq, nk, depth] = [metaCount(block, "n_q"), metaCount(block, "n_k"), metaCount(block, "d")];
  const scale = metaNumber(block, "scale");
  const cap = metaNumber(block, "softcap", 0); // 0: none
  const q = vectors(block, "q", nq, depth);
  const k = vectors(block, "k", nk, depth);
  const lse = needArray(block, "lse", "f32", [nq]).data;
  const bias = findArray(block, "bias", "f32", [Math.max(0, nq + nk - 1)])?.data ?? null; // bias_ij = bias[j - i + nq - 1]
  const { start, stop, keep, bits, allowed, sink } = rules(block, nq, nk);

  /** Turns the dot products of query `i` with keys [c0, c1), which lie in `cells` from `at`, into weights and codes. */
  const finish = (i: number, c0: number, c1: number, cells: Float32Array, at: number): void => {
    if (allowed[i] === 0 || lse[i] === -Infinity) {
      cells.fill(PADDED, at, at + c1 - c0);
      return;
    }
    const share = lse[i];
    const bitRow = i * ((nk + 7) >> 3);
    const diagonal = nq - 1 - i;
    const from = start[i];
    const to = stop[i];
    at -= c0;
    for (let j = c0; j < c1; j++) {
      if (keep[j] === 0) cells[at + j] = PADDED;
      else if (j < from || j >= to || (bits !== null && ((bits[bitRow + (j >> 3)] >> (j & 7)) & 1) === 0)) cells[at + j] = MASKED;
      else {
        let s = cells[at + j] * scale;
        if (cap !== 0) s = cap * Math.tanh(s / cap);
        if (bias !== null) s += bias[j + diagonal];
        const p = Math.exp(s - share);
        // Rounded Q and K overshoot 1 by a hair; whatever overshoots by more is no weight, and is shown as none.
        cells[at + j] = p <= 1 ? p : p < 1.01 ? 1 : NaN;
      }
    }
  };
  const fill: Fill = (r0, r1, c0, c1, cells) => {
    const width = c1 - c0;
    const block = Math.max(4, Math.floor(NEAR / Math.max(1, depth)));
    for (let b0 = c0; b0 < c1; b0 += block) {
      const b1 = Math.min(c1, b0 + block);
      for (let i = r0; i < r1; i += 2) {
        const next = Math.min(i + 1, r1 - 1); // the last row of an odd tile is its own partner
        const from = Math.max(b0, Math.min(start[i], start[next]));
        const to = Math.min(b1, Math.max(stop[i], stop[next]));
        dotProducts(q, k, depth, i, next, from, to, cells, (i - r0) * width - c0, (next - r0) * width - c0);
      }
    }
    for (let i = r0; i < r1; i++) finish(i, c0, c1, cells, (i - r0) * width);
  };
  return filled({
    nq, nk, depth, signed: false, pooled: false, step: [1, 1], sampled: false, vmax: 1, maxError: metaNumber(block, "max_error", 0),
    allowed: (i) => allowed[i],
    // The sink is one more term of the softmax: its share of the row is what the keys do not get.
    leak: (i) => (sink === null || allowed[i] === 0 ? 0 : Math.max(0, Math.min(1, Math.exp(sink[sink.length === 1 ? 0 : i] - lse[i])))),
  }, fill);
}

/** Which keys each query may see, and the logit that takes weight and is no key; as "qk" and "steps" blocks have them. */
export interface Rules {
  start: Int32Array; // [nq], query i may see keys start ≤ j < stop …
  stop: Int32Array; // [nq]
  keep: Uint8Array; // [nk], … that are no padding …
  bits: Uint8Array | null; // [nq, ceil(nk / 8)], … and whose bit is set
  allowed: Uint32Array; // [nq], how many keys that leaves
  sink: Float32Array | null; // [1] or [nq]
}

export function rules(block: Block, nq: number, nk: number): Rules {
  const start = needArray(block, "start", "i32", [nq]).data;
  const stop = needArray(block, "stop", "i32", [nq]).data;
  const keep = needArray(block, "keep", "u8", [nk]).data;
  const bits = findArray(block, "bits", "u8", [nq, (nk + 7) >> 3])?.data ?? null;
  const sink = findArray(block, "sink", "f32", [-1])?.data ?? null;
  const what = `“${block.kind}” data`;
  if (sink !== null && sink.length !== 1 && sink.length !== nq) throw damaged(`${sink.length} sinks for ${nq} queries.`, what);
  const wrong = start.findIndex((from, i) => from < 0 || stop[i] < from || stop[i] > nk);
  if (wrong >= 0) throw damaged(`query ${wrong} may see keys ${start[wrong]} to ${stop[wrong]} of ${nk}.`, what);
  return { start, stop, keep, bits, allowed: countAllowed(start, stop, keep, bits), sink };
}

/** Vectors as [n, d] floats: stored as such (exact), or as i16 times one step per row. */
export function vectors(block: Block, name: string, n: number, d: number): Float32Array {
  if (block.arrays.get(name)?.dtype !== "i16") return needArray(block, name, "f32", [n, d]).data;
  const codes = needArray(block, name, "i16", [n, d]).data;
  const steps = needArray(block, `${name}_step`, "f32", [n]).data;
  const out = new Float32Array(n * d);
  for (let i = 0; i < n; i++) {
    const step = steps[i];
    for (let x = i * d; x < (i + 1) * d; x++) out[x] = codes[x] * step;
  }
  return out;
}

/**
 * q_i·k_j and q_next·k_j for keys [from, to), to out[at + j] and out[atNext + j]. Two queries by four keys at a time: the
 * eight sums live in registers, and each number loaded is used two or four times.
 */
function dotProducts(
  q: Float32Array,
  k: Float32Array,
  d: number,
  i: number,
  next: number,
  from: number,
  to: number,
  out: Float32Array,
  at: number,
  atNext: number,
): void {
  const qa = i * d;
  const qb = next * d;
  let j = from;
  for (; j + 3 < to; j += 4) {
    const k0 = j * d;
    const k1 = k0 + d;
    const k2 = k1 + d;
    const k3 = k2 + d;
    let a0 = 0;
    let a1 = 0;
    let a2 = 0;
    let a3 = 0;
    let b0 = 0;
    let b1 = 0;
    let b2 = 0;
    let b3 = 0;
    for (let x = 0; x < d; x++) {
      const a = q[qa + x];
      const b = q[qb + x];
      const y0 = k[k0 + x];
      const y1 = k[k1 + x];
      const y2 = k[k2 + x];
      const y3 = k[k3 + x];
      a0 += a * y0;
      a1 += a * y1;
      a2 += a * y2;
      a3 += a * y3;
      b0 += b * y0;
      b1 += b * y1;
      b2 += b * y2;
      b3 += b * y3;
    }
    out[at + j] = a0;
    out[at + j + 1] = a1;
    out[at + j + 2] = a2;
    out[at + j + 3] = a3;
    out[atNext + j] = b0;
    out[atNext + j + 1] = b1;
    out[atNext + j + 2] = b2;
    out[atNext + j + 3] = b3;
  }
  for (; j < to; j++) {
    let a0 = 0;
    let b0 = 0;
    for (let x = 0, kx = j * d; x < d; x++, kx++) {
      a0 += q[qa + x] * k[kx];
      b0 += q[qb + x] * k[kx];
    }
    out[at + j] = a0;
    out[atNext + j] = b0;
  }
}

/** For each query the number of keys in [start, stop) that are kept and whose bit is set. */
function countAllowed(start: Int32Array, stop: Int32Array, keep: Uint8Array, bits: Uint8Array | null): Uint32Array {
  const nk = keep.length;
  const counts = new Uint32Array(start.length);
  if (bits === null) {
    const kept = new Uint32Array(nk + 1); // running count of kept keys
    for (let j = 0; j < nk; j++) kept[j + 1] = kept[j] + (keep[j] === 0 ? 0 : 1);
    for (let i = 0; i < counts.length; i++) counts[i] = kept[stop[i]] - kept[start[i]];
    return counts;
  }
  const stride = (nk + 7) >> 3;
  for (let i = 0; i < counts.length; i++) {
    let count = 0;
    for (let j = start[i]; j < stop[i]; j++) if (keep[j] !== 0) count += (bits[i * stride + (j >> 3)] >> (j & 7)) & 1;
    counts[i] = count;
  }
  return counts;
}

// ── a map as stored weights ─────────────────────────────────────────────────────────────────────────────────────────

interface StoredCells {
  rows: number;
  cols: number;
  vmax: number;
  /** Writes the stored cells [c0, c1) of stored row `r` to `out` from `at`. */
  decode: (r: number, c0: number, c1: number, out: Float32Array, at: number) => void;
}

function storedCells(block: Block): StoredCells {
  const exact = findArray(block, "exact", "f32", [-1, -1]);
  if (exact !== null) {
    const [rows, cols] = exact.shape;
    const codes = needArray(block, "code", "u8", [rows, cols]).data;
    const decode: StoredCells["decode"] = (r, c0, c1, out, at) => {
      for (let c = c0, from = r * cols + c0; c < c1; c++, from++, at++) {
        out[at] = codes[from] === 0 ? exact.data[from] : codes[from] === 255 ? MASKED : codes[from] === 254 ? PADDED : NaN;
      }
    };
    return { rows, cols, vmax: metaNumber(block, "vmax", largest(exact.data)), decode };
  }
  const hi = needArray(block, "hi", "u8", [-1, -1]);
  const [rows, cols] = hi.shape;
  const lo = needArray(block, "lo", "u8", [rows, cols]);
  const vmax = metaNumber(block, "vmax");
  const table = weightTable(vmax);
  const decode: StoredCells["decode"] = (r, c0, c1, out, at) => {
    for (let c = c0, from = r * cols + c0; c < c1; c++, from++, at++) out[at] = table[(hi.data[from] << 8) | lo.data[from]];
  };
  return { rows, cols, vmax, decode };
}

function storedMap(block: Block): WeightMap {
  const [nq, nk] = [metaCount(block, "n_q"), metaCount(block, "n_k")];
  const [r0, r1] = metaPair(block, "rows");
  const [c0, c1] = metaPair(block, "cols");
  const step = metaPair(block, "step");
  const [sr, sc] = step;
  if (r0 !== 0 || c0 !== 0 || r1 !== nq || c1 !== nk) {
    throw new WireError(`These are rows ${r0} to ${r1} and columns ${c0} to ${c1} of a map of ${nq} × ${nk}, not the whole map.`);
  }
  const { rows, cols, vmax, decode } = storedCells(block);
  if (sr < 1 || sc < 1 || rows !== Math.ceil(nq / sr) || cols !== Math.ceil(nk / sc)) {
    throw damaged(`${rows} × ${cols} cells in steps of ${sr} × ${sc} are not a map of ${nq} × ${nk}.`, `“weights” data`);
  }
  const pooled = sr > 1 || sc > 1;
  const maxError = metaNumber(block, "max_error", block.arrays.has("exact") ? 0 : vmax / 65000);
  const leaks = findArray(block, "leak", "f32", [rows])?.data ?? null;
  const counts = new Int32Array(rows).fill(-1); // until counted

  const fill: Fill = (r0, r1, c0, c1, cells) => {
    if (!pooled) {
      for (let r = r0; r < r1; r++) decode(r, c0, c1, cells, (r - r0) * (c1 - c0));
      return;
    }
    const stored = new Float32Array(cols);
    for (let r = r0, at = 0; r < r1; r++) {
      if (r === r0 || r % sr === 0) decode(Math.floor(r / sr), 0, cols, stored, 0);
      for (let c = c0; c < c1; c++) cells[at++] = stored[Math.floor(c / sc)];
    }
  };
  const allowed = (i: number): number => {
    const r = Math.floor(i / sr);
    if (counts[r] < 0) {
      const row = new Float32Array(cols);
      decode(r, 0, cols, row, 0);
      counts[r] = Math.min(nk, row.filter((cell) => cell !== MASKED && cell !== PADDED).length * sc);
    }
    return counts[r];
  };
  const leak = (i: number): number => Math.max(0, Math.min(1, leaks?.[Math.floor(i / sr)] ?? 0)) || 0; // NaN is none
  return filled({ nq, nk, depth: 1, signed: false, pooled, step, sampled: block.meta["sampled"] === true, vmax, maxError, allowed, leak }, fill);
}

// ── a whole map, a band at a time ───────────────────────────────────────────────────────────────────────────────────

/** Queries [r0, r1) by keys [c0, c1). */
export interface Region {
  r0: number;
  r1: number;
  c0: number;
  c1: number;
}

/** A region of a map, max-pooled to rows × cols cells. Bin b of B over n covers [binStart(b, n, B), binStart(b + 1, n, B)). */
export interface Overview {
  rows: number;
  cols: number;
  region: Region;
  /** [rows, cols], with codes. Rows that are not done yet are PADDED. */
  cells: Float32Array;
  /** Rows [0, done) are final. */
  done: number;
  /** Not every query was computed, only an even sample of each bin: a maximum may be missing. */
  sampled: boolean;
}

export interface OverviewOptions {
  /** What to pool; the whole map by default. */
  region?: Region;
  signal?: AbortSignal;
  /** Called with the same object after each turn of about 8 ms, when rows [0, done) can be drawn. */
  onBand?: (overview: Overview) => void;
  /** Multiply-adds to spend before rows are sampled. 10¹⁰ (a few seconds, in turns) covers 8192² × 128. */
  budget?: number;
}

const TURN = 8; // milliseconds of work before others get a turn
const AT_ONCE = 7e7; // multiply-adds that are worth no turns: half of them, behind a causal mask, take some 30 ms at 1024² × 64

/**
 * Max-pools a region to at most rows × cols cells: a cell is NaN if any of its weights is, else the largest weight (of
 * signed maps the one furthest from 0), else masked, else padded. Works in turns so that pointer and keyboard stay quick; rejects when `signal` aborts.
 */
export async function overview(map: WeightMap, rows: number, cols: number, options: OverviewOptions = {}): Promise<Overview> {
  const { region = { r0: 0, r1: map.nq, c0: 0, c1: map.nk }, signal, onBand, budget = 1e10 } = options;
  const { r0, r1, c0, c1 } = region;
  checkTile(map.nq, map.nk, r0, r1, c0, c1);
  const height = r1 - r0;
  const width = c1 - c0;
  const result: Overview = {
    rows: Math.min(height, Math.max(1, Math.floor(rows))),
    cols: Math.min(width, Math.max(1, Math.floor(cols))),
    region,
    cells: new Float32Array(0),
    done: 0,
    sampled: map.sampled,
  };
  const cells = (result.cells = new Float32Array(result.rows * result.cols).fill(PADDED));
  const perBin = Math.max(1, Math.floor(budget / (Math.max(1, width) * map.depth * Math.max(1, result.rows))));
  const together = Math.max(1, Math.min(16, Math.floor(4e6 / (Math.max(1, width) * map.depth)))); // rows: 2 ms at most
  const scratch = new Float32Array(together * width);
  const starts = Uint32Array.from({ length: result.cols + 1 }, (_, b) => binStart(b, width, result.cols));

  const atOnce = height * width * map.depth <= AT_ONCE;
  const turn = inTurns();
  for (let b = 0; b < result.rows; b++) {
    const from = r0 + binStart(b, height, result.rows);
    const to = r0 + binStart(b + 1, height, result.rows);
    const stride = Math.max(1, (to - from) / perBin);
    if (stride > 1) result.sampled = true;
    for (let n = 0; from + n * stride < to; ) {
      signal?.throwIfAborted();
      const i = from + Math.floor(n * stride);
      const count = stride === 1 ? Math.min(together, to - i) : 1; // rows together cost less than one by one
      map.tile(i, i + count, c0, c1, scratch);
      for (let row = 0; row < count; row++) poolInto(scratch, row * width, starts, cells, b * result.cols, map.signed);
      n += count;
      const others = atOnce ? null : turn();
      if (others === null) continue;
      result.done = b;
      onBand?.(result);
      await others;
    }
  }
  signal?.throwIfAborted();
  result.done = result.rows;
  onBand?.(result);
  return result;
}

/** First index of bin `b` when `n` things are put into `bins` bins as evenly as whole numbers allow. */
export function binStart(b: number, n: number, bins: number): number {
  return Math.floor((b * n) / bins);
}

/** Raises out[at + bin] to the largest of row[from + bin's columns]. The codes are ordered so that this is all there is to it. */
function poolInto(row: Float32Array, from: number, starts: Uint32Array, out: Float32Array, at: number, signed: boolean): void {
  for (let b = 0, c = from; b + 1 < starts.length; b++) {
    let most = out[at + b];
    for (const end = from + starts[b + 1]; c < end; c++) {
      const cell = row[c];
      if (signed && isWeight(cell) && isWeight(most) ? Math.abs(cell) > Math.abs(most) : cell > most) most = cell;
      else if (cell !== cell) most = NaN; // and stays NaN: nothing is larger than it
    }
    out[at + b] = most;
  }
}

/** For work in turns: called often, it gives a promise to wait for when it is the turn of others. */
export function inTurns(): () => Promise<void> | null {
  let began = performance.now();
  return () => (performance.now() - began < TURN ? null : nextTurn().then(() => { began = performance.now(); }));
}

function nextTurn(): Promise<void> {
  // Not setTimeout, which browsers stretch to 4 ms.
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

// ── numbers about rows and maps ─────────────────────────────────────────────────────────────────────────────────────

export interface Strongest {
  /** Keys, strongest first; equal weights in the order of the keys. */
  indices: Uint32Array;
  /** What they carry together. */
  mass: number;
  /** What the other keys carry, and how many of them carry anything. */
  rest: number;
  restCount: number;
}

/** The fewest keys that carry `share` of a row's mass, at most `limit`; of differences their size counts. O(n + k log n) for k keys. */
export function strongest(row: Float32Array, share: number, limit = Infinity): Strongest {
  let total = 0;
  let size = 0;
  const heap = new Uint32Array(row.length); // largest weight first
  for (let j = 0; j < row.length; j++) {
    if (isWeight(row[j]) && row[j] !== 0) {
      total += Math.abs(row[j]);
      heap[size++] = j;
    }
  }
  const before = (a: number, b: number): boolean => {
    const [p, q] = [Math.abs(row[a]), Math.abs(row[b])];
    return p > q || (p === q && a < b);
  };
  const sink = (at: number): void => {
    const key = heap[at];
    for (let child = 2 * at + 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && before(heap[child + 1], heap[child])) child++;
      if (!before(heap[child], key)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = key;
  };
  for (let at = (size >> 1) - 1; at >= 0; at--) sink(at);

  const picked: number[] = [];
  const enough = share * total * (1 - 1e-6); // as many as in exact arithmetic, in spite of rounding
  let mass = 0;
  while (size > 0 && picked.length < limit && mass < enough) {
    picked.push(heap[0]);
    mass += Math.abs(row[heap[0]]);
    heap[0] = heap[--size];
    sink(0);
  }
  return { indices: Uint32Array.from(picked), mass, rest: size === 0 ? 0 : Math.max(0, total - mass), restCount: size };
}

export interface Summary {
  /** Mean |i − j| by weight. Means something only where queries and keys are the same tokens. */
  distance: number;
  /** exp(entropy): over how many keys a row spreads its weight, as if evenly. */
  effective: number;
  /** Weight on the first key that is no padding. */
  first: number;
  /** Not every row was looked at. */
  sampled: boolean;
}

const SUMMARY_WORK = 3e7; // multiply-adds, about 30 ms

/**
 * Three numbers about a map, averaged over the rows that have keys: all rows of small maps, else at most 256 evenly spaced
 * ones (fewer where rows are dear). Distance and spread are of the weight that reaches keys; `null` for pooled maps and
 * for maps without any weight.
 */
export function summary(map: WeightMap): Summary | null {
  if (map.pooled || map.signed || map.nq === 0 || map.nk === 0) return null;
  const count = Math.min(map.nq, Math.max(16, Math.min(256, Math.floor(SUMMARY_WORK / (map.nk * map.depth)))));
  const row = new Float32Array(map.nk);
  const sum = { distance: 0, effective: 0, first: 0 };
  let rows = 0;
  for (let n = 0; n < count; n++) {
    // From the first row to the last, both included.
    const i = count === 1 ? map.nq - 1 : Math.round((n * (map.nq - 1)) / (count - 1));
    map.tile(i, i + 1, 0, map.nk, row);
    let [mass, moment, plogp] = [0, 0, 0];
    for (let j = 0; j < row.length; j++) {
      const p = row[j];
      if (!(p > 0)) continue;
      mass += p;
      moment += p * Math.abs(i - j);
      plogp += p * Math.log(p);
    }
    if (mass === 0) continue;
    rows++;
    sum.distance += moment / mass;
    sum.effective += mass * Math.exp(-plogp / mass); // exp(entropy of p / mass)
    sum.first += Math.max(0, row[row.findIndex((p) => p !== PADDED)]) || 0; // NaN counts for nothing
  }
  if (rows === 0) return null;
  return { distance: sum.distance / rows, effective: sum.effective / rows, first: sum.first / rows, sampled: count < map.nq };
}

// ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

function checkTile(nq: number, nk: number, r0: number, r1: number, c0: number, c1: number): void {
  const fits = isCount(r0) && isCount(c0) && r0 <= r1 && c0 <= c1 && r1 <= nq && c1 <= nk;
  if (!fits) throw new RangeError(`Queries ${r0} to ${r1} and keys ${c0} to ${c1} are not within a map of ${nq} × ${nk}.`);
}

function largest(values: Float32Array): number {
  let most = 0;
  for (const value of values) if (value > most) most = value;
  return most;
}

export function metaNumber(block: Block, name: string, otherwise?: number): number {
  const value = block.meta[name] ?? otherwise;
  if (typeof value !== "number") throw damaged(`${name} is not a number.`, `“${block.kind}” data`);
  return value;
}

export function metaCount(block: Block, name: string): number {
  const value = block.meta[name];
  if (!isCount(value)) throw damaged(`${name} is not a whole number.`, `“${block.kind}” data`);
  return value;
}

function metaPair(block: Block, name: string): [number, number] {
  const value: unknown = block.meta[name];
  if (!Array.isArray(value) || value.length !== 2 || !isCount(value[0]) || !isCount(value[1])) {
    throw damaged(`${name} is not a pair of whole numbers.`, `“${block.kind}” data`);
  }
  return [value[0], value[1]];
}
