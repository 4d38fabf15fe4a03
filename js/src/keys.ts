/** The keys of one query as a table: a line for each key, a column for each step, bars on one scale, the model's own as outlines. */

import { counted, element, stepped, thousands } from "./a11y.ts";
import type { Head, Row } from "./head.ts";
import { ABSENT, ALLOWED, HIDDEN, largest, reach, shareOf, worthALine } from "./head.ts";
import { hear } from "./heard.ts";
import type { Column, Compared, Stages } from "./stages.ts";
import { barOf, figure, percent, weightFigure } from "./stages.ts";
import { shades } from "./strips.ts";
import { badge, bold } from "./told.ts";
import { listen } from "./until.ts";

export interface Listed extends Compared {
  head: Head;
  stages: Stages;
  query: number;
  /** A key as a chip, and what it is called outside (a token of the axis). */
  chip: (key: number) => HTMLElement;
  token: (key: number) => number;
}

type Id = Column["id"];
type Ends = readonly [low: number, high: number];

const AT_FIRST = 16; // lines
const MORE = 32;
const MOST = 200;

export class KeyTable {
  readonly el = element("div", { class: "attn-keys", role: "grid", "aria-label": "Keys, step by step" });
  readonly #more = element("button", { type: "button", class: "attn-button", "data-more": "" });
  #listed: Listed | null = null;
  #limit = AT_FIRST;
  #traced: number | null = null;

  constructor(hover: (key: number | null) => void, pick: (key: number) => void, signal: AbortSignal) {
    hear(this.el, { point: hover, press: pick, escape: () => { hover(null); } }, {
      at: ({ target }) => keyAt(target),
      to: (key, from) => {
        const keys = this.#lines().map(keyAt);
        const to = key === "ArrowLeft" || key === "ArrowRight" ? null : stepped(key, keys.indexOf(from), keys.length);
        return to === null ? null : keys[to];
      },
      go: (key) => {
        pick(key);
        this.#focus(key);
      },
    }, signal);
    listen(this.#more, { click: () => {
      this.#limit += MORE;
      if (this.#listed !== null) this.show(this.#listed, this.#traced);
    } }, signal);
  }

  show(listed: Listed, traced: number | null): void {
    const { head, stages: { columns }, own, now, query } = listed;
    if (head !== this.#listed?.head || query !== this.#listed.query) this.#limit = AT_FIRST;
    this.#listed = listed;
    const keys = worthALine(own.row, now.row, this.#limit, traced === null ? [] : [traced]);
    const ends = endsOf(listed, keys);
    const paint = this.#painter(listed);
    const held = this.el.querySelector<HTMLElement>(":focus");
    this.el.style.setProperty("--columns", String(columns.length));
    this.el.replaceChildren(
      element("div", { class: "attn-key-row attn-key-heads", role: "row" }, element("span", { role: "columnheader" }, "key"), ...columns.map(header)),
      ...keys.map((key) => lineOf(key, listed, ends, paint)),
      ...(head.sink(query) === null ? [] : [sinkLine(listed, ends)]),
      this.#rest(listed, keys),
      element("div", { class: "attn-key-row attn-key-feet", role: "row" }, ...feet(listed)),
    );
    this.trace(traced);
    if (held !== null) this.#focus(keyAt(held));
  }

  /** Marks the line of a key; it is the one that the keyboard comes to. */
  trace(key: number | null): void {
    this.#traced = key;
    for (const line of this.#lines()) {
      const is = keyAt(line) === key;
      line.classList.toggle("attn-on", is);
      line.ariaSelected = String(is);
      line.tabIndex = is ? 0 : -1;
    }
  }

  #lines(): HTMLElement[] {
    return [...this.el.querySelectorAll<HTMLElement>("[data-at]")];
  }

  #focus(key: number | null): void {
    (this.#lines().find((line) => keyAt(line) === key) ?? this.#more).focus();
  }

  /** Draws weight × v into the canvas of a line; the deepest colour is the largest number in any of the strongest. */
  #painter({ head, now: { row } }: Listed): (canvas: HTMLCanvasElement, key: number) => void {
    const most = Math.max(...largest(row.weight, 12).map((j) => row.weight[j] * reach(head.value(j))), 0);
    const shade = shades(this.el);
    return (canvas, key) => {
      const value = head.value(key);
      [canvas.width, canvas.height] = [value.length, 1];
      const pen = canvas.getContext("2d");
      if (pen === null) return;
      value.forEach((number, x) => {
        pen.fillStyle = shade(row.weight[key] * number, most);
        pen.fillRect(x, 0, 1, 1);
      });
    };
  }

  /** What the keys without a line carry together. */
  #rest({ own, now }: Listed, keys: readonly number[]): HTMLElement {
    const left = Array.from(now.row.sees.keys()).filter((j) => !keys.includes(j));
    const [weight, before] = [now, own].map(({ row }) => left.reduce((sum, j) => sum + row.weight[j], 0));
    const others = left.filter((j) => now.row.sees[j] === ALLOWED).length;
    const unseen = left.length - others;
    const was = own === now ? "" : ` (the model’s own: ${weightFigure(before)})`;
    const carry = others === 0 ? [] : [`${counted(others, "other")} ${others === 1 ? "carries" : "carry"} `, bold(weightFigure(weight)), was, unseen === 0 ? "" : ", "];
    this.#more.textContent = `show ${Math.min(MORE, left.length)} more`;
    this.#more.hidden = this.#limit > MOST;
    return element("div", { class: "attn-key-rest", role: "row", "data-others": others, "data-weight": weight, ...(left.length === 0 ? { hidden: "" } : {}) },
      element("span", { role: "gridcell" }, "+ ", ...carry, unseen === 0 ? "" : `${thousands(unseen)} masked or padding`), element("span", { role: "gridcell" }, this.#more));
  }
}

