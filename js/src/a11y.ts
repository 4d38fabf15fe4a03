/** What is read rather than seen: elements with roles and names, keyboard in groups, the live line, and the sentences. */

import { isWeight, MASKED, PADDED, strongest } from "./math.ts";
import { chorded } from "./until.ts";
import type { PartInfo, Selection } from "./wire.ts";

// ── elements ────────────────────────────────────────────────────────────────────────────────────────────────────────

type Attributes = Readonly<Record<string, string | number>>;

/** An element with attributes and children. Text goes in as text nodes: nothing a token holds is ever read as markup. */
export function element<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") made.style.cssText = String(value); // pages may refuse style attributes
    else made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

export interface Choice<T> {
  value: T;
  label: string;
  /** A longer name, for tooltip and screen reader. */
  name?: string;
}

export interface Segmented<T> {
  el: HTMLElement;
  /** Shows `choices` with `value` chosen; keeps the buttons, and so the focus, when only the value is new. */
  show(choices: readonly Choice<T>[], value: T): void;
}

/** A row of buttons of which one is down: a radio group with arrow keys and one tab stop. */
export function segmented<T>(name: string, pick: (value: T) => void): Segmented<T> {
  const el = element("div", { role: "radiogroup", "aria-label": name, class: "attn-segmented" });
  let shown: readonly Choice<T>[] = [];
  const buttons = (): HTMLButtonElement[] => [...el.querySelectorAll("button")];

  const choose = (at: number): void => {
    const choice = shown.at(at);
    if (choice !== undefined) pick(choice.value);
  };
  el.addEventListener("click", (event) => {
    const at = buttons().findIndex((button) => event.target instanceof Node && button.contains(event.target));
    if (at >= 0) choose(at);
  });
  el.addEventListener("keydown", (event) => {
    const at = buttons().findIndex((button) => button.getAttribute("tabindex") === "0");
    const to = stepped(event.key, at, shown.length, true);
    if (to === null || chorded(event)) return;
    event.preventDefault();
    choose(to);
    el.querySelector<HTMLElement>('[tabindex="0"]')?.focus(); // they may be others now
  });

  return {
    el,
    show(choices, value) {
      const sameChoices = choices.length === shown.length && choices.every((choice, i) => choice.label === shown[i].label);
      shown = choices;
      if (!sameChoices) el.replaceChildren(...choices.map(({ label, name: long }) => element("button", { type: "button", role: "radio", ...(long === undefined ? {} : { "aria-label": long, title: long }) }, label)));
      const chosen = choices.findIndex((choice) => choice.value === value);
      buttons().forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === chosen));
        button.tabIndex = i === Math.max(0, chosen) ? 0 : -1;
      });
    },
  };
}

export interface Stepper {
  el: HTMLElement;
  show(at: number, count: number): void;
}

/** One of many by its number, with a step back and a step on: "text ‹ 2 of 8 ›". */
export function stepper(noun: string, pick: (at: number) => void): Stepper {
  const step = (name: string, sign: string): HTMLButtonElement =>
    element("button", { type: "button", "aria-label": `${name} ${noun}`, title: `${name} ${noun}`, "data-keep": name }, sign);
  const [back, on, place] = [step("previous", "‹"), step("next", "›"), element("span", { "aria-live": "polite" })];
  const el = element("div", { role: "group", "aria-label": noun, class: "attn-control attn-stepper" }, noun, element("div", { class: "attn-segmented" }, back, place, on));
  let [now, most] = [0, 0];
  const go = (to: number | null): void => {
    if (to !== null && to !== now && to >= 0 && to < most) pick(to);
  };
  back.addEventListener("click", () => { go(now - 1); });
  on.addEventListener("click", () => { go(now + 1); });
  el.addEventListener("keydown", (event) => {
    const to = stepped(event.key, now, most);
    if (to === null || chorded(event)) return;
    event.preventDefault();
    go(to);
  });
  return {
    el,
    show(at, count) {
      [now, most] = [at, count];
      place.textContent = `${thousands(at + 1)} of ${thousands(count)}`;
      back.ariaDisabled = String(at === 0); // a button that is disabled would lose the keyboard
      on.ariaDisabled = String(at === count - 1);
    },
  };
}

