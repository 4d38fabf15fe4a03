/**
 * One query of one head, step by step, from the vectors of a "steps" block (`attnwidget/steps.py` writes it):
 *
 *     dot = q·k    scaled = dot · scale    capped = c·tanh(scaled / c)    score = (capped + bias) / temperature
 *     p = exp(score) / (Σ exp(score) + exp(sink / temperature))        z = Σ p·v        contribution = W_O z
 *
 * Any step can be switched to something else than the model's own. Only one row is computed, so a switch costs
 * n·(d + d_v) + D·d_v multiply-adds: a few milliseconds at 4096 keys. Pure: no drawing, no messages.
 */

import type { Rules } from "./math.ts";
import { metaCount, metaNumber, rules, strongest, vectors } from "./math.ts";
import type { Block } from "./wire.ts";
import { findArray, isRecord, WireError } from "./wire.ts";

/** What a step-by-step picture changes about the computation of a head, to see what it does. */
export interface Switches {
  /** Divide by √d, or by whatever the model divides by. */
  scale: boolean;
  mask: boolean;
  /** Rotary embedding, and biases that depend on the distance. */
  positions: boolean;
  /** Every key alike, instead of the softmax. */
  uniform: boolean;
  /** Scores are divided by it. */
  temperature: number;
}

/** Why a key takes part in the softmax, or does not. */
export const ALLOWED = 2;
export const HIDDEN = 1; // by the mask
export const ABSENT = 0; // padding

/** What happens at one query. Arrays have one number per key that exists so far; `score` holds what would be, also of keys that are hidden. */
export interface Row {
  dot: Float64Array;
  scaled: Float64Array;
  capped: Float64Array;
  /** What is added; 0 where nothing is. */
  bias: Float64Array;
  score: Float64Array;
  /** ALLOWED, HIDDEN or ABSENT. */
  sees: Uint8Array;
  /** The score that takes weight and is no key, divided by the temperature too; −∞ where there is none. */
  sink: number;
  /** How many keys are ALLOWED. */
  allowed: number;
  /** 0 where not allowed. */
  weight: Float64Array;
  leak: number;
  /** Of the weights of the keys, made to add up to 1; in nats. NaN where one of them is. */
  entropy: number;
  /** exp(entropy): over how many keys the weight is spread, as if evenly. */
  effective: number;
  /** Standard deviation of `dot`, `scaled` and `score` over the keys that are allowed. */
  spread: { dot: number; scaled: number; score: number };
}

/** A row and what comes of it; `null` where the block holds no values, or no projection. */
export interface Outcome {
  row: Row;
  z: Float64Array | null;
  written: Float64Array | null;
}

export type Numbers = Float32Array | Float64Array;

const NONE = new Float32Array();

export class Head {
  readonly nq: number;
  readonly nk: number;
  /** Width of q and k; `null` where weights were captured, and no vectors. */
  readonly d: number | null;
  readonly dv: number | null;
  readonly scale: number;
  /** 0: none. */
  readonly cap: number;
  readonly positions: "rotary" | "bias" | null;
  /** How many dimensions rotary embedding turns. */
  readonly turned: number;
  readonly biased: "offset" | "cell" | null;
  readonly biasPositional: boolean;
  /** Sentences about what is not there. */
  readonly why: { positions: string | null; vectors: string | null; values: string | null; output: string | null };
  /** Name of the projection that the head writes through. */
  readonly output: string | null;
  /** The key head that is read, where several query heads share one. */
  readonly kvHead: number;

  readonly #q: Float32Array;
  readonly #k: Float32Array;
  readonly #plain: { q: Float32Array; k: Float32Array }; // without positions
  readonly #stored: Float32Array;
  readonly #v: Float32Array | null;
  readonly #o: Float32Array | null;
  readonly #bias: Float32Array | null;
  readonly #rules: Rules;

