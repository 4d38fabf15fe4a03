/**
 * Maps made of maps: several heads together, tokens in groups, one attention less another. They are computed when somebody
 * looks, as the maps are that they are made of, and whoever draws them cannot tell.
 */

import type { Fill, WeightMap } from "./math.ts";
import { filled, isWeight, MASKED, PADDED } from "./math.ts";
import type { Axis, Reduce } from "./wire.ts";
import { WireError } from "./wire.ts";

/** A map, and its rows and columns exactly, which a pooled map does not hold itself. */
export interface Source {
  map: WeightMap;
  row(i: number, signal?: AbortSignal): Promise<Float32Array>;
  column(j: number, signal?: AbortSignal): Promise<Float32Array>;
}

/** A map that is computed by `fill`; the rest is that of `like`. */
export const mapOf = (like: WeightMap, fill: Fill, own: Partial<WeightMap> = {}): WeightMap => filled({ ...like, ...own }, fill);

/** `combine`, cell by cell. A cell that is a weight in only some of `parts` counts there as 0; NaN anywhere stays NaN. */
function cellByCell(parts: readonly Float32Array[], out: Float32Array, size: number, combine: (cells: readonly number[]) => number): void {
  const cells = new Array<number>(parts.length);
  for (let n = 0; n < size; n++) {
    let most = PADDED;
    let broken = false;
    for (let k = 0; k < parts.length; k++) {
      const cell = parts[k][n];
      if (Number.isNaN(cell)) broken = true;
      if (cell > most) most = cell;
      cells[k] = isWeight(cell) ? cell : 0;
    }
    out[n] = broken ? NaN : most > MASKED ? combine(cells) : most;
  }
}

const REDUCE: Record<Reduce, (cells: readonly number[]) => number> = {
  mean: (cells) => cells.reduce((sum, cell) => sum + cell, 0) / cells.length,
  max: (cells) => Math.max(...cells),
  min: (cells) => Math.min(...cells),
};

type Combine = (parts: readonly Float32Array[], out: Float32Array, size: number) => void;

/** Maps of the same tokens, put together cell by cell. */
function together(sources: readonly Source[], combine: Combine, own: Pick<WeightMap, "vmax" | "maxError" | "leak"> & Partial<WeightMap>): Source {
  const maps = sources.map(({ map }) => map);
  const line = async (lines: readonly Promise<Float32Array>[]): Promise<Float32Array> => {
    const parts = await Promise.all(lines);
    const out = new Float32Array(parts[0].length);
    combine(parts, out, out.length);
    return out;
  };
  const map = mapOf(maps.find(({ pooled }) => pooled) ?? maps[0], (r0, r1, c0, c1, out) => {
    combine(maps.map((one) => one.tile(r0, r1, c0, c1)), out, (r1 - r0) * (c1 - c0));
  }, {
    sampled: maps.some(({ sampled }) => sampled),
    depth: maps.reduce((sum, { depth }) => sum + depth, 0),
    allowed: (i) => Math.max(...maps.map((one) => one.allowed(i))),
    ...own,
  });
  return { map, row: (i, signal) => line(sources.map((one) => one.row(i, signal))), column: (j, signal) => line(sources.map((one) => one.column(j, signal))) };
}

/** The mean, the largest or the smallest of several maps of the same tokens, cell by cell. */
export function joined(sources: readonly Source[], reduce: Reduce): Source {
  if (sources.length === 1) return sources[0];
  const maps = sources.map(({ map }) => map);
  return together(sources, (parts, out, size) => { cellByCell(parts, out, size, REDUCE[reduce]); }, {
    vmax: Math.max(...maps.map(({ vmax }) => vmax)),
    maxError: Math.max(...maps.map(({ maxError }) => maxError)),
    // Only the mean of rows shares out what the rows share out.
    leak: (i) => (reduce === "mean" ? REDUCE.mean(maps.map((one) => one.leak(i))) : 0),
    pooledAs: reduce === "max" ? "the strongest" : `the ${reduce} of each head’s strongest`,
  });
}

