/** Paths through layers of weights: what an output token leads down to, layer by layer, and the strongest single path. */

import { strongest } from "./math.ts";

/**
 * Rows by layer, 0 at the bottom: for each of `tokens` what it gives to every token below. `null` where a layer moves
 * nothing between tokens: each stands on itself there. Attention weights, or any other matrices of the same shape.
 */
export interface Layers {
  count: number;
  rows(layer: number, tokens: readonly number[]): Promise<readonly Float32Array[] | null>;
}

/** An edge of a layer, from a token above it down to one below. */
export interface Step {
  layer: number;
  query: number;
  key: number;
  weight: number;
}

export interface Bounds {
  /** Share of each row that its edges carry. */
  share: number;
  /** Edges below it are not followed, but for the strongest of a token. */
  least: number;
  /** Tokens of a layer that are followed further. */
  most: number;
}

export interface Descent {
  /** All edges that were followed, from the top down. */
  steps: Step[];
  /** How much of the output token's weight comes to each input token along them, largest first. */
  reached: { token: number; share: number }[];
  /** The path with the largest product of weights, from the top; empty where none leads all the way down. */
  best: Step[];
  /** The product of its weights. */
  product: number;
}

interface Node {
  /** Sum over all paths to here of the product of their weights. */
  share: number;
  product: number;
  path: Step | null;
}

/** Follows the strongest edges from token `from` above the highest layer down to the inputs. */
export async function descend(from: number, layers: Layers, { share, least, most }: Bounds): Promise<Descent> {
  const steps: Step[] = [];
  const above = new Map<Step, Step | null>(); // the step before each on the strongest path to where it starts
  let level = new Map<number, Node>([[from, { share: 1, product: 1, path: null }]]);
  for (let layer = layers.count - 1; layer >= 0; layer--) {
    const tokens = [...level.keys()];
    const rows = await layers.rows(layer, tokens);
    const below = new Map<number, Node>();
    const followed: Step[] = [];
    tokens.forEach((query, n) => {
      const node = level.get(query);
      if (node === undefined) return;
      for (const [key, weight] of rows === null ? [[query, 1] as const] : keysOf(rows[n], share, least, 1)) {
        const step: Step = { layer, query, key, weight };
        followed.push(step);
        above.set(step, node.path);
        const known = below.get(key) ?? { share: 0, product: -1, path: null };
        known.share += node.share * weight;
        if (node.product * weight > known.product) Object.assign(known, { product: node.product * weight, path: step });
        below.set(key, known);
      }
    });
    level = new Map([...below].sort((a, b) => b[1].share - a[1].share).slice(0, most));
    steps.push(...followed.filter(({ key }) => level.has(key)));
  }
  const reached = [...level].map(([token, node]) => ({ token, share: node.share }));
  let last: Node = { share: 0, product: 0, path: null };
  for (const node of level.values()) if (node.product > last.product) last = node;
  const best: Step[] = [];
  for (let step = last.path; step !== null; step = above.get(step) ?? null) best.unshift(step);
  return { steps, reached, best, product: last.product };
}

/** The fewest keys that carry a share of a row, without those that are too weak; the first `kept` of them stay in any case. */
export function keysOf(row: Float32Array, share: number, least: number, kept = 0): (readonly [key: number, weight: number])[] {
  return Array.from(strongest(row, share).indices, (key) => [key, row[key]] as const).filter(([, weight], n) => weight >= least || n < kept);
}

/** Places of some of `n` tokens side by side: those that are shown stand in order, one place is left for each gap between them. */
export function columnsOf(tokens: Iterable<number>, n: number): { at: ReadonlyMap<number, number>; gaps: number[]; count: number } {
  const at = new Map<number, number>();
  const gaps: number[] = [];
  let [count, expected] = [0, 0];
  for (const token of [...new Set(tokens)].sort((a, b) => a - b)) {
    if (token > expected) gaps.push(count++);
    at.set(token, count++);
    expected = token + 1;
  }
  if (expected < n) gaps.push(count++);
  return { at, gaps, count };
}
