/**
 * The tokens that arcs run between, and the weights beside them. Those of a window of the list exist, and hovering touches
 * only what differs, inside boxes of fixed size.
 */

import { counted, cut, deltaText, element, weightText } from "./a11y.ts";
import { LEAK } from "./carried.ts";
import type { Groups } from "./combine.ts";
import { MARKERS } from "./draw.ts";
import { effectText } from "./effects.ts";
import type { Focus } from "./focus.ts";
import { chip, nameOf } from "./label.ts";
import type { Box, Layout, Side } from "./layout.ts";
import { SIDES, tokensBetween } from "./layout.ts";
import type { WeightMap } from "./math.ts";
import { isWeight, MASKED, PADDED } from "./math.ts";
import type { Lines, Strands } from "./strands.ts";
import { signedColour } from "./strands.ts";
import type { Palette } from "./theme.ts";
import { css, tints } from "./theme.ts";
import type { Axis } from "./wire.ts";

/** What the tokens are, and where they stand. */
export interface Setting {
  layout: Layout;
  axes: Readonly<Record<Side, Axis>>;
  groups: Readonly<Record<Side, Groups | null>>;
  /** Signs of what can be taken apart, or put together again. */
  folds: Readonly<Record<Side, readonly ("+" | "−" | null)[]>>;
  /** One line of tokens, each query and key. */
  same: boolean;
  /** Tokens are sentences, on two lines. */
  tall: boolean;
  strands: Strands;
  /** Heads are so many that bars stand for their numbers. */
  dense: boolean;
  palette: Palette;
}

/** What is told of them now. */
export interface Told {
  map: WeightMap;
  /** Keys that are padding. */
  padding: ReadonlySet<number>;
  focus: Focus;
  lines: readonly Lines[];
  pinned: readonly number[];
  /** Queries that have rows, and keys that are there. */
  there: Readonly<Record<Side, number>>;
  /** What carries the chosen share of any line. */
  carried: Readonly<Record<Side, ReadonlySet<number>>>;
  /** Some row gives to no key, and that is told. */
  leaking: boolean;
}

/** One token on screen, with the weights beside it. */
interface Row {
  el: HTMLElement;
  chip: HTMLElement;
  /** As a key of the query in focus, and as a query of the key in focus. */
  to: HTMLElement | null;
  from: HTMLElement | null;
}

const styleOf = ({ left, top, width, height }: Box): string => `left: ${left}px; top: ${top}px; width: ${width}px; height: ${height}px`;
const coded = (cells: Float32Array | null, i: number): boolean => cells !== null && (cells[i] === MASKED || cells[i] === PADDED);

export class TokenList {
  readonly el: Readonly<Record<Side, HTMLElement>> = { query: element("div", { role: "group" }), key: element("div", { role: "list", "aria-label": "Keys" }) };
  readonly #rows: Record<Side, Map<number, Row>> = { query: new Map(), key: new Map() };
  #set: Setting | null = null;
  #tint: (weight: number) => string = () => "";
  /** The one token that the Tab key reaches. */
  #roving: { side: Side; i: number } = { side: "query", i: 0 };