// ── tokens in groups ────────────────────────────────────────────────────────────────────────────────────────────────

/** Tokens that stand as one. */
export interface Groups {
  /** The axis whose tokens are the groups. */
  axis: Axis;
  /** The group of each token. */
  of: Int32Array;
  /** The tokens of each group, ascending. */
  members: number[][];
}

/** The words or sentences of an axis; `null` where it has none. Groups that hold one of `expanded` stay tokens. */
export function gathered(axis: Axis, by: "word" | "sentence", expanded: readonly number[]): Groups | null {
  const numbers = by === "word" ? axis.words : axis.sentences;
  if (numbers === null) return null;
  const open = new Set(expanded.map((token) => numbers[token]));
  const of = new Int32Array(numbers.length);
  const members: number[][] = [];
  const known = new Map<number, number>();
  numbers.forEach((number, token) => {
    const group = number < 0 || open.has(number) ? undefined : known.get(number);
    const at = (of[token] = group ?? members.length);
    if (group === undefined && number >= 0) known.set(number, at);
    (members[at] ??= []).push(token);
  });
  return { of, members, axis: axisOf(axis, members) };
}

function axisOf(axis: Axis, members: readonly (readonly number[])[]): Axis {
  const text = (texts: readonly string[]) => (group: readonly number[]): string =>
    group.map((token, n) => `${n === 0 ? "" : (axis.before?.[token] ?? "")}${texts[token]}`).join("");
  const places = (tokens: readonly number[], every: boolean): number[] => {
    const known = new Set(tokens);
    return members.flatMap((group, at) => ((every ? group.every((token) => known.has(token)) : group.some((token) => known.has(token))) ? [at] : []));
  };
  return {
    ...axis,
    labels: members.map(text(axis.labels)),
    raw: members.map((group) => group.map((token) => axis.raw[token]).join(" ")),
    special: places(axis.special, true),
    punctuation: places(axis.punctuation, true),
    image: places(axis.image, true),
    generated: places(axis.generated, false),
    segments: axis.segments === null ? null : members.map(([first]) => axis.segments?.[first] ?? -1),
    words: null,
    sentences: null,
    before: axis.before === null ? null : members.map(([first]) => axis.before?.[first] ?? ""),
  };
}

/**
 * The map between groups: weights summed over the keys of a group, averaged over its queries (Clark et al. 2019, 4.1), so
 * that rows sum to what they summed to. Queries that may attend to nothing do not count unless a group has no others.
 */
export function grouped(source: Source, queries: Groups | null, keys: Groups | null): Source {
  const { map } = source;
  if (map.pooled) throw new WireError("This map is too large to be here whole, so its words cannot be added up. Look at its tokens, or at a single head.");
  const nq = queries?.members.length ?? map.nq;
  const nk = keys?.members.length ?? map.nk;
  const askers = (i: number): readonly number[] => queries?.members[i] ?? [i];
  const row = new Float32Array(map.nk);
  const allowed = new Int32Array(nq).fill(-1); // until counted

  /** Adds query `i` to `sum`, over groups of keys; tells whether it may attend to anything. */
  const add = (i: number, sum: Float64Array, codes: Float32Array): boolean => {
    map.tile(i, i + 1, 0, map.nk, row);
    let sees = false;
    for (let j = 0; j < row.length; j++) {
      const at = keys === null ? j : keys.of[j];
      const cell = row[j];
      if (isWeight(cell)) {
        sees = true;
        sum[at] += cell;
        codes[at] = 0;
      } else if (Number.isNaN(cell)) codes[at] = sum[at] = NaN;
      else if (!(codes[at] >= cell)) codes[at] = Number.isNaN(codes[at]) ? NaN : cell;
    }
    return sees;
  };
  const fill: Fill = (r0, r1, c0, c1, out) => {
    const [sum, codes] = [new Float64Array(nk), new Float32Array(nk)];
    for (let r = r0; r < r1; r++) {
      sum.fill(0);
      codes.fill(PADDED);
      const count = askers(r).filter((i) => add(i, sum, codes)).length;
      allowed[r] = codes.reduce((n, code) => (code <= MASKED ? n : n + 1), 0);
      for (let c = c0; c < c1; c++) out[(r - r0) * (c1 - c0) + c - c0] = isWeight(codes[c]) ? sum[c] / Math.max(1, count) : codes[c];
    }
  };
  const over = (of: (i: number) => number) => (group: number): number => {
    const seeing = askers(group).filter((i) => map.allowed(i) > 0);
    return seeing.reduce((sum, i) => sum + of(i), 0) / Math.max(1, seeing.length);
  };
  const made: WeightMap = mapOf(map, fill, {
    nq, nk, depth: (map.depth * map.nq * map.nk) / Math.max(1, nq * nk),
    allowed: (group) => {
      if (allowed[group] < 0) made.tile(group, group + 1, 0, 0);
      return allowed[group];
    },
    leak: over((i) => map.leak(i)),
  });
  return { map: made, row: (i) => Promise.resolve(made.tile(i, i + 1, 0, nk)), column: (j) => Promise.resolve(made.tile(0, nq, j, j + 1)) };
}

