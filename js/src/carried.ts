/** Which edges are drawn: those that carry the chosen share of a row, the strongest where there are too many to read, and what is left out in numbers. */

import { counted, thousands, weightText } from "./a11y.ts";
import type { WeightMap } from "./math.ts";
import { isWeight, PADDED, strongest } from "./math.ts";

/** The keys that carry the chosen share of one query (or the queries of one key), strongest first. */
export interface Carried {
  keys: Uint32Array;
  weights: Float32Array;
}

/** What one query gives by way of one head. */
export interface Asked extends Carried {
  query: number;
  /** Which of the heads in the picture. */
  strand: number;
}

export interface Ends {
  query: number;
  key: number;
  weight: number;
  strand: number;
}

export interface Picked {
  /** Strongest first. */
  edges: Ends[];
  /** How many there are in all, drawn or not. */
  count: number;
  /** What those that are not drawn carry of a row, on average. */
  left: number;
}

/** Edges at once that can still be told apart; of more, the strongest are drawn. */
export const LEGIBLE = 200;

const NONE: Carried = { keys: new Uint32Array(), weights: new Float32Array() };

export function carriedBy(row: Float32Array | null, share: number): Carried {
  if (row === null) return NONE;
  const keys = strongest(row, share).indices;
  return { keys, weights: Float32Array.from(keys, (key) => row[key]) };
}

/** The strongest of all the edges, at most `limit`. Of differences their size counts. */
export function strongestEdges(asked: readonly Asked[], limit: number): Picked {
  const count = asked.reduce((sum, { keys }) => sum + keys.length, 0);
  const sizes = new Float32Array(count);
  let at = 0;
  for (const { weights } of asked) for (const weight of weights) sizes[at++] = Math.abs(weight);
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const least = sizes.sort().at(count > limit ? -limit : 0) ?? 0;
  const edges: Ends[] = [];
  for (const { query, strand, keys, weights } of asked) keys.forEach((key, n) => { if (Math.abs(weights[n]) >= least) edges.push({ query, key, weight: weights[n], strand }); });
  edges.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).splice(limit);
  const rows = asked.filter(({ keys }) => keys.length > 0).length;
  const left = all - edges.reduce((sum, { weight }) => sum + Math.abs(weight), 0);
  return { edges, count, left: Math.max(0, left) / Math.max(1, rows) };
}

/** "53 edges carry 90 %", "The strongest 200 of the 412 edges that carry 90 % of these 39 rows; the other 212 carry 0.07 of a row on average". */
export function edgesText({ edges, count, left }: Picked, share: number, whose: string): string {
  const carry = (n: number): string => (n === 1 ? "carries" : "carry");
  const [what, rest] = [share === 1 ? whose : `${carry(count)} ${Math.round(share * 100)} %${whose}`, count - edges.length];
  const all = `${counted(count, "edge")}${rest > 0 && share < 1 ? " that" : ""} ${what.trim()}`.trim();
  return rest === 0 ? all : `The strongest ${thousands(edges.length)} of the ${all}; the other ${thousands(rest)} ${carry(rest)} ${weightText(left)} of a row on average`;
}

/** What lies beyond the tokens in sight. */
export interface Beyond {
  /** How many edges end there, of those that are drawn. */
  count: number;
  /** What goes there in all; the sizes of differences. */
  mass: number;
  /** Where most of it goes. */
  most: number;
}

/** Of one line of cells, what lies in [from, to). */
export function beyond(cells: Float32Array, carried: ReadonlySet<number>, from: number, to: number): Beyond {
  let [count, mass, most] = [0, 0, from];
  for (let i = from; i < to; i++) {
    if (!isWeight(cells[i])) continue;
    mass += Math.abs(cells[i]);
    if (Math.abs(cells[i]) > Math.abs(isWeight(cells[most]) ? cells[most] : 0)) most = i;
    if (carried.has(i)) count++;
  }
  return { count, mass, most };
}

/** Whether places can be taken apart into tokens ("+"), or were ("−", at the first of them); `null` where neither. */
export function foldsOf(members: readonly (readonly number[])[], groups: readonly number[]): ("+" | "−" | null)[] {
  return members.map(([first, ...others]) => {
    if (others.length > 0) return "+";
    const group = groups[first];
    return group >= 0 && groups.indexOf(group) === first && groups.lastIndexOf(group) > first ? "−" : null;
  });
}

/** What a row has to lack for that to be said. */
export const LEAK = 1e-3;

/** Whether some row gives to no key. */
export function leaks(map: WeightMap): boolean {
  for (let i = 0; i < map.nq; i++) if (map.leak(i) > LEAK) return true;
  return false;
}

/** Keys that are padding: to any query that has weights. What a query may see need not be weights in a difference. */
export function paddingOf(map: WeightMap): Set<number> {
  for (let query = 0; query < map.nq; query++) {
    if (map.allowed(query) === 0) continue;
    const row = map.tile(query, query + 1, 0, map.nk);
    if (row.some(isWeight)) return new Set(Array.from(row.keys()).filter((j) => row[j] === PADDED));
  }
  return new Set();
}