/** Where a key leads from place `at` of `count`; `null` for keys that lead nowhere. */
export function stepped(key: string, at: number, count: number, wraps = false): number | null {
  if (count === 0) return null;
  const bound = (to: number): number => (wraps ? (to + count) % count : Math.min(count - 1, Math.max(0, to)));
  const places: Readonly<Record<string, number>> = { ArrowRight: bound(at + 1), ArrowDown: bound(at + 1), ArrowLeft: bound(at - 1), ArrowUp: bound(at - 1), Home: 0, End: count - 1 };
  return places[key] ?? null;
}

/** The same for a slider, on which up is more. Ranges would do this by themselves, but notebooks take the arrow keys of what does not say that it used them. */
export const slid = (event: KeyboardEvent, at: number, count: number): number | null =>
  chorded(event) ? null : stepped({ ArrowUp: "ArrowRight", ArrowDown: "ArrowLeft" }[event.key] ?? event.key, at, count);

/** A line that screen readers speak when it changes. It is told what the keyboard and pins do, never what the pointer passes. */
export function liveLine(): { el: HTMLElement; say(text: string): void } {
  const el = element("div", { class: "attn-unseen", role: "status", "aria-live": "polite" });
  return {
    el,
    say(text) {
      if (el.textContent !== text) el.textContent = text;
    },
  };
}

// ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A weight with two decimals; what is there but smaller than that says so. */
export function weightText(weight: number): string {
  if (Number.isNaN(weight)) return "NaN";
  if (weight === 0) return "0";
  return weight < 0.005 ? "<0.01" : weight.toFixed(2);
}

const valued = (more: number) => (value: number): string => {
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 0.01 ? size.toFixed((size >= 100 ? 0 : size >= 10 ? 1 : 2) + more) : size < 0.001 ? size.toExponential(more).replace("-", "−") : size.toPrecision(1 + more);
  return value < 0 ? `−${text}` : text;
};

/** A number that is no weight, short; and with a digit more, for what is compared. */
export const [valueText, closeText] = [valued(0), valued(1)];

/** A difference of weights, with its sign. */
export const deltaText = (delta: number): string => (delta > 0 ? `+${weightText(delta)}` : delta < 0 ? `−${weightText(-delta)}` : weightText(delta));

const REDUCED = { mean: "mean of", max: "largest of", min: "smallest of" } as const;

/** "Layer 7 · head 10", "Layer 7 · mean of 12 heads", "Mean of all 144 heads". */
export function selectionText({ layer, head, reduce, heads: chosen = [] }: Omit<Selection, "part">, part: PartInfo): string {
  const over = REDUCED[reduce];
  if (chosen.length === 1) return `Layer ${chosen[0][0]} · head ${chosen[0][1]}`;
  const capital = over.charAt(0).toUpperCase() + over.slice(1);
  if (chosen.length > 1) return `${capital} ${counted(chosen.length, "chosen head")}`;
  if (layer !== null && head !== null) return `Layer ${layer} · head ${head}`;
  const heads = layer === null ? part.layers.reduce((sum, one) => sum + one.heads, 0) : (part.layers.at(layer)?.heads ?? 0);
  if (layer !== null) return heads === 0 ? `Layer ${layer}` : `Layer ${layer} · ${over} ${counted(heads, "head")}`;
  if (head !== null) return `Head ${head} · ${over} ${counted(part.layers.filter(({ heads }) => heads > head).length, "layer")}`;
  return `${capital} ${heads > 1 ? "all " : ""}${counted(heads, "head")}`;
}