// ── two attentions ──────────────────────────────────────────────────────────────────────────────────────────────────

/** The same map on other axes: `queries` and `keys` say which token stands at each place, −1 for none. */
export function placed(source: Source, queries: readonly number[], keys: readonly number[]): Source {
  const { map } = source;
  const spread = (line: Float32Array, places: readonly number[]): Float32Array => Float32Array.from(places, (at) => (at < 0 ? PADDED : line[at]));
  const fill: Fill = (r0, r1, c0, c1, out) => {
    const wanted = keys.slice(c0, c1).filter((at) => at >= 0);
    const [from, to] = [Math.min(...wanted, map.nk), Math.max(...wanted, -1) + 1];
    const line = new Float32Array(Math.max(0, to - from));
    for (let r = r0, at = 0; r < r1; r++) {
      const query = queries[r];
      if (query >= 0 && to > from) map.tile(query, query + 1, from, to, line);
      for (let c = c0; c < c1; c++) out[at++] = query < 0 || keys[c] < 0 ? PADDED : line[keys[c] - from];
    }
  };
  const nothing = new Float32Array(map.nk).fill(PADDED);
  return {
    map: mapOf(map, fill, {
      nq: queries.length, nk: keys.length,
      allowed: (i) => (queries[i] < 0 ? 0 : map.allowed(queries[i])),
      leak: (i) => (queries[i] < 0 ? 0 : map.leak(queries[i])),
      pooledAs: `about ${map.pooledAs ?? "the strongest"}`, // its blocks may be off their grid
    }),
    row: async (i, signal) => spread(queries[i] < 0 ? nothing : await source.row(queries[i], signal), keys),
    column: async (j, signal) => (keys[j] < 0 ? new Float32Array(queries.length).fill(PADDED) : spread(await source.column(keys[j], signal), queries)),
  };
}

/** What `a` gives more than `b`, cell by cell; a cell that one of them lacks is padded. Pooled cells are no differences of weights, and no bound on them. */
export const difference = (a: Source, b: Source): Source =>
  together([a, b], ([p, q], out, size) => {
    for (let n = 0; n < size; n++) {
      const [x, y] = [p[n], q[n]];
      // What one side may not see is nothing there; where neither may, it is masked.
      if (x === PADDED || y === PADDED) out[n] = PADDED;
      else if (x === MASKED && y === MASKED) out[n] = MASKED;
      else out[n] = (x === MASKED ? 0 : x) - (y === MASKED ? 0 : y);
    }
  }, { signed: true, vmax: 1, maxError: a.map.maxError + b.map.maxError, leak: () => 0, pooledAs: "about A’s strongest less B’s strongest" });
