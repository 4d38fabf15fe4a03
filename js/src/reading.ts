/** Tokens as a text to read: in reading order, with the line breaks it has, tinted by weights. */

import { element, stepped, thousands } from "./a11y.ts";
import { paddingOf } from "./carried.ts";
import type { Heard } from "./heard.ts";
import { hear, tokenAt } from "./heard.ts";
import { chip, groupsOf, legend } from "./label.ts";
import type { WeightMap } from "./math.ts";
import { isWeight, PADDED } from "./math.ts";
import { patchesOf } from "./patches.ts";
import { atEnd } from "./until.ts";
import type { Palette, Rgb, Scale } from "./theme.ts";
import { css, level, ramp, signedLevel, strongestTint } from "./theme.ts";
import type { Axis } from "./wire.ts";

// ── what stands where ───────────────────────────────────────────────────────────────────────────────────────────────

/** A piece of a text: a token, the patches of an image as one, or what stands between tokens. */
export type Bit = { kind: "token"; at: number } | { kind: "image"; name: string; from: number; to: number } | { kind: "between"; text: string };

const BREAK = "⏎"; // how the label of a token shows a line break that it holds

/** An axis as a text, without the tokens that are `hidden`. Where the axis has no text of its own, a space sets tokens apart. */
export function reading(axis: Axis, hidden: ReadonlySet<number> = new Set()): Bit[] {
  const images = imagesOf(axis);
  const bits: Bit[] = [];
  for (let at = 0; at < axis.labels.length; at++) {
    if (hidden.has(at)) continue;
    const last = bits.at(-1);
    const text = axis.before?.[at] ?? (last === undefined || last.kind === "between" ? "" : " ");
    if (text !== "") bits.push({ kind: "between", text });
    const image = images.find(({ from }) => from === at);
    bits.push(image === undefined ? { kind: "token", at } : { kind: "image", ...image });
    if (image !== undefined) at = image.to - 1;
    else if (axis.labels[at].includes(BREAK)) bits.push({ kind: "between", text: "\n".repeat(Math.min(2, axis.labels[at].split(BREAK).length - 1)) });
  }
  return bits;
}

/** The runs of an axis that stand for a picture: placeholders in a text, or the patches themselves. */
function imagesOf(axis: Axis): { name: string; from: number; to: number }[] {
  const patches = axis.image.length > 0 ? null : patchesOf(axis);
  if (patches === null) return groupsOf(axis).filter(({ kind }) => kind === "image");
  const { rows, cols, tokens } = patches;
  return [{ name: `▦ image ${rows} × ${cols}`, from: tokens[0], to: tokens[0] + tokens.length }];
}

/** Special tokens that are padding on a side of a map. */
export function paddedSpecials(map: WeightMap, { special }: Axis, side: "query" | "key"): Set<number> {
  const keys = paddingOf(map);
  return new Set(special.filter((at) => (side === "key" ? keys.has(at) : map.allowed(at) === 0 && map.tile(at, at + 1, 0, 1)[0] === PADDED)));
}

// ── tints ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Tinting {
  /** The ground of what has a weight, among `allowed`; empty for none. */
  of(weight: number, allowed: number): string;
  legend(): HTMLElement;
}

const STEPS = 40;

/** Grounds for tokens on a scale, as strong as text on them stays legible. Of differences, more and less have a colour each. */
export function tinting(palette: Palette, scale: Scale, signed: boolean): Tinting {
  const steps = (colour: Rgb): string[] => {
    const most = strongestTint({ ...palette, accent: colour });
    return Array.from({ length: STEPS + 1 }, (_, n) => (n === 0 ? "" : css(colour, Number((0.03 + ((most - 0.03) * n) / STEPS).toFixed(3)))));
  };
  const more = steps(signed ? palette.ramp[3] : palette.accent);
  const less = signed ? steps(palette.less[1]) : []; // what is below uniform has no tint
  const middle = signed || scale === "uniform" ? 0.5 : 0;
  return tintingBy(palette, scale, signed, 1, (share) => {
    const away = (share - middle) / (1 - middle);
    return (away < 0 ? less : more).at(Math.round(Math.abs(away) * STEPS)) ?? "";
  });
}

/** Grounds for patches. With `through` they let what is behind them through, the more the smaller the weight is. `most` is the end of the scale. */
export function painting(palette: Palette, scale: Scale, signed: boolean, most: number, through: boolean): Tinting {
  const colours = ramp(palette, signed ? "difference" : scale);
  return tintingBy(palette, scale, signed, most, (share) => {
    const pixel = colours[Math.round(255 * share)];
    const far = signed || scale === "uniform" ? Math.abs(2 * share - 1) : share;
    return css([pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255], through ? Number((0.92 * far ** 1.4).toFixed(3)) : 1);
  });
}

