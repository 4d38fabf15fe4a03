/** Paths through layers, against all paths there are. */

import { describe, expect, it } from "vitest";

import type { Layers } from "../src/paths.ts";
import { weightMap } from "../src/math.ts";
import { columnsOf, descend, keysOf } from "../src/paths.ts";
import { read, State } from "../src/state.ts";
import type { Tiles } from "../src/tiles.ts";
import { rowwise } from "../src/views/graph.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, f32, u8 } from "./fixtures.ts";

/** Random causal rows that sum to 1; layers in `absent` move nothing. */
function layersOf(count: number, n: number, absent: readonly number[] = []): Layers & { weights: number[][][] } {
  let seed = count * 31 + n;
  const random = (): number => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const weights = Array.from({ length: count }, () => Array.from({ length: n }, (_, i) => {
    const row = Array.from({ length: n }, (_, j) => (j <= i ? random() ** 3 : 0));
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map((p) => Math.fround(p / sum));
  }));
  return { count, weights, rows: (layer, tokens) => Promise.resolve(absent.includes(layer) ? null : tokens.map((token) => Float32Array.from(weights[layer][token]))) };
}

/** Every path from a token down, as [tokens from the top, product]. */
function allPaths(layers: ReturnType<typeof layersOf>, from: number, absent: readonly number[] = []): [number[], number][] {
  let paths: [number[], number][] = [[[from], 1]];
  for (let layer = layers.count - 1; layer >= 0; layer--) {
    paths = paths.flatMap(([tokens, product]): [number[], number][] => {
      const at = tokens[tokens.length - 1];
      if (absent.includes(layer)) return [[[...tokens, at], product]];
      return layers.weights[layer][at].flatMap((weight, key): [number[], number][] => (weight > 0 ? [[[...tokens, key], product * weight]] : []));
    });
  }
  return paths;
}

const everything = { share: 1, least: 0, most: Infinity };

describe("paths down the layers", () => {
  it.each([[1, 4, []], [2, 5, []], [4, 5, []], [4, 5, [2]], [3, 4, [0, 2]]] as [number, number, number[]][])("of %i layers of %i tokens are those of brute force", async (count, n, absent) => {
    const layers = layersOf(count, n, absent);
    for (let from = 0; from < n; from++) {
      const paths = allPaths(layers, from, absent);
      const strongest = paths.reduce((best, path) => (path[1] > best[1] ? path : best));
      const { best, product, reached, steps } = await descend(from, layers, everything);
      expect([from, ...best.map(({ key }) => key)]).toEqual(strongest[0]);
      expect(product).toBeCloseTo(strongest[1], 12);
      expect(best.map(({ layer }) => layer)).toEqual(Array.from({ length: count }, (_, k) => count - 1 - k));
      for (const { token, share } of reached) {
        expect(share).toBeCloseTo(paths.filter(([tokens]) => tokens.at(-1) === token).reduce((sum, [, p]) => sum + p, 0), 6);
      }
      expect(reached.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 5);
      expect(steps.every((step, k) => k === 0 || step.layer <= steps[k - 1].layer)).toBe(true);
    }
  });

  it("are followed only along edges that count, and by the strongest in any case", async () => {
    const layers = layersOf(3, 6);
    const { steps, best } = await descend(5, layers, { share: 0.9, least: 0.3, most: 3 });
    const strongestOf = (layer: number, query: number): number => Math.max(...layers.weights[layer][query]);
    for (const { layer, query, weight } of steps) expect(weight >= 0.3 || weight === strongestOf(layer, query)).toBe(true);
    for (const layer of [0, 1, 2]) expect(new Set(steps.filter((step) => step.layer === layer).map(({ key }) => key)).size).toBeLessThanOrEqual(3);
    expect(best).toHaveLength(3);
  });

  it("ask for no more rows than there are tokens on them", async () => {
    const layers = layersOf(4, 50);
    const asked: number[] = [];
    await descend(49, { count: 4, rows: (layer, tokens) => { asked.push(tokens.length); return layers.rows(layer, tokens); } }, { share: 0.9, least: 0, most: 8 });
    expect(asked[0]).toBe(1);
    expect(Math.max(...asked)).toBeLessThanOrEqual(8);
  });

  it("end where there is no weight to follow", async () => {
    const { best, product, reached } = await descend(1, { count: 2, rows: (_, tokens) => Promise.resolve(tokens.map(() => Float32Array.of(0, NaN))) }, everything);
    expect({ best, product, reached }).toEqual({ best: [], product: 0, reached: [] });
  });
});

it("edges of a row are the fewest that carry its share", () => {
  const row = Float32Array.of(0.1, 0.5, 0.05, 0.35);
  expect(keysOf(row, 0.8, 0).map(([key]) => key)).toEqual([1, 3]);
  expect(keysOf(row, 1, 0.08).map(([key]) => key)).toEqual([1, 3, 0]);
  expect(keysOf(row, 1, 0.9, 1).map(([key]) => key)).toEqual([1]);
});

it("columns stand close, with a place for each gap", () => {
  expect(columnsOf([7, 3, 4, 3], 9)).toEqual({ at: new Map([[3, 1], [4, 2], [7, 4]]), gaps: [0, 3, 5], count: 6 });
  expect(columnsOf([0, 1], 2)).toEqual({ at: new Map([[0, 0], [1, 1]]), gaps: [], count: 2 });
  expect(columnsOf([], 3)).toEqual({ at: new Map(), gaps: [0], count: 1 });
});

it("rows of large maps are asked for, and no map is", async () => {
  const weights = (rows: number): Parameters<typeof block>[1] => ({ n_q: 2, n_k: 2, rows: [0, rows], cols: [0, 2], step: [1, 1] });
  const like = weightMap(block("weights", weights(2), { exact: f32([2, 2], [1, 0, 0.25, 0.75]), code: u8([2, 2], [0, 255, 0, 0]) }));
  const asked: string[] = [];
  const get = (key: string) => (asked.push(key), Promise.resolve(block("weights", weights(1), { exact: f32([1, 2], [0.25, 0.75]), code: u8([1, 2], [0, 0]) })));
  const tiles = { meta: bundleMeta(block("bundle", bundleMetaOf(2, 1, 2), {})), other: null, get } as unknown as Tiles;
  const [{ name: part }] = tiles.meta.parts;
  const source = await read(new State({ part }), rowwise(tiles, like), { part, layer: 1, head: 0, reduce: "mean" }, new AbortController().signal);
  expect([source.map.nk, source.map.row(1)]).toEqual([2, null]);
  expect(Array.from(await source.row(1))).toEqual([0.25, 0.75]);
  expect(asked).toEqual([`row/${part}/1/0/1`]);
});