const header = ({ step, head, name, off }: Column): HTMLElement =>
  element("span", { role: "columnheader", "aria-label": name, title: off ? `${name}, switched off` : name, ...(off ? { class: "attn-is-off" } : {}) }, badge(step), element("span", {}, head));

const SCORES: readonly Id[] = ["scaled", "capped", "score"];

/** The number of a key in a column; `null` where it has none. A key that is masked has one up to the mask. */
const at = (row: Row, id: Exclude<Id, "value">, key: number): number | null =>
  row.sees[key] === ALLOWED || (row.sees[key] === HIDDEN && id !== "score" && id !== "weight") ? row[id][key] : null;

/** How far the bars of each column reach. Scores have one scale in common, so that it shows what a step does to them. */
function endsOf({ own, now, stages: { columns } }: Listed, keys: readonly number[]): (id: Id) => Ends {
  const over = (ids: readonly Id[]): Ends => {
    const found = [0];
    for (const { id } of columns) {
      if (id !== "value" && ids.includes(id)) for (const { row } of [own, now]) for (const j of keys) found.push(at(row, id, j) ?? 0);
    }
    const finite = found.filter(Number.isFinite);
    return [Math.min(...finite), Math.max(...finite)];
  };
  const [dot, scores, weight] = [over(["dot"]), over(SCORES), Math.max(...over(["weight"]), own.row.leak, now.row.leak)];
  return (id) => (id === "dot" ? dot : id === "weight" ? [0, weight] : scores);
}

/** A number with its bar, and the model's own as an outline where that is another. */
function cell(id: Id, text: string, [value, was]: readonly [number | null, number | null], ends: Ends): HTMLElement {
  const bar = (number: number | null, outline = ""): HTMLElement[] => {
    if (number === null) return [];
    const { left, width } = barOf(number, ...ends);
    return [element("i", { class: `${outline}${number < 0 ? " attn-minus" : ""}`, style: `left: ${left}%; width: ${width}%` })];
  };
  const differs = was !== null && (value === null || Math.abs(value - was) > 1e-9);
  const title = differs ? { title: `the model’s own: ${(id === "weight" ? weightFigure : figure)(was)}` } : {};
  return around(id, element("span", { class: "attn-figure", ...title }, text), ...bar(value), ...(differs ? bar(was, "attn-own") : []));
}

const around = (id: Id, text: HTMLElement, ...drawn: HTMLElement[]): HTMLElement =>
  element("span", { role: "gridcell", class: `attn-cell attn-cell-${id}` }, text, element("span", { class: "attn-track" }, ...drawn));

