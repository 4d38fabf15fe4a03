/** What arcs are drawn of: one map, or a few heads in lines of their own. Which edges each has, and how they look. */

import type { Asked, Carried, Ends, Picked } from "./carried.ts";
import { carriedBy, LEGIBLE, strongestEdges } from "./carried.ts";
import type { Edge, Stroke } from "./draw.ts";
import { crowd, hairlines, marker, tapers } from "./draw.ts";
import type { Effects } from "./effects.ts";
import type { Focus } from "./focus.ts";
import { summed } from "./focus.ts";
import type { Side } from "./layout.ts";
import type { WeightMap } from "./math.ts";
import { isWeight, MASKED } from "./math.ts";
import type { Shown } from "./state.ts";
import { effectsIn } from "./state.ts";
import type { Palette, Rgb } from "./theme.ts";
import { signedColourAt } from "./theme.ts";
import type { HeadAt } from "./wire.ts";

/** What is drawn with one kind of line. */
interface Strand {
  map: WeightMap;
  /** `null` where it is alone. */
  head: HeadAt | null;
}

/** A strand in focus. */
export interface Lines {
  /** One for each query in focus. */
  rows: readonly Float32Array[];
  /** By the side whose tokens they are beside: the sum of the rows is beside keys, the column beside queries. */
  cells: Readonly<Record<Side, Float32Array | null>>;
  /** What carries the chosen share of them. */
  carried: Readonly<Record<Side, Carried>>;
  told: Readonly<Record<Side, ReadonlySet<number>>>;
}

const KEPT = 512; // queries whose edges are remembered
const FAINT = 0.002; // what of several rows is not drawn
const MARKED = 0.02; // weights from which edges of several heads end in a sign
const DASHES: readonly (readonly number[])[] = [[], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [1, 4]];
const LESS: readonly number[] = [6, 4];
const THIN = 0.01; // the weight as which edges are drawn that reach nothing

/** As in the heat map: more lies where the ramp goes, less on the other arm. */
export const signedColour = ({ ramp, less }: Palette, weight: number): Rgb => (weight < 0 ? less[1] : ramp[ramp.length - 2]);

/** What an effect is drawn in; next to none is pale, not as the ground is. */
const effectColour = (palette: Palette, share: number): Rgb =>
  share === 0 ? palette.line : signedColourAt(palette, 0.5 + Math.sign(share) * (0.12 + 0.34 * Math.sqrt(Math.abs(share))));

export class Strands {
  readonly all: readonly Strand[];
  readonly several: boolean;
  readonly signed: boolean;
  /** Their colours, where these are no longer those of the heads. */
  readonly effects: Effects | null;
  readonly #share: number;
  readonly #kept = new Map<number, Carried>();

  /** The heads one by one, where that is asked for (`apart`) and they are here whole; else the map. */
  constructor(at: Shown | null, apart: boolean, share: number) {
    const { map, overlaid = [] } = at ?? {};
    this.effects = effectsIn(at);
    this.several = apart && this.effects === null && overlaid.length > 1 && overlaid.every((one) => !one.map.pooled);
    this.all = this.several ? overlaid : map === undefined ? [] : [{ map, head: null }];
    this.signed = map?.signed === true;
    this.#share = share;
  }

  // ── edges ──

  /** What carries the chosen share of a query, by way of one strand. */
  #of(strand: number, query: number): Carried {
    const at = query * this.all.length + strand;
    const made = this.#kept.get(at) ?? carriedBy(this.all[strand].map.row(query), this.#share);
    if (this.#kept.size >= KEPT * this.all.length) this.#kept.clear();
    this.#kept.set(at, made);
    return made;
  }

