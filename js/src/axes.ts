/** The tokens along both axes of a map: as many labels as have room, and the brackets of those that belong together. */

import { element, thousands } from "./a11y.ts";
import { pixelRatio } from "./draw.ts";
import { boundaries, brackets, chip, groupsOf, LANE, nameOf } from "./label.ts";
import type { Side } from "./layout.ts";
import { edgeOf, within } from "./plan.ts";
import type { Layout } from "./plan.ts";
import type { Moment } from "./state.ts";
import type { Sight } from "./window.ts";
import { seen, startOf, ticks } from "./window.ts";
import type { Axis } from "./wire.ts";

const LABEL = 13; // height of a label
const ROOM = { query: 13, key: 15, apart: 30 }; // pixels for a label where all have room, and where only some do

/** The labels of one axis, evenly spaced; what is pointed at has its own, and hides its neighbours. */
export class Labels {
  readonly el = element("div");
  #axis: Axis | null = null;
  #at: Layout | null = null;
  #numbered = false;

  constructor(private readonly side: Side) {}

  show(axis: Axis, at: Layout, pinned: readonly number[], moment: Moment | null): void {
    const query = this.side === "query";
    [this.#axis, this.#at] = [axis, at];
    const sight = query ? at.rows : at.cols;
    const { step, places } = ticks(sight, ROOM[this.side] * pixelRatio(), ROOM.apart * pixelRatio());
    this.#numbered = step > 1;
    const [first, last] = seen(sight);
    const kept = [...pinned, ...(query && moment !== null ? [moment.token] : [])].filter((i) => i >= first && i < last);
    const near = this.#near(sight);
    const free = places.filter((i) => kept.every((other) => Math.abs(other - i) >= near));
    this.el.replaceChildren(...new Set([...free, ...kept].sort((a, b) => a - b).map((i) => {
      const time = moment === null ? "" : i > moment.token ? " attn-later" : query && i === moment.token ? " attn-now" : "";
      const on = pinned.includes(i) || (query && i === moment?.query);
      const made = this.#make(axis, at, i, `${on ? " attn-on" : ""}${time}`);
      made.dataset[this.side] = String(i);
      if (query) {
        made.role = "button";
        made.tabIndex = -1;
        made.ariaPressed = String(pinned.includes(i));
        made.ariaLabel = `${this.#numbered ? `${thousands(i)} ` : ""}${nameOf(axis, i)}`;
      }
      return made;
    })));
  }

  /** Points at place `i`. */
  mark(i: number | null): void {
    const [axis, at] = [this.#axis, this.#at];
    if (axis === null || at === null) return;
    this.el.querySelector(".attn-marker")?.remove();
    const sight = this.side === "query" ? at.rows : at.cols;
    const [first, last] = seen(sight);
    const to = i !== null && i >= first && i < last ? i : NaN;
    for (const label of this.el.children) label.classList.toggle("attn-hid", Math.abs(Number((label as HTMLElement).dataset[this.side]) - to) < this.#near(sight));
    if (Number.isNaN(to)) return;
    const marker = this.#make(axis, at, to, " attn-marker");
    marker.ariaHidden = "true";
    this.el.append(marker);
  }

  /** Labels of places that are less than this apart would overlap. */
  #near(sight: Sight): number {
    return (ROOM[this.side] * pixelRatio()) / sight.pitch;
  }

  /** Where not every token has its label, those that do say where they stand. */
  #make(axis: Axis, { rows, cols, left, top, gaps }: Layout, i: number, more: string): HTMLElement {
    const at = this.side === "query" ? `0, ${top + edgeOf(rows, i + 0.5) - LABEL / 2}px); width: ${left - gaps[0]}px` : `${left + edgeOf(cols, i + 0.5)}px, ${top - gaps[1]}px)`;
    return element("div", { class: `attn-token attn-${this.side}${more}`, style: `--at: translate(${at}` },
      ...(this.#numbered ? [element("span", { class: "attn-at" }, thousands(i))] : []), chip(axis, i));
  }
}

/** The brackets of what belongs together, and lines where what was generated begins and ends. */
export function groupsAround(query: Axis, key: Axis, { rows, cols, left, top, width, height, gaps }: Layout): HTMLElement[] {
  const bracketed = (axis: Axis, sight: Sight, open: "right" | "down", start: number, across: number): HTMLElement[] => {
    const groups = groupsOf(axis);
    const long = (from: number, to: number): number => within(sight, to) - within(sight, from);
    return brackets(axis, open, across, (from, to) => [start + within(sight, from) + 1, Math.max(2, long(from, to) - 2)]).filter((_, n) => long(groups[n].from, groups[n].to) > 0);
  };
  const lines = (axis: Axis, sight: Sight, name: string, style: (at: number) => string): HTMLElement[] =>
    boundaries(axis).filter((i) => startOf(sight, i) >= 0 && startOf(sight, i) <= sight.size).map((i) => element("div", { class: `attn-boundary ${name}`, style: style(within(sight, i)) }));
  const above = top - gaps[1] + 4;
  return [
    ...lines(query, rows, "", (y) => `top: ${top + y}px; left: ${left - LANE}px; width: ${LANE + width}px`),
    ...lines(key, cols, "attn-upright", (x) => `left: ${left + x}px; top: ${above}px; height: ${top - above + height}px`),
    ...bracketed(query, rows, "right", top, left - LANE - 2),
    ...bracketed(key, cols, "down", left, above),
  ];
}
