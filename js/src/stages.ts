/** The steps of a head as columns of numbers, and those numbers as text. */

import { ALLOWED } from "./head.ts";
import type { Head, Outcome, Row, Switches } from "./head.ts";

/** A step that has a number for every key. */
export interface Column {
  id: "dot" | "scaled" | "capped" | "score" | "weight" | "value";
  /** Its number among the steps. */
  step: number;
  head: string;
  name: string;
  /** It is switched off. */
  off: boolean;
}

/** The columns of a head at one query, and the numbers of the two steps after them. */
export interface Stages {
  columns: readonly Column[];
  sum: number;
  write: number;
}

/** What happens in the model, and with the switches; the same where nothing is switched. */
export interface Compared {
  own: Outcome;
  now: Outcome;
  /** What would be without 1/√d; `null` where there is none. */
  unscaled: Row | null;
}

/** Steps that do nothing in this head at this query are left out; the first two, q and k and their product, are not where there are no vectors. */
export function stagesOf(head: Head, { sees }: Row, { scale, mask, temperature, uniform }: Switches): Stages {
  const columns: Column[] = [];
  let step = head.d === null ? 0 : 1;
  const add = (id: Column["id"], text: string, name: string, off = false): void => { columns.push({ id, step: ++step, head: text, name, off }); };
  const masked = sees.some((one) => one !== ALLOWED);
  const joined = told([head.d === null, "ln p"], [head.biased !== null, "+ bias"], [masked, "mask"], [temperature !== 1, "÷ T"]).join(", ");
  if (head.d !== null) {
    add("dot", "q·k", "dot product of q and k");
    add("scaled", scaleText(head), "scaled", !scale);
  }
  if (head.cap !== 0) add("capped", `cap ±${head.cap}`, "capped");
  if (joined !== "") add("score", joined, "score", !mask && joined === "mask");
  add("weight", uniform ? "uniform" : "softmax", "weight");
  if (head.dv !== null) add("value", "× v", "share of the sum z, as switched");
  const sum = head.dv === null ? step + 1 : step;
  return { columns, sum, write: sum + 1 };
}

const told = (...list: readonly (readonly [boolean, string])[]): string[] => list.flatMap(([is, text]) => (is ? [text] : []));

/** What differs from the model, in words; empty where nothing does. */
export function changesOf({ scale, mask, positions, temperature, uniform }: Switches, head: Pick<Head, "d" | "positions">): string[] {
  if (uniform) return ["uniform attention"];
  return told(
    [!scale && head.d !== null, "no scaling"], [!mask, "no mask"], [!positions && head.positions !== null, "no positions"],
    [temperature !== 1, `temperature ${Number(temperature.toPrecision(3))}`],
  );
}

/** A number as it stands in tables: two decimals, fewer where it is large, a true minus. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size >= 1e5 ? size.toExponential(1) : size.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : 2);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** A weight: two decimals, three where it is small. */
export function weightFigure(weight: number): string {
  if (!(weight < 0.0095) || weight === 0) return weight === 0 ? "0" : weight.toFixed(2);
  return weight < 0.0005 ? "<0.001" : weight.toFixed(3);
}

export const percent = (share: number): string => `${String(Math.round(share * 100)).replace("-", "−")} %`;

/** "÷ √64", or what else the products are multiplied by. */
export function scaleText({ scale, d }: Pick<Head, "scale" | "d">): string {
  return d !== null && Math.abs(scale * Math.sqrt(d) - 1) < 1e-4 ? `÷ √${d}` : `× ${Number(scale.toPrecision(3))}`;
}

/** Where a bar lies between two ends, in percent. */
export function barOf(value: number, low: number, high: number): { left: number; width: number } {
  const room = high - low;
  if (!(room > 0) || Number.isNaN(value)) return { left: 0, width: 0 };
  const [from, to] = [Math.min(0, value), Math.max(0, value)].map((at) => (Math.min(high, Math.max(low, at)) - low) / room);
  return { left: 100 * from, width: 100 * (to - from) };
}