  /** Begins anew: nothing is there until it is kept. */
  arrange(setting: Setting, again: boolean): void {
    const { palette, strands, same } = (this.#set = setting);
    const [more, less] = [1, -1].map((sign) => tints(strands.signed || strands.effects ? { ...palette, accent: signedColour(palette, sign) } : palette));
    this.#tint = strands.several ? () => "" : (weight) => (weight > 0 ? more(weight) : weight < 0 ? less(-weight) : ""); // several heads have colours of their own
    if (!again) this.#roving = { side: "query", i: 0 };
    this.el.query.ariaLabel = same ? "Tokens" : "Queries";
    this.el.key.hidden = same;
    for (const side of SIDES) {
      this.#rows[side].clear();
      this.el[side].replaceChildren();
    }
  }

  /** Makes the tokens of a window and drops those that left it, but never the one that has the keyboard. */
  keep(from: number, to: number): void {
    if (this.#set === null) return;
    for (const side of this.#set.same ? (["query"] as const) : SIDES) {
      const rows = this.#rows[side];
      const [first, last] = tokensBetween(this.#set.layout, side, from, to);
      for (const [i, { el, ...weights }] of rows) {
        if ((i >= first && i < last) || el.matches(":focus")) continue;
        for (const each of [el, weights.to, weights.from]) each?.remove();
        rows.delete(i);
      }
      for (let i = first; i < last; i++) if (!rows.has(i)) rows.set(i, this.#make(this.#set, side, i));
    }
    const { side: before, i: at } = this.#roving;
    if (this.#rows[before].has(at)) return;
    for (const side of SIDES) {
      const [first, last] = tokensBetween(this.#set.layout, side, from, to);
      const [i, row] = [(first + last) >> 1, this.#rows[side].get((first + last) >> 1)]; // in the middle, so that nothing moves
      if (row === undefined) continue;
      this.#roving = { side, i };
      row.el.tabIndex = 0;
      return;
    }
  }

  #make({ axes, groups, layout, folds, same, tall }: Setting, side: Side, i: number): Row {
    const [axis, asks] = [axes[side], side === "query"];
    const token = chip(axis, i);
    const count = groups[side]?.members[i]?.length ?? 1;
    if (count > 1) token.title = `${cut(axis.labels[i], 2000)} · ${counted(count, "token")}`;
    if (tall) token.textContent = cut(axis.labels[i], 160);
    const sign = folds[side].at(i) ?? null;
    const el = element("div", {
      ...(asks ? { role: "button", "aria-pressed": "false" } : { role: "listitem" }), [`data-${side}`]: i, ...(same ? { "data-key": i } : {}),
      ...(asks && sign !== null ? { "aria-expanded": String(sign === "−"), "aria-keyshortcuts": "x" } : {}),
      tabindex: this.#roving.side === side && i === this.#roving.i ? 0 : -1, "aria-label": nameOf(axis, i), style: styleOf(layout.token(side, i)),
    }, token);
    if (sign !== null) {
      const title = sign === "+" ? `take apart into ${counted(count, "token")} (x)` : "put together again (x)";
      el[asks && !same ? "prepend" : "append"](element("span", { class: "attn-fold", "aria-hidden": "true", "data-fold": sign, title }, element("i", {}, sign)));
    }
    const weight = (hook: string): HTMLElement => element("span", { class: `attn-weight attn-${side}`, [hook]: i, "aria-hidden": "true", style: styleOf(layout.number(side, i)) });
    const row = { el, chip: token, to: same || !asks ? weight("data-weight-for") : null, from: asks ? weight("data-weight-from") : null };
    this.el[side].append(...[el, row.to, row.from].filter((each) => each !== null));
    return row;
  }

  /** Lets the Tab key reach this token, and puts the keyboard there. */
  moveTo(side: Side, i: number): void {
    const [before, row] = [this.#rows[this.#roving.side].get(this.#roving.i), this.#rows[side].get(i)];
    if (before !== undefined) before.el.tabIndex = -1;
    this.#roving = { side, i };
    if (row === undefined) return;
    row.el.tabIndex = 0;
    row.el.focus({ preventScroll: true });
  }

  /** Marks tokens and writes weights. */
  mark({ map, padding, focus, lines, pinned, there, carried, leaking }: Told): void {
    const { queries, key, row, column, moment } = focus;
    const same = this.#set?.same === true;
    const [on, held] = [new Set([...pinned, ...queries]), new Set(pinned)];
    for (const side of SIDES) {
      const asks = side === "query";
      // Of a token that is both, the key in focus is what its numbers are about, if there is one.
      const as = asks && !(same && column === null) ? "query" : "key";
      const cells = as === "key" ? row : column;
      for (const [i, { el, chip: token, to, from }] of this.#rows[side]) {
        const now = asks && i === moment?.token;
        const marks = {
          on: (i === key && (same || !asks)) || (asks && on.has(i)),
          off: !now && (cells === null ? (asks ? map.allowed(i) === 0 : padding.has(i)) : coded(cells, i)),
          later: !now && ((asks && i > there.query) || (as === "key" && i >= there.key)),
          now,
          carried: cells !== null && (carried[as].has(i) || Number.isNaN(cells[i])),
          seen: cells !== null && !coded(cells, i),
        };
        const names = `attn-token attn-${side}${Object.entries(marks).map(([name, holds]) => (holds ? ` attn-${name}` : "")).join("")}`;
        if (el.className !== names) el.className = names;
        if (asks && (el.ariaPressed === "true") !== held.has(i)) el.ariaPressed = String(held.has(i));
        const tint = cells !== null && carried[as].has(i) ? this.#tint((focus.effects?.[as] ?? cells)[i]) : "";
        if (token.style.backgroundColor !== tint) token.style.backgroundColor = tint;
        if (to !== null) this.#tell(to, same && column !== null ? [] : lines, focus, "key", i);
        if (from === null) continue;
        const leak = leaking && i < there.query ? map.leak(i) : 0;
        if (leak > LEAK) this.#write(from, [weightText(leak)], [], queries.includes(i));
        else this.#tell(from, lines, focus, "query", i);
      }
    }
  }

  /** The weight of token `i` in each of `lines`, and what that does. What is small says so only where it is drawn. */
  #tell(el: HTMLElement, lines: readonly Lines[], { effects }: Focus, side: Side, i: number): void {
    const weights = lines.map(({ cells: { [side]: cells } }) => (cells === null || coded(cells, i) ? null : cells[i]));
    const drawn = lines.map(({ told }) => told[side].has(i));
    const text = this.#set?.strands.signed === true ? deltaText : weightText;
    const [about, share = NaN] = [this.#set?.strands.effects ?? null, lines.length > 0 ? effects?.[side]?.[i] : undefined];
    const acts = about !== null && isWeight(share);
    if (acts) el.dataset["effect"] = String(share * about.largest);
    else delete el.dataset["effect"];
    const texts = weights.map((weight, n) => (weight === null || (!drawn[n] && Math.abs(weight) < 0.005) ? "" : `${text(weight)}${acts ? ` · ${effectText(about, share)}` : ""}`));
    this.#write(el, texts, weights, drawn.includes(true) || weights.some(Number.isNaN));
  }

  #write(el: HTMLElement, texts: readonly string[], weights: readonly (number | null)[], strong: boolean): void {
    el.classList.toggle("attn-strong", strong);
    const told = texts.join("|");
    if (el.dataset["told"] === told) return;
    el.dataset["told"] = told;
    if (texts.length < 2 || told.length < texts.length) el.textContent = texts.at(0) ?? "";
    else el.replaceChildren(...this.#several(texts, weights));
  }

  /** The numbers of several heads: side by side, or as bars with the largest in numbers. */
  #several(texts: readonly string[], weights: readonly (number | null)[]): HTMLElement[] {
    if (this.#set === null) return [];
    const { dense, palette, strands } = this.#set;
    const sizes = weights.map((weight) => Math.abs(weight ?? 0) || 0);
    const colours = palette.several.map((colour) => css(colour));
    const number = (text: string, n: number): HTMLElement =>
      element("span", { class: "attn-number", "data-of": strands.all[n].head?.join("/") ?? "" }, ...(text === "" ? [] : [element("i", { style: `color: ${colours[n]}` }, MARKERS[n]), text]));
    if (!dense) return texts.map(number);
    const bars = sizes.map((size, n) => `linear-gradient(${colours[n]} 0 0) ${7 * n}px 100% / 5px ${size === 0 ? 0 : Math.max(1, Math.round(14 * Math.sqrt(Math.min(1, size))))}px no-repeat`);
    const most = sizes.indexOf(Math.max(...sizes));
    return [element("span", { class: "attn-bars", style: `width: ${7 * sizes.length - 2}px; background: ${bars.join()}` }), number(texts[most], most)];
  }
}
