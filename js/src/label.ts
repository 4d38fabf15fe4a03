/** Tokens as things on screen: chips, how wide they are, the brackets of those that belong together, and the card that says what one is underneath. */

import { cut, element, thousands } from "./a11y.ts";
import type { Effects } from "./effects.ts";
import { signedText } from "./effects.ts";
import type { Legend, Palette, Shade } from "./theme.ts";
import { gradient, LEGENDS } from "./theme.ts";
import type { Axis } from "./wire.ts";

const SHOWN = 60; // characters of a token in a label; the card has more
const IN_FULL = 400;

/** Tokens that stand together: a text of a pair, an image, what was generated. */
export interface Group {
  kind: "segment" | "image" | "generated";
  name: string;
  from: number;
  to: number;
}

// What tokens are called that are marked one by one; punctuation shows what it is.
const KINDS = { special: "special token", generated: "generated", image: "stands for a piece of an image", punctuation: "" } as const;
type Kind = keyof typeof KINDS;

interface Marks {
  is: Readonly<Record<Kind, ReadonlySet<number>>>;
  groups: readonly Group[];
  /** Placeholders of an image that has many: their glyph is enough. */
  crowd: ReadonlySet<number>;
}

const CROWD = 8; // placeholders of one image that are shown by name
const GLYPH = "▦";
const marked = new WeakMap<Axis, Marks>();

function marksOf(axis: Axis): Marks {
  const known = marked.get(axis);
  if (known !== undefined) return known;
  const groups = groupsOf(axis);
  const crowds = groups.filter(({ kind, from, to }) => kind === "image" && to - from > CROWD);
  const made: Marks = {
    is: { special: new Set(axis.special), generated: new Set(axis.generated), image: new Set(axis.image), punctuation: new Set(axis.punctuation) },
    groups,
    crowd: new Set(crowds.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, n) => from + n))),
  };
  marked.set(axis, made);
  return made;
}

/** The groups of an axis, in order. */
export function groupsOf({ labels, segments, image, generated, grid }: Axis): Group[] {
  const letter = (at: number): string => String.fromCharCode(65 + (at % 26));
  const size = (count: number): string => (grid !== null && grid[0] * grid[1] === count ? `${grid[0]} × ${grid[1]}` : thousands(count));
  const one = (places: readonly number[]): ((i: number) => number) => {
    const known = new Set(places);
    return (i) => (known.has(i) ? 0 : -1);
  };
  const groups: Group[] = runs(labels.length, (i) => segments?.[i] ?? -1).map(([from, to, at]) => ({ kind: "segment", name: letter(at), from, to }));
  for (const [from, to] of runs(labels.length, one(image))) if (to - from > 1) groups.push({ kind: "image", name: `${GLYPH} image ${size(to - from)}`, from, to });
  for (const [from, to] of runs(labels.length, one(generated))) groups.push({ kind: "generated", name: "generated", from, to });
  return groups.sort((a, b) => a.from - b.from);
}

/** Runs of the same number from 0 up. */
export function runs(n: number, of: (i: number) => number): (readonly [from: number, to: number, value: number])[] {
  const found: (readonly [number, number, number])[] = [];
  for (let from = 0, to = 1; from < n; to++) {
    if (to < n && of(to) === of(from)) continue;
    if (of(from) >= 0) found.push([from, to, of(from)]);
    from = to;
  }
  return found;
}

export const LANE = 18; // pixels that brackets need beside the tokens

/** The room that the brackets of an axis need. */
export const laneOf = (axis: Axis): number => (marksOf(axis).groups.length > 0 ? LANE : 0);

/**
 * A named bracket for each group, open towards the right, the left or down; texts of a pair are told apart by their dashes.
 * `span` says where a group starts and how long it is, `at` where the brackets stand across.
 */
export function brackets(axis: Axis, open: "right" | "left" | "down", at: number, span: (from: number, to: number) => readonly [start: number, size: number]): HTMLElement[] {
  return marksOf(axis).groups.map(({ kind, name, from, to }) => {
    const [start, size] = span(from, to);
    const box = open === "down" ? `left: ${start}px; width: ${size}px; top: ${at}px` : `top: ${start}px; height: ${size}px; left: ${at}px`;
    const segment = kind !== "segment" ? "" : ` attn-segment${name.charCodeAt(0) % 2 === 0 ? " attn-odd" : ""}`;
    const fits = size > 7 * name.length + 4;
    return element("div", { class: `attn-bracket attn-open-${open}${segment}`, style: box, title: name }, ...(fits ? [element("span", {}, name)] : []));
  });
}