  constructor(block: Block) {
    if (block.kind !== "steps") throw new WireError(`Data of the kind “${block.kind}” hold no vectors of a head.`);
    const { meta, arrays } = block;
    const count = (name: string): number | null => ((meta[name] ?? null) === null ? null : metaCount(block, name));
    const words = (name: string): string | null => (typeof meta[name] === "string" ? meta[name] : null);
    const [nq, nk] = ([this.nq, this.nk] = [metaCount(block, "n_q"), metaCount(block, "n_k")]);
    const [d, dv, wide] = ([this.d, this.dv] = [count("d"), count("d_v"), count("model_width")]);
    const { positions, rotary } = meta;
    this.scale = metaNumber(block, "scale", 1);
    this.cap = metaNumber(block, "softcap", 0);
    this.positions = positions === "rotary" || positions === "bias" ? positions : null;
    this.turned = isRecord(rotary) && typeof rotary["width"] === "number" && positions === "rotary" ? rotary["width"] : 0;
    this.biasPositional = meta["bias_positional"] === true;
    this.why = { positions: words("positions_why"), vectors: words("stored"), values: words("missing"), output: words("output_why") };
    this.kvHead = count("kv_head") ?? 0;

    const pair = (q: string, k: string): { q: Float32Array; k: Float32Array } => ({ q: vectors(block, q, nq, d ?? 0), k: vectors(block, k, nk, d ?? 0) });
    ({ q: this.#q, k: this.#k } = this.#plain = d === null ? { q: NONE, k: NONE } : pair("q", "k"));
    if (positions === "rotary" && d !== null) this.#plain = pair("q_plain", "k_plain");
    this.#stored = d === null ? vectors(block, "weights", nq, nk) : NONE;
    this.#v = dv === null ? null : vectors(block, "v", nk, dv);
    this.#o = dv === null || wide === null || !arrays.has("o") ? null : vectors(block, "o", wide, dv);
    this.output = this.#o === null ? null : words("output");
    const bias = arrays.get("bias")?.shape.length ?? 0; // its dimensions
    this.biased = ([null, "offset", "cell"] as const)[bias];
    this.#bias = bias === 2 ? vectors(block, "bias", nq, nk) : (findArray(block, "bias", "f32", [Math.max(0, nq + nk - 1)])?.data ?? null);
    this.#rules = rules(block, nq, nk);
  }

  /** q, as the softmax has it or without its position. */
  query(i: number, positions = true): Float32Array {
    return line(positions ? this.#q : this.#plain.q, i, this.d);
  }

  key(j: number, positions = true): Float32Array {
    return line(positions ? this.#k : this.#plain.k, j, this.d);
  }

  value(j: number): Float32Array {
    return line(this.#v ?? NONE, j, this.dv);
  }

  /** The logit that takes weight and is no key; `null` where there is none. */
  sink(i: number): number | null {
    const { sink } = this.#rules;
    return sink === null ? null : sink[sink.length === 1 ? 0 : i];
  }

  /** Whether query `i` may look at key `j`, the mask on or off. A query that sees nothing does not with the mask off either. */
  sees(i: number, j: number, mask: boolean): typeof ALLOWED | typeof HIDDEN | typeof ABSENT {
    const { keep, start, stop, bits } = this.#rules;
    if (keep[j] === 0) return ABSENT;
    const within = j >= start[i] && j < stop[i] && (bits === null || ((bits[i * ((this.nk + 7) >> 3) + (j >> 3)] >> (j & 7)) & 1) === 1);
    return within || (!mask && this.looks(i)) ? ALLOWED : HIDDEN;
  }

  /** Whether the query looks at anything at all: one that is padding does not. */
  looks(i: number): boolean {
    return this.#rules.allowed[i] > 0;
  }

  /** From vectors to weights; of the first `nk` keys, where the others do not exist yet. */
  row(i: number, { scale, mask, positions, temperature, uniform }: Switches, nk = this.nk): Row {
    const column = (): Float64Array => new Float64Array(nk);
    const row: Row = {
      dot: column(), scaled: column(), capped: column(), bias: column(), score: column(), sees: new Uint8Array(nk), sink: ((uniform ? null : this.sink(i)) ?? -Infinity) / temperature, allowed: 0, weight: column(),
      leak: 0, entropy: 0, effective: 0, spread: { dot: 0, scaled: 0, score: 0 },
    };
    const { dot, scaled, capped, bias, score, sees, sink, weight } = row;
    const q = this.query(i, positions);
    let top = sink;
    for (let j = 0; j < nk; j++) {
      dot[j] = this.d === null ? Math.log(this.#stored[i * this.nk + j]) : dotOf(q, this.key(j, positions));
      scaled[j] = scale ? dot[j] * this.scale : dot[j];
      capped[j] = this.cap === 0 ? scaled[j] : this.cap * Math.tanh(scaled[j] / this.cap);
      if (this.#bias !== null && (positions || !this.biasPositional)) bias[j] = this.#bias[this.biased === "offset" ? j - i + this.nq - 1 : i * this.nk + j];
      score[j] = (capped[j] + bias[j]) / temperature;
      sees[j] = this.sees(i, j, mask);
      if (sees[j] !== ALLOWED) continue;
      row.allowed++;
      weight[j] = uniform ? 0 : score[j]; // until the largest is known
      if (weight[j] > top) top = weight[j];
    }
    if (row.allowed === 0) return row;
    const base = top === -Infinity ? 0 : top;
    let keys = 0;
    for (let j = 0; j < nk; j++) if (sees[j] === ALLOWED) keys += weight[j] = Math.exp(weight[j] - base);
    const all = keys + Math.exp(sink - base);
    for (let j = 0; j < nk; j++) {
      const share = weight[j] / keys;
      if (share > 0) row.entropy -= share * Math.log(share);
      if (all !== 0) weight[j] /= all;
    }
    row.leak = sink === -Infinity ? 0 : 1 - keys / all;
    row.entropy = Number.isNaN(keys) ? NaN : Math.max(0, row.entropy);
    row.effective = Math.exp(row.entropy);
    row.spread = { dot: spread(dot, sees), scaled: spread(scaled, sees), score: spread(score, sees) };
    return row;
  }

  /** All steps, from the vectors to what the head writes: z = Σ p·v, and W_O z, which is added to the residual stream. */
  outcome(i: number, switches: Switches, nk = this.nk): Outcome {
    const row = this.row(i, switches, nk);
    if (this.#v === null) return { row, z: null, written: null };
    const z = new Float64Array(this.dv ?? 0);
    row.weight.forEach((p, j) => {
      const v = this.value(j);
      if (p !== 0) for (let x = 0; x < z.length; x++) z[x] += p * v[x];
    });
    const o = this.#o;
    return { row, z, written: o === null ? null : Float64Array.from({ length: o.length / z.length }, (_, r) => dotOf(line(o, r, this.dv), z)) };
  }
}

/** Line `i` of a matrix. */
const line = (data: Float32Array, i: number, width: number | null): Float32Array => data.subarray(i * (width ?? 0), (i + 1) * (width ?? 0));

/** Standard deviation over the keys that are allowed, of what is finite. */
function spread(values: Float64Array, sees: Uint8Array): number {
  const seen = values.filter((value, j) => sees[j] === ALLOWED && Number.isFinite(value));
  const mean = seen.reduce((sum, value) => sum + value, 0) / seen.length;
  return seen.length === 0 ? 0 : Math.sqrt(seen.reduce((sum, value) => sum + (value - mean) ** 2, 0) / seen.length);
}

// ── numbers about vectors and rows ──────────────────────────────────────────────────────────────────────────────────

function dotOf(a: Numbers, b: Numbers): number {
  let sum = 0;
  for (let x = 0; x < a.length; x++) sum += a[x] * b[x];
  return sum;
}

export const norm = (a: Numbers): number => Math.sqrt(dotOf(a, a));

/** Dimension by dimension. */
export const products = (a: Numbers, b: Numbers): Float64Array => Float64Array.from(a, (value, x) => value * b[x]);

/** The largest size, of what is finite. */
export const reach = (values: Numbers): number => (values as Float64Array).reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);

/** How much of `whole` lies in `part`, along `whole`: the shares of all parts add up to 1. */
export const shareAlong = (part: Numbers, whole: Numbers): number => dotOf(part, whole) / dotOf(whole, whole);

/** How much of z comes from one key; 0 where there is no z. */
export function shareOf(head: Head, { row: { weight }, z }: Outcome, key: number): number {
  return z === null || weight[key] === 0 ? 0 : weight[key] * shareAlong(head.value(key), z);
}

/** How much weight lies elsewhere: ½ Σ|p − p′|, what leaves to a sink with it. */
export const moved = (a: Row, b: Row): number => a.weight.reduce((sum, p, j) => sum + Math.abs(p - b.weight[j]), Math.abs(a.leak - b.leak)) / 2;

/** The dimensions of the largest numbers, by size, largest first. */
export const largest = (values: Numbers, limit: number): number[] => Array.from(strongest(Float32Array.from(values), 1, limit).indices);

/** Dimensions from the largest value to the smallest. */
export const descending = (values: Numbers): number[] => Array.from(values.keys()).sort((a, b) => values[b] - values[a]);

/**
 * The keys that are worth a line, in the order of the text: all where they are few, else at most `limit`: `always`, and those
 * with the largest weights, as it is in the model or as it is switched.
 */
export function worthALine(own: Row, now: Row, limit: number, always: readonly number[]): number[] {
  const n = own.weight.length;
  const chosen = new Set(n <= limit * 1.5 ? own.weight.keys() : always);
  for (const j of largest(own.weight.map((p, k) => Math.max(p, now.weight[k])), limit)) if (chosen.size < limit) chosen.add(j);
  return [...chosen].sort((a, b) => a - b);
}