  /** What queries [from, to) give by way of each strand, the strongest of it where that is too much. */
  between(from: number, to: number): Picked {
    const asked: Asked[] = [];
    for (let query = from; query < to; query++) this.all.forEach((_, strand) => asked.push({ query, strand, ...this.#of(strand, query) }));
    return strongestEdges(asked, LEGIBLE);
  }

  from(query: number): Ends[] {
    return this.all.flatMap((_, strand) => endsFrom(query, this.#of(strand, query), strand).slice(0, LEGIBLE));
  }

  inFocus({ queries, key, moment, ...focus }: Focus): Lines[] {
    return this.all.map(({ map, head }): Lines => {
      let { rows, row, column } = focus;
      if (head !== null) {
        rows = queries.map((i) => map.row(i)).filter((one) => one !== null);
        row = summed(rows);
        column = key === null ? null : map.column(key);
        if (moment !== null) column?.fill(MASKED, moment.token);
      }
      const carried = { key: carriedBy(row, this.#share), query: carriedBy(column, this.#share) };
      return { rows, cells: { key: row, query: column }, carried, told: { key: new Set(carried.key.keys), query: new Set(carried.query.keys) } };
    });
  }

  // ── how they look ──

  /** Differences, and effects, of either sign are told apart by dashes too, strands by their markers. */
  stroke(palette: Palette, { query, key, strand, weight }: Ends): Stroke {
    if (this.effects !== null) {
      const [share] = this.effects.map.tile(query, query + 1, key, key + 1);
      return { colour: this.effects.reach(query) ? effectColour(palette, share) : palette.soft, ...(share < 0 ? { dash: LESS } : {}) };
    }
    const colour = this.several ? palette.several[strand] : this.signed ? signedColour(palette, weight) : palette.accent;
    return weight < 0 ? { colour, dash: LESS } : { colour };
  }

  hairs(pen: CanvasRenderingContext2D, palette: Palette, ends: readonly Ends[], edge: (one: Ends) => Edge): void {
    const alpha = crowd(ends.length);
    this.#apart(ends, edge, (edges, like) => {
      const { colour, dash = this.signed ? [] : DASHES[like.strand] } = this.stroke(palette, like);
      hairlines(pen, edges, { colour: this.several || this.signed || this.effects ? colour : palette.soft, dash, alpha });
    });
  }

  glow(pen: CanvasRenderingContext2D, palette: Palette, ends: readonly Ends[], edge: (one: Ends) => Edge, alpha: number): void {
    this.#apart(ends, edge, (edges, like) => {
      tapers(pen, edges, { ...this.stroke(palette, like), alpha }, this.several ? 5 : undefined);
      if (this.several) for (const { curve, weight } of edges) if (Math.abs(weight) >= MARKED) marker(pen, like.strand, curve[6], curve[7], 7);
    });
  }

  /** The edges that look alike, with one of them: those of each strand and sign, those below 0 first; by their effects each looks different. */
  #apart(ends: readonly Ends[], edge: (one: Ends) => Edge, draw: (edges: Edge[], like: Ends) => void): void {
    const { effects } = this;
    if (effects !== null) {
      for (const one of [...ends].reverse()) draw([{ ...edge(one), ...(effects.reach(one.query) ? {} : { weight: THIN }) }], one);
      return;
    }
    this.all.forEach((_, strand) => {
      for (const sign of [-1, 1]) {
        const alike = ends.filter((one) => one.strand === strand && Math.sign(one.weight) === sign);
        if (alike.length > 0) draw(alike.map(edge), alike[0]);
      }
    });
  }
}

const endsFrom = (query: number, { keys, weights }: Carried, strand: number): Ends[] => Array.from(keys, (key, n) => ({ query, key, weight: weights[n], strand }));

/** The edges in focus, strongest first: of a key, of one query, or of several to the keys that count in their sum. */
export function endsOf(lines: readonly Lines[], { queries, key: focused }: Focus): Ends[] {
  const ends = lines.flatMap(({ rows, carried }, strand): Ends[] => {
    if (focused !== null) return Array.from(carried.query.keys, (query, n) => ({ query, key: focused, weight: carried.query.weights[n], strand }));
    if (rows.length === 1) return endsFrom(queries[0], carried.key, strand);
    return rows.flatMap((row, n) => Array.from(carried.key.keys, (key) => ({ query: queries[n], key, weight: row[key], strand })).filter(({ weight }) => isWeight(weight) && Math.abs(weight) > FAINT));
  });
  return ends.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}