/** Where what was generated begins or ends, but for the ends of the axis. */
export const boundaries = (axis: Axis): number[] =>
  marksOf(axis).groups.flatMap(({ kind, from, to }) => (kind === "generated" ? [from, to] : [])).filter((i) => i > 0 && i < axis.labels.length);

/** What stands for a token on screen. */
export function textOf(axis: Axis, i: number): string {
  const { is, crowd } = marksOf(axis);
  return crowd.has(i) ? GLYPH : cut(is.image.has(i) ? `${GLYPH} ${axis.labels[i]}` : axis.labels[i], SHOWN);
}

/** What a screen reader calls a token. */
export const nameOf = (axis: Axis, i: number): string => (marksOf(axis).is.generated.has(i) ? `${axis.labels[i]}, generated` : axis.labels[i]);

const kindsOf = (axis: Axis, i: number): Kind[] => (Object.keys(KINDS) as Kind[]).filter((kind) => marksOf(axis).is[kind].has(i));

/** The text of a token, set apart from the direction of its neighbours. Special tokens are outlined, generated ones underlined. */
export function chip(axis: Axis, i: number): HTMLElement {
  const title = facts(axis, i).map((part) => (typeof part === "string" ? part : part.textContent)).join("");
  const kinds = kindsOf(axis, i).map((kind) => ` attn-${kind}`);
  return element("span", { class: `attn-chip${kinds.join("")}`, dir: "auto", title }, textOf(axis, i));
}

/** Widths of texts in the font of an element. Reading widths from a canvas costs no layout. */
export class Ruler {
  readonly #context = document.createElement("canvas").getContext("2d");

  constructor(element: Element, weight = 600) {
    const { fontFamily, fontSize } = getComputedStyle(element);
    if (this.#context !== null) this.#context.font = `${weight} ${fontSize} ${fontFamily}`;
  }

  width(text: string): number {
    return this.#context?.measureText(text).width ?? text.length * 7;
  }

  /** Width of the widest token, at most `most`. Measures the longest few: a long one is wide in any font. */
  widest(axis: Axis, most: number): number {
    const longest = axis.labels.map((_, i) => textOf(axis, i)).sort((a, b) => b.length - a.length).slice(0, 60);
    return Math.min(most, Math.ceil(longest.reduce((widest, label) => Math.max(widest, this.width(label)), 0)));
  }
}

/** What token `i` is: its whole text as the tokenizer has it, and where it stands. */
export function facts(axis: Axis, i: number): (Node | string)[] {
  const also = kindsOf(axis, i).map((kind) => KINDS[kind]).filter((title) => title !== "").map((title) => ` · ${title}`);
  const text = marksOf(axis).groups.find(({ kind, from, to }) => kind === "segment" && i >= from && i < to);
  return [element("bdi", {}, cut(axis.raw.at(i) ?? axis.labels[i], IN_FULL)), ` · position ${thousands(i)}${text === undefined ? "" : ` · text ${text.name}`}${also.join("")}`];
}

/** A small card over the picture. It never takes the pointer; what is on it can be heard elsewhere. */
export class Card {
  readonly el = element("div", { class: "attn-card", "aria-hidden": "true" });

  constructor(private readonly host: HTMLElement) {
    host.append(this.el);
  }

  hide(): void {
    this.el.classList.remove("attn-shown");
  }

  /** Shows `content` beside (x, y) of the host. */
  show(content: readonly Node[], x: number, y: number): void {
    this.el.replaceChildren(...content);
    this.el.classList.add("attn-shown");
    const { offsetWidth: width, offsetHeight: height } = this.el;
    const left = Math.max(0, Math.min(x + 14, this.host.clientWidth - width));
    const above = y - height - 10;
    const top = above >= 0 ? above : Math.min(y + 18, this.host.clientHeight - height);
    this.el.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
  }
}

/** What colours effects have. */
export const effectLegend = (palette: Palette, { largest, words }: Effects, also: readonly Node[] = []): HTMLElement =>
  legend(palette, "difference", also, { low: `lowers ${signedText(-largest)}`, high: `${signedText(largest)} raises`, name: `${words}, to first order` });

/** The ramp between its ends, and the name of the scale; `also` are signs that stand beside it ("masked", "padding"), `own` is what its ends or its name are instead. */
export function legend(palette: Palette, scale: Shade, also: readonly Node[] = [], own: Partial<Legend> = {}): HTMLElement {
  const { low, high, name } = { ...LEGENDS[scale], ...own };
  const bar = element("span", { class: "attn-ramp", style: `background: ${gradient(palette, scale)}` });
  return element("div", { class: "attn-legend" }, element("span", {}, low, bar, high), element("span", {}, name), ...also);
}
