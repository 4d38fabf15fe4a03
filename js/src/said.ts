/** What is said of a map: of the cell one points at, and of how it is drawn. */

import type { Names, Piece, Spoken } from "./a11y.ts";
import { cellSentence, counted, deltaText, element, spelled, thousands, weightText } from "./a11y.ts";
import type { Effects } from "./effects.ts";
import { deed } from "./effects.ts";
import type { signsIn } from "./ink.ts";
import { inSight, strongestIn } from "./ink.ts";
import type { Region, WeightMap } from "./math.ts";
import { isWeight, MASKED, PADDED } from "./math.ts";
import type { Pictures } from "./pictures.ts";
import type { Layout } from "./plan.ts";
import { isWhole } from "./window.ts";

/** What the pointer or the keyboard is at: a weight, and the block it stands for. */
export interface Here {
  query: number;
  key: number;
  block: Region;
}

interface Known {
  names: Spoken;
  /** Weights are shown relative to what uniform attention would give. */
  lifted: boolean;
  /** Two attentions are compared: their tokens are aligned, and some are in one of them only. */
  compared: boolean;
  /** Single weights of the block are known. */
  exact: boolean;
  /** What the edges do, where that is what the map is painted by. */
  effects: Effects | null;
}

const span = (from: number, to: number): string => (to - from === 1 ? thousands(from) : `${thousands(from)} to ${thousands(to - 1)}`);
const lift = (times: number): string => (times >= 10 ? times.toFixed(0) : times >= 0.1 ? times.toFixed(1) : weightText(times));

/** What a pooled cell is, of those it stands for. */
export const asPooled = ({ pooledAs }: WeightMap): string => pooledAs ?? "the strongest";

/** What a card says of a cell, and of the block it stands for; `cell` is `null` where the weight is not known. */
export function cardOf(map: WeightMap, { query, key, block }: Here, cell: number | null, { names, lifted, compared, exact, effects }: Known): HTMLElement[] {
  const { r0, r1, c0, c1 } = block;
  const said: HTMLElement[] = [];
  if (cell !== null) {
    const alone: Piece[] = [...names.queries.of(query), { kind: "words", text: " → " }, ...names.keys.of(key), { kind: "words", text: " is only in one of them" }];
    said.push(element("div", { "data-weight": cell }, ...spelled(cell === PADDED && compared ? alone : cellSentence(query, key, cell, names))));
    const [share] = effects?.map.tile(query, query + 1, key, key + 1) ?? [MASKED];
    if (effects !== null && isWeight(share)) said.push(element("div", { "data-effect": share * effects.largest }, deed(effects, share, effects.reach(query))));
    if (cell > 0 && !map.signed && lifted && effects === null) said.push(element("div", {}, `${lift(cell * map.allowed(query))}× the uniform weight`));
  }
  const size = (r1 - r0) * (c1 - c0);
  if (size === 1) return said;
  if (exact) return [...said, element("div", { class: "attn-quiet" }, `the strongest of ${counted(size, effects === null ? "weight" : "effect")} here`)];
  // Pooled: how strong the strongest is, not which one it is.
  const one = strongestIn(map, block);
  const [most] = map.tile(one.query, one.query + 1, one.key, one.key + 1);
  const where = `queries ${span(r0, r1)}, keys ${span(c0, c1)}`;
  return [...said, isWeight(most) ? element("div", {}, element("b", { "data-strongest": most }, (map.signed ? deltaText : weightText)(most)), ` is ${asPooled(map)} of ${r1 - r0} × ${c1 - c0}: ${where}`) : element("div", {}, `No weights in ${where}`)];
}

/** What is in sight, and how it is drawn, as far as that cannot be seen. */
export function noteOf(map: WeightMap, at: Layout, pictures: Pictures): string {
  const { rows, cols } = at;
  const region = inSight(at);
  const { tall, wide, sampled } = pictures.grain(rows, cols);
  const stretch = rows.pitch / cols.pitch;
  const pooled = map.pooled && pictures.exactly(region) === null;
  return [
    (!isWhole(rows) || !isWhole(cols)) && `Queries ${span(region.r0, region.r1)} of ${thousands(map.nq)}, keys ${span(region.c0, region.c1)} of ${thousands(map.nk)}.`,
    tall * wide > 1 && `A dot is ${pooled ? asPooled(map) : "the strongest"} of ${sampled ? "a sample of " : ""}${tall} × ${wide} weights.`,
    pictures.trouble || (pooled && "This map is stored pooled; looked at closely, its rows are fetched one by one."),
    (stretch > 1.5 || stretch < 0.67) && `Cells are drawn ${stretch > 1 ? "taller than wide" : "wider than tall"}.`,
  ].filter(Boolean).join(" ");
}

/** What a legend adds to its ramp: the signs of cells that are no weights. */
export function signsOf({ masked, padded, nan }: ReturnType<typeof signsIn>, aside: boolean, compared: boolean): HTMLElement[] {
  const signs = [aside && ["aside", "set aside"], masked && ["masked", "masked"], padded && ["padded", compared ? "only in one of them" : "padding"], nan && ["nan", "not a number"]] as const;
  return signs.flatMap((sign) => (sign === false ? [] : [element("span", { class: "attn-sign" }, element("i", { class: `attn-is-${sign[0]}` }), sign[1])]));
}

/** What each of `keys` takes of the weight. */
export const sharesOf = (keys: readonly number[], names: Names, received?: Float32Array): (Node | string)[] => [
  ...keys.flatMap((key, n) => {
    const share = received?.[key] ?? NaN;
    return [n === 0 ? "" : ", ", ...spelled(names.of(key)), " takes ", element("b", { "data-share": share }, weightText(share))];
  }), " of the weight",
];
