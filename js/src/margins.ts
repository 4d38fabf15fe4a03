/** What stands along the margins of a map: how much each key receives, how widely each query spreads its weight, and which keys take most of everything. */

import { mapOf } from "./combine.ts";
import type { WeightMap } from "./math.ts";
import { inTurns, isWeight, MASKED } from "./math.ts";

export interface Margins {
  /** Mean weight of each key over the queries that may see it, [n_k]; NaN where none may. */
  received: Float32Array;
  /** Entropy of each row divided by its sum, in nats, [n_q]; NaN where a row has no weight, or was not looked at. */
  entropy: Float32Array;
  /** Keys that take far more than their share, ascending: see `sinksOf`. */
  sinks: number[];
  /** Only an even sample of the queries was looked at. */
  sampled: boolean;
}

export interface MarginOptions {
  /** Queries [0, rows) count, but for sinks, which are those of all the map; all by default. */
  rows?: number;
  /** Multiply-adds to spend before rows are sampled: QUICK or THOROUGH. */
  budget?: number;
  signal?: AbortSignal;
}

export const QUICK = 3e7; // multiply-adds, about 30 ms
export const THOROUGH = 1.5e9; // some 2 s, in turns: all of 4096² × 64

/** Keys are judged by queries that have some choice: those that may see at least this many, and at least this many of them. */
const CHOICE = 8;

/** The margins of a map that has its rows (not of a pooled one), computed in turns. Rejects when `signal` aborts. */
export async function margins(map: WeightMap, { rows = map.nq, budget = QUICK, signal }: MarginOptions = {}): Promise<Margins> {
  const { nq, nk } = map;
  const [sum, choosing, fair] = [new Float64Array(nk), new Float64Array(nk), new Float64Array(nk)];
  const [count, choosers] = [new Uint32Array(nk), new Uint32Array(nk)];
  const entropy = new Float32Array(nq).fill(NaN);
  const work = Math.max(1, nk * map.depth);
  const looks = Math.min(nq, Math.max(16, Math.floor(budget / work)));
  const together = looks < nq ? 1 : Math.max(1, Math.min(16, Math.floor(2e6 / work)));
  const cells = new Float32Array(together * nk);
  const turn = inTurns();
  for (let n = 0; n < looks; n += together) {
    const from = Math.floor(((n + (looks < nq ? 0.5 : 0)) * nq) / looks);
    const to = Math.min(nq, from + together);
    map.tile(from, to, 0, nk, cells);
    for (let i = from; i < to; i++) {
      const allowed = map.allowed(i);
      const row = cells.subarray((i - from) * nk, (i - from + 1) * nk);
      for (let j = 0; j < nk; j++) {
        const p = row[j];
        if (!isWeight(p)) continue;
        if (i < rows) {
          sum[j] += p;
          count[j]++;
        }
        if (allowed < CHOICE) continue;
        choosing[j] += p;
        fair[j] += 1 / allowed;
        choosers[j]++;
      }
      if (!map.signed && i < rows) entropy[i] = entropyOf(row);
    }
    const others = turn();
    if (others !== null) await others;
    signal?.throwIfAborted();
  }
  signal?.throwIfAborted();
  const received = Float32Array.from(sum, (mass, j) => (count[j] === 0 ? NaN : mass / count[j]));
  return { received, entropy, sinks: map.signed ? [] : sinksOf(choosing, fair, choosers), sampled: looks < nq };
}

const LARGE = 0.3;
const TIMES = 5;

/**
 * A key is a sink if it takes more than 0.3 of the weight of the queries that may see it, on average, and at least 5 times
 * what it would get if they gave to all keys alike. Only queries that may see 8 keys or more count, and there must be 8 of
 * them: the first tokens of a causal text have no choice, and the last ones have been seen by too few.
 */
function sinksOf(sum: Float64Array, fair: Float64Array, count: Uint32Array): number[] {
  return Array.from(count.keys()).filter((j) => count[j] >= CHOICE && sum[j] > LARGE * count[j] && sum[j] >= TIMES * fair[j]);
}

/** −Σ r ln r of a row divided by its sum, in nats: at most the logarithm of how many keys it may see. NaN for a row without weight. */
export function entropyOf(row: Float32Array): number {
  let [mass, plogp] = [0, 0];
  for (let j = 0; j < row.length; j++) {
    const p = row[j];
    if (!(p > 0)) continue;
    mass += p;
    plogp += p * Math.log(p);
  }
  return mass === 0 ? NaN : Math.max(0, Math.log(mass) - plogp / mass);
}

/** The mean of the weights of a column; NaN where it has none. */
export function receivedIn(column: Float32Array): number {
  let [mass, count] = [0, 0];
  for (const p of column) {
    if (!isWeight(p)) continue;
    mass += p;
    count++;
  }
  return count === 0 ? NaN : mass / count;
}

/** The map as if nobody might see `keys`: the others are as they were. */
export function without(map: WeightMap, keys: readonly number[]): WeightMap {
  if (keys.length === 0) return map;
  return mapOf(map, (r0, r1, c0, c1, out) => {
    map.tile(r0, r1, c0, c1, out);
    const width = c1 - c0;
    for (const key of keys) if (key >= c0 && key < c1) for (let at = key - c0; at < (r1 - r0) * width; at += width) out[at] = MASKED;
  });
}