export const counted = (count: number, noun: string): string => `${thousands(count)} ${noun}${count === 1 ? "" : "s"}`;

/** 12 345 as "12 345", with thin spaces that do not break. */
export const thousands = (count: number): string => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** A piece of a sentence: a token is set apart from its words, a number is set in bold. */
export interface Piece {
  kind: "words" | "token" | "number" | "place";
  text: string;
}

const words = (text: string): Piece => ({ kind: "words", text });
const number = (weight: number, signed = false): Piece => ({ kind: "number", text: signed ? deltaText(weight) : weightText(weight) });

export const plain = (pieces: readonly Piece[]): string => pieces.map(({ kind, text }) => (kind === "place" ? ` (${text})` : text)).join("");

/** How sentences name tokens: quoted, cut when long, with their place where the same token comes twice. */
export class Names {
  readonly #counts = new Map<string, number>();

  constructor(readonly labels: readonly string[]) {
    for (const label of labels) this.#counts.set(label, (this.#counts.get(label) ?? 0) + 1);
  }

  of(i: number): Piece[] {
    const label = this.labels.at(i) ?? String(i);
    const name: Piece[] = [words("“"), { kind: "token", text: cut(label, 24) }, words("”")];
    return (this.#counts.get(label) ?? 0) > 1 ? [...name, { kind: "place", text: String(i) }] : name;
  }
}

/** At most `limit` characters, cut between code points. */
export function cut(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const characters = Array.from(text.slice(0, 2 * limit + 2));
  return characters.length <= limit && text.length <= 2 * limit ? text : `${characters.slice(0, limit - 1).join("")}…`;
}

export interface Spoken {
  queries: Names;
  keys: Names;
  /** Maps that hold the largest or smallest of several heads do not share out a row. */
  bound: "" | "at most " | "at least ";
  /** Weights are those of one attention less those of another. */
  signed?: boolean;
  /** The token that was produced at the query. */
  produced?: number;
  /** What follows the weight of the edge to or from `at`; it is told at length of the first. */
  effect?: (at: number, first: boolean) => string;
}

export function boundOf({ layer, head, reduce, heads = [] }: Selection): Spoken["bound"] {
  const single = heads.length === 0 ? layer !== null && head !== null : heads.length === 1;
  return single || reduce === "mean" ? "" : reduce === "max" ? "at most " : "at least ";
}

const NAMED = 3; // tokens a sentence names before it sums up the rest

interface Mentioned {
  indices: number[];
  rest: number;
  restCount: number;
}

/** The strongest few, but none that would be named with "<0.01" unless it is the strongest. */
function mentioned(cells: Float32Array): Mentioned {
  const { indices, rest, restCount } = strongest(cells, 1, NAMED);
  const named = Array.from(indices).filter((j, n) => n === 0 || Math.abs(cells[j]) >= 0.005);
  const left = Array.from(indices).slice(named.length);
  return { indices: named, rest: left.reduce((sum, j) => sum + Math.abs(cells[j]), rest), restCount: restCount + left.length };
}

/**
 * “it” routes 0.62 of its weight to “animal”, 0.14 to “street”, 0.11 to “The”, 0.13 to 9 others.
 * “sat” was produced at “cat”, which routes 0.31 of its weight to “The”, 0.69 to 2 others.
 */
export function rowSentence(queries: readonly number[], row: Float32Array, leak: number, { queries: from, keys, bound, produced, signed, effect }: Spoken): Piece[] {
  const several = queries.length > 1;
  const one = produced === undefined ? from.of(queries[0]) : [...from.of(produced), words(" was produced at "), ...from.of(queries[0]), words(", which")];
  const subject = several ? [words(`${counted(queries.length, "pinned token")} together`)] : one;
  if (row.some(Number.isNaN)) return [...subject, words(several ? " have" : " has"), words(" weights that are not numbers (NaN).")];
  const { indices, rest, restCount } = mentioned(row);
  if (indices.length === 0) return [...subject, words(several ? " have no weights on any key." : emptyRow(row, leak))];
  if (signed === true) return [...subject, words(`${several ? " give" : " gives"} `), ...changes(indices, row, keys, " to "), words(".")];
  const parts: Piece[][] = indices.map((j, n) => [number(row[j]), words(n === 0 ? share(several ? queries.length : 0, bound) : " to "), ...keys.of(j), ...also(effect, j, n)]);
  if (restCount > 0 && bound === "") parts.push([number(rest), words(` to ${counted(restCount, "other")}`)]);
  if (leak > 0.0005) parts.push([number(leak), words(" leaves to the sink")]);
  return [...subject, words(` ${several ? "route" : "routes"} ${bound}`), ...listed(parts), words(".")];
}

function share(several: number, bound: Spoken["bound"]): string {
  if (bound !== "") return " to ";
  return several === 0 ? " of its weight to " : ` of their ${several}.00 to `;
}

function emptyRow(row: Float32Array, leak: number): string {
  if (leak > 0.0005) return " gives all of its weight to the sink.";
  if (row.every((cell) => cell === PADDED)) return " is padding: it has no weights.";
  return row.some(isWeight) ? " gives no weight to any key." : " may not look at any key (mask).";
}

/** “animal” receives 0.62 from “it”, 0.20 from “was”, 0.31 from 9 others. */
export function columnSentence(key: number, column: Float32Array, { queries, keys, bound, signed, effect }: Spoken): Piece[] {
  if (column.some(Number.isNaN)) return [...keys.of(key), words(" receives weights that are not numbers (NaN).")];
  const { indices, rest, restCount } = mentioned(column);
  if (indices.length === 0) return [...keys.of(key), words(column.every((cell) => cell === PADDED) ? " is padding: nothing looks at it." : " receives nothing.")];
  if (signed === true) return [...keys.of(key), words(" receives "), ...changes(indices, column, queries, " from "), words(".")];
  const parts = indices.map((i, n): Piece[] => [number(column[i]), words(" from "), ...queries.of(i), ...also(effect, i, n)]);
  if (restCount > 0 && bound === "") parts.push([number(rest), words(` from ${counted(restCount, "other")}`)]);
  return [...keys.of(key), words(` receives ${bound}`), ...listed(parts), words(".")];
}

/** it → animal 0.62, or why there is no number. */
export function cellSentence(i: number, j: number, cell: number, { queries, keys, signed }: Spoken): Piece[] {
  if (cell === MASKED) return [...queries.of(i), words(" cannot attend to "), ...keys.of(j), words(" (mask)")];
  if (cell === PADDED) return [...queries.of(i), words(" → "), ...keys.of(j), words(" is padding")];
  return [...queries.of(i), words(" → "), ...keys.of(j), words("  "), number(cell, signed)];
}

/** +0.21 to “cat”, −0.10 to “dog”: what A gives more, or less, than B. */
const changes = (indices: readonly number[], cells: Float32Array, names: Names, where: string): Piece[] =>
  listed(indices.map((at): Piece[] => [number(cells[at], true), words(where), ...names.of(at)]));

const also = (effect: Spoken["effect"], at: number, n: number): Piece[] => (effect === undefined ? [] : [words(effect(at, n === 0))]);

const listed = (parts: readonly Piece[][]): Piece[] => parts.flatMap((part, n) => (n === 0 ? part : [words(", "), ...part]));

/** The pieces as nodes: tokens isolated from the direction of the words around them. */
export function spelled(pieces: readonly Piece[]): Node[] {
  return pieces.map(({ kind, text }) => {
    if (kind === "words") return document.createTextNode(text);
    if (kind === "place") return element("span", { class: "attn-place" }, text);
    return kind === "token" ? element("bdi", {}, text) : element("b", {}, text);
  });
}