function tintingBy(palette: Palette, scale: Scale, signed: boolean, most: number, colour: (share: number) => string): Tinting {
  return {
    of: (weight, allowed) => (isWeight(weight) ? colour(signed ? signedLevel(weight / most, scale) : level(weight / most, scale, allowed)) : ""),
    legend() {
      const made = legend(palette, signed ? "difference" : scale, [], most === 1 ? {} : { high: `${signed ? "+" : ""}${most.toPrecision(2)}` });
      if (signed && most < 1) made.firstChild?.firstChild?.replaceWith(`−${most.toPrecision(2)}`);
      const stops = Array.from({ length: 17 }, (_, n) => colour(n / 16) || "transparent");
      made.querySelector<HTMLElement>(".attn-ramp")?.style.setProperty("background", `linear-gradient(to right, ${stops.join(", ")})`);
      return made;
    },
  };
}

// ── on screen ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** How a text stands to what is in focus. */
export interface Told {
  /** The weight of each token; `null` where there are none to show. */
  cells: Float32Array | null;
  tint: (weight: number, at: number) => string;
  /** What is written above the few that count most. */
  numbers: ReadonlyMap<number, string>;
  focused: readonly number[];
  pinned: readonly number[];
  /** Tokens from here on are not there yet. */
  there: number;
}

interface Word {
  el: HTMLElement;
  /** The tokens it stands for. */
  from: number;
  to: number;
  /** What it shows now. */
  was: { told: string; ground: string; marks: readonly boolean[] };
}

const unseen = (): Word["was"] => ({ told: "", ground: "", marks: PLAIN });
const PLAIN = [false, false, false, false, false];

const AT_ONCE = 1000; // words that are painted in one frame
const LINE = 40; // pixels, more than a line has
const ROOM = 30; // pixels that a number takes up
const ABOVE = 14; // pixels from the top of a number to that of its token

/** A text on screen. Moving over it changes only what differs. One tab stop: arrows go by token and by line. */
export class Prose {
  readonly #text: HTMLElement;
  // Above the text and not in it: a number that comes and goes in a line would have all lines laid out again.
  readonly #numbers = element("div", { "aria-hidden": "true" });
  /** What scrolls. */
  readonly el: HTMLElement;
  readonly #words: Word[] = [];
  readonly #tokens = new Map<number, HTMLElement>();
  readonly #places: number[];
  #roving = -1;
  #told: Told | null = null;
  #later: ReturnType<typeof setTimeout> | undefined; // what is out of sight is painted when there is time for it