function line(name: HTMLElement, cells: readonly HTMLElement[], data: Readonly<Record<string, number | string>>): HTMLElement {
  const el = element("div", { class: "attn-key-row attn-key-line", role: "row" }, element("span", { role: "rowheader", class: "attn-key-name" }, name), ...cells);
  Object.assign(el.dataset, data);
  return el;
}

function lineOf(key: number, { head, own, now, stages, token, chip }: Listed, ends: (id: Id) => Ends, paint: (canvas: HTMLCanvasElement, key: number) => void): HTMLElement {
  const { row } = now;
  const seen = row.sees[key] === ALLOWED;
  const unseen: Partial<Record<Id, string>> = { score: row.sees[key] === ABSENT ? "−∞ padding" : "−∞ masked", weight: "0" };
  const share = shareOf(head, now, key);
  const cells = stages.columns.map(({ id }) => {
    if (id === "value") {
      const canvas = element("canvas");
      if (seen) paint(canvas, key);
      return around(id, element("span", { class: "attn-figure" }, seen ? percent(share) : ""), ...(seen ? [canvas] : []));
    }
    const value = at(row, id, key);
    const text = value === null ? (unseen[id] ?? "–") : (id === "weight" ? weightFigure : figure)(value);
    const made = cell(id, text, [value, own === now ? null : at(own.row, id, key)], ends(id));
    if (id === "weight") made.querySelector("span")?.setAttribute("data-weight-for", String(token(key)));
    return made;
  });
  const made = line(chip(key), cells, {
    key: token(key), at: key, ...(head.d === null ? {} : { dot: row.dot[key], scaled: row.scaled[key] }),
    score: seen ? row.score[key] : -Infinity, weight: row.weight[key], ownWeight: own.row.weight[key], ...(now.z === null ? {} : { share }),
  });
  made.classList.toggle("attn-unseen-key", !seen);
  return made;
}

/** The sink has a score, in the last of the columns that have them, and what leaves to it. */
function sinkLine({ own: { row: own }, now: { row }, stages: { columns } }: Listed, ends: (id: Id) => Ends): HTMLElement {
  const last = columns.filter(({ id }) => SCORES.includes(id)).at(-1)?.id;
  const cells = columns.map(({ id }) =>
    id === "weight" ? cell(id, weightFigure(row.leak), [row.leak, own.leak], ends(id)) : id === last ? cell(id, figure(row.sink), [row.sink, own.sink], ends(id)) : cell(id, "", [null, null], ends(id)));
  return line(element("span", { class: "attn-chip attn-special" }, "sink"), cells, { sink: "", score: row.sink, weight: row.leak, ownWeight: own.leak });
}

/** Under the columns: how far the scores spread, and over how many keys the weight does. */
function feet({ own, now, stages: { columns } }: Listed): HTMLElement[] {
  const both = (of: (row: Row) => number): (Node | string)[] => {
    const [value, was] = [of(now.row), of(own.row)].map(figure);
    return [bold(value), ...(value === was ? [] : [" ", element("span", { class: "attn-was" }, was)])];
  };
  const foot = (...content: (Node | string)[]): HTMLElement => element("span", { role: "gridcell" }, ...content);
  const feet = columns.filter(({ id }) => id !== "value").map(({ id }) => {
    if (id === "dot" || id === "scaled" || id === "score") return foot("σ ", ...both(({ spread }) => spread[id]));
    return id !== "weight" ? foot() : foot("H ", ...both(({ entropy }) => entropy), " nats", element("br"), "e", element("sup", {}, "H"), " ", ...both(({ effective }) => effective), " keys");
  });
  feet[feet.length - 1].style.gridColumn = `${feet.length + 1} / -1`;
  return [foot(`${thousands(now.row.allowed)} of ${counted(now.row.sees.length, "key")}`), ...feet];
}

function keyAt(target: EventTarget | null): number | null {
  const key = target instanceof Element ? target.closest<HTMLElement>("[data-at]")?.dataset["at"] : undefined;
  return key === undefined ? null : Number(key);
}
