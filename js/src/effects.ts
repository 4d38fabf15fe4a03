/** What the edges of a map do to the number that is explained: to first order, for all of them, and in words. */

import { valueText } from "./a11y.ts";
import type { Groups } from "./combine.ts";
import type { WeightMap } from "./math.ts";
import { filled, isWeight, MASKED } from "./math.ts";
import type { Block } from "./wire.ts";
import { needArray } from "./wire.ts";

export interface Effects {
  /** Shares of `largest`, −1 … 1. */
  map: WeightMap;
  /** The size of the largest, in the units of what is explained. */
  largest: number;
  /** What is explained. */
  words: string;
  /** Whether what is put out at a query can reach it. */
  reach(query: number): boolean;
}

const NOT_THERE = -32768;

/** The effects in a block, between `nq` × `nk` tokens; summed up over groups of them, of queries as of keys. */
export function effectsOf(block: Block, words: string, [nq, nk]: readonly [number, number], { queries, keys }: Readonly<Record<"queries" | "keys", Groups | null>>): Effects {
  const codes = needArray(block, "codes", "i16", [nq, nk]).data;
  const reaching = needArray(block, "reach", "u8", [nq]).data;
  const [rows, cols] = [queries?.members.length ?? nq, keys?.members.length ?? nk];
  const cells = new Float32Array(rows * cols).fill(MASKED);
  const reached = new Uint8Array(rows);
  let largest = 0;
  for (let i = 0; i < nq; i++) {
    const row = queries?.of[i] ?? i;
    if (reaching[i] > 0) reached[row] = 1;
    for (let j = 0; j < nk; j++) {
      const at = row * cols + (keys?.of[j] ?? j);
      const code = codes[i * nk + j];
      if (code !== NOT_THERE) cells[at] = (isWeight(cells[at]) ? cells[at] : 0) + code / 32000; // sums stay far from the codes
    }
  }
  for (const cell of cells) if (isWeight(cell)) largest = Math.max(largest, Math.abs(cell));
  const fill = (r0: number, r1: number, c0: number, c1: number, out: Float32Array): void => {
    for (let r = r0, at = 0; r < r1; r++) for (let c = c0; c < c1; c++, at++) {
      const cell = cells[r * cols + c];
      out[at] = isWeight(cell) ? cell / (largest || 1) : cell;
    }
  };
  const map = filled({ nq: rows, nk: cols, signed: true, pooled: false, step: [1, 1], sampled: false, vmax: 1, depth: 1, maxError: 1 / 64000, allowed: () => cols, leak: () => 0 }, fill);
  return { map, words, largest: largest * 32000 * Number(block.meta["step"]), reach: (query) => reached[query] > 0 };
}

/** A share of the largest effect as a number: "+1.30"; "≈0" for what is nothing beside that one. */
export const effectText = ({ largest }: Effects, share: number): string => (share === 0 ? "0" : Math.abs(share) < 0.002 ? "≈0" : signedText(share * largest));

export const signedText = (value: number): string => `${value > 0 ? "+" : ""}${valueText(value)}`;

/** "adds 1.30 to the logit of ' mat' (first order)", of an edge from a query that reaches it or not. */
export function deed({ largest, words }: Effects, share: number, reaches: boolean): string {
  if (!reaches) return `cannot reach ${words}`;
  return `${share < 0 ? "takes" : "adds"} ${valueText(Math.abs(share) * largest)} ${share < 0 ? "from" : "to"} ${words} (first order)`;
}
