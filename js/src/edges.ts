/** What takes all rows of a map: its strongest edges, and what its keys receive on average. In turns, so that pointer and keyboard stay quick. */

import type { WeightMap } from "./math.ts";
import { inTurns, isWeight, strongest } from "./math.ts";

export interface EdgeAt {
  query: number;
  key: number;
  weight: number;
}

/** The strongest edges of a map, and how many it takes to carry a share of every row. */
export interface Edges {
  /** Strongest first; of differences their size counts. */
  edges: EdgeAt[];
  /** The edges that carry the share of their rows, of the rows looked at. */
  carrying: number;
  /** Every how many-th query was looked at; 1: all of them. */
  every: number;
}

export interface AllRows {
  signal?: AbortSignal;
  /** Multiply-adds to spend before rows are left out. */
  budget?: number;
  /** How many of the queries count; all by default. */
  queries?: number;
}

const BUDGET = 2e9; // about a second, in turns

/** Calls `each` with every row, or with every so many-th where there are too many; tells how many-th. */
async function overRows(map: WeightMap, { signal, budget = BUDGET, queries = map.nq }: AllRows, each: (row: Float32Array, i: number) => void): Promise<number> {
  const every = Math.max(1, Math.ceil((queries * map.nk * map.depth) / budget));
  const row = new Float32Array(map.nk);
  const turn = inTurns();
  for (let i = 0; i < Math.min(queries, map.nq); i += every) {
    signal?.throwIfAborted();
    each(map.tile(i, i + 1, 0, map.nk, row), i);
    const others = turn();
    if (others !== null) await others;
  }
  signal?.throwIfAborted();
  return every;
}

const bySize = (a: EdgeAt, b: EdgeAt): number => Math.abs(b.weight) - Math.abs(a.weight) || a.query - b.query || a.key - b.key;

/** The `limit` strongest edges of a map that is not pooled. */
export async function edgesOf(map: WeightMap, share: number, limit: number, options: AllRows = {}): Promise<Edges> {
  let edges: EdgeAt[] = [];
  let least = 0; // size of the weakest that can still be among them
  let carrying = 0;
  const trim = (): void => {
    edges = edges.sort(bySize).slice(0, limit);
    if (edges.length === limit) least = Math.abs(edges[limit - 1].weight);
  };
  const every = await overRows(map, options, (row, query) => {
    carrying += strongest(row, share).indices.length;
    for (let key = 0; key < row.length; key++) if (isWeight(row[key]) && Math.abs(row[key]) > least) edges.push({ query, key, weight: row[key] });
    if (edges.length > 8 * limit) trim();
  });
  trim();
  return { edges, carrying, every };
}

/** What each key receives, averaged over the queries that attend to anything. */
export interface Received {
  /** [n_k], with codes where no query sees the key. */
  row: Float32Array;
  /** Queries that were averaged over. */
  queries: number;
  every: number;
}

export async function received(map: WeightMap, options: AllRows = {}): Promise<Received> {
  const sum = new Float64Array(map.nk);
  const codes = new Float32Array(map.nk).fill(-Infinity);
  let queries = 0;
  const every = await overRows(map, options, (row) => {
    let sees = false;
    for (let j = 0; j < row.length; j++) {
      const cell = row[j];
      if (isWeight(cell)) {
        sum[j] += cell;
        sees = true;
        if (codes[j] < 0) codes[j] = 0;
      } else if (Number.isNaN(cell)) codes[j] = NaN;
      else if (codes[j] < cell) codes[j] = cell;
    }
    if (sees) queries++;
  });
  return { row: codes.map((code, j) => (isWeight(code) ? sum[j] / queries : code)), queries, every };
}

/** Which place a key has among those of a row that hold a weight, from 1; equal weights in the order of the keys. */
export function rankOf(row: Float32Array, key: number): number {
  const size = Math.abs(row[key]);
  let rank = 1;
  for (let j = 0; j < row.length; j++) {
    const other = isWeight(row[j]) ? Math.abs(row[j]) : -1;
    if (other > size || (other === size && j < key)) rank++;
  }
  return rank;
}