  constructor(name: string, axis: Axis, sides: readonly ("query" | "key")[], hidden: ReadonlySet<number>, heard: Heard, signal: AbortSignal) {
    const nodes = reading(axis, hidden).map((bit) => {
      if (bit.kind === "between") return bit.text;
      if (bit.kind === "image") {
        const el = element("span", { class: "attn-chip attn-special attn-picture", title: `${thousands(bit.to - bit.from)} patches`, "data-image": bit.from }, bit.name);
        this.#words.push({ el, from: bit.from, to: bit.to, was: unseen() });
        return el;
      }
      const { at } = bit;
      const el = chip(axis, at);
      if (!el.classList.contains("attn-special")) el.removeAttribute("dir"); // letters of one word join, and lines find their direction
      for (const side of sides) el.dataset[side] = String(at);
      this.#words.push({ el, from: at, to: at + 1, was: unseen() });
      this.#tokens.set(at, el);
      return el;
    });
    this.#text = element("div", { class: "attn-prose", dir: "auto", role: "group", "aria-label": name }, ...nodes);
    this.el = element("div", { class: "attn-page attn-scroll" }, this.#text, this.#numbers);
    this.#places = [...this.#tokens.keys()];
    if (this.#places.length > 0) this.#rove(this.#places[0]);
    const go = (to: number): void => {
      const el = this.#rove(to);
      el?.focus({ preventScroll: true });
      el?.scrollIntoView({ block: "nearest" });
    };
    if (this.#words.length > AT_ONCE) this.el.addEventListener("scroll", () => { this.#paintSeen(); }, { passive: true, signal });
    atEnd(signal, () => { clearTimeout(this.#later); });
    hear(this.#text, heard, { at: tokenAt, to: (key, at) => this.#to(key, at), go }, signal);
  }

  show(told: Told): void {
    clearTimeout(this.#later);
    this.#told = told;
    if (this.#words.length > AT_ONCE) {
      this.#paintSeen();
      this.#later = setTimeout(() => { this.#paint(this.#words); }, 100);
    } else this.#paint(this.#words);
    this.#number([...told.numbers].filter(([at]) => this.#tokens.has(at)));
    this.#tokens.get(this.#roving)?.setAttribute("aria-pressed", String(told.pinned.includes(this.#roving)));
  }

  /** Words follow each other downwards: what is in sight is one run of them. */
  #paintSeen(): void {
    const { top, bottom } = this.el.getBoundingClientRect();
    const above = (y: number): number => {
      let [low, high] = [0, this.#words.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.#words[middle].el.getBoundingClientRect().bottom < y) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    this.#paint(this.#words.slice(above(Math.max(0, top)), above(Math.min(innerHeight, bottom) + LINE)));
  }

  #paint(words: readonly Word[]): void {
    if (this.#told === null) return;
    const { cells, tint, numbers, focused, pinned, there } = this.#told;
    for (const word of words) {
      const { el, from, to } = word;
      const alone = this.#tokens.has(from);
      let weight = NaN; // of an image that of all its patches
      for (let at = from; cells !== null && at < Math.min(to, there); at++) if (isWeight(cells[at])) weight = (weight || 0) + cells[at];
      const told = Number.isNaN(weight) ? "" : String(weight);
      const ground = told === "" ? "" : tint(Math.min(1, weight), from);
      const strong = alone && numbers.has(from);
      const marks = alone ? [pinned.includes(from), focused.includes(from), strong, strong && weight < 0, from >= there] : PLAIN;
      const { was } = word;
      // Of thousands of words every one has another weight now, and hardly any another ground or mark.
      if (told === "") delete el.dataset["weight"];
      else if (told !== was.told) el.dataset["weight"] = told;
      was.told = told;
      if (ground !== was.ground) el.style.backgroundColor = was.ground = ground;
      if (marks.some((on, n) => on !== was.marks[n])) MARKS.forEach((name, n) => el.classList.toggle(name, marks[n]));
      was.marks = marks;
    }
  }

  /** Writes numbers above their tokens, the strongest first; one that would lie on a stronger one is left to the caption. */
  #number(numbers: readonly (readonly [number, string])[]): void {
    const origin = this.el.getBoundingClientRect();
    const taken: [x: number, y: number][] = [];
    this.#numbers.replaceChildren(...numbers.flatMap(([at, text]) => {
      const { left, width, top } = this.#tokens.get(at)?.getClientRects()[0] ?? origin;
      const [x, y] = [left + width / 2, top];
      if (taken.some(([otherX, otherY]) => Math.abs(otherX - x) < ROOM && Math.abs(otherY - y) < ABOVE)) return [];
      taken.push([x, y]);
      return element("sup", { style: `transform: translate(calc(${Math.round(x - origin.left)}px - 50%), ${Math.round(y - origin.top + this.el.scrollTop) - ABOVE}px)` }, text);
    }));
  }

  /** Brings a token into the middle of what is seen, if it is out of sight. */
  reveal(at: number): void {
    const [word, seen] = [this.#tokens.get(at)?.getBoundingClientRect(), this.el.getBoundingClientRect()];
    if (word !== undefined && (word.top < seen.top || word.bottom > seen.bottom)) this.el.scrollTop += word.top - seen.top - seen.height / 2;
  }

  /** Makes a token the tab stop. */
  #rove(at: number): HTMLElement | undefined {
    for (const name of ["tabindex", "role", "aria-pressed"]) this.#tokens.get(this.#roving)?.removeAttribute(name);
    this.#roving = at;
    const el = this.#tokens.get(at);
    el?.setAttribute("tabindex", "0");
    el?.setAttribute("role", "button");
    return el;
  }

  #to(key: string, at: number): number | null {
    if (key === "ArrowUp" || key === "ArrowDown") return this.#line(at, key === "ArrowDown" ? 1 : -1);
    const turned = getComputedStyle(this.#text).direction === "rtl" ? ({ ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" }[key] ?? key) : key;
    const to = stepped(turned, this.#places.indexOf(at), this.#places.length);
    return to === null ? null : this.#places[to];
  }

  /** The token above or below. */
  #line(at: number, by: 1 | -1): number | null {
    const box = (place: number): DOMRect => this.#tokens.get(place)?.getClientRects()[0] ?? new DOMRect();
    const from = box(at);
    let [best, distance, line] = [null as number | null, Infinity, NaN];
    for (let n = this.#places.indexOf(at) + by; n >= 0 && n < this.#places.length; n += by) {
      const { top, left, width, height } = box(this.#places[n]);
      if (Math.abs(top - from.top) < from.height / 2) continue;
      if (Number.isNaN(line)) line = top;
      if (Math.abs(top - line) > height / 2) break;
      const away = Math.abs(left + width / 2 - from.left - from.width / 2);
      if (away < distance) [best, distance] = [this.#places[n], away];
    }
    return best;
  }
}

const MARKS = ["attn-on", "attn-focus", "attn-strong", "attn-less", "attn-later"];

/** The padding that a text leaves out, in words. */
export const omitted = (hidden: ReadonlySet<number>): string => (hidden.size === 0 ? "" : `${thousands(hidden.size)} padding ${hidden.size === 1 ? "token" : "tokens"} not shown`);
