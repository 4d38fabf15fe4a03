/** What heads are sorted by, and how much of it they must have not to be dimmed: the numbers, and the controls for them. */

import { counted, element, thousands, valueText } from "./a11y.ts";
import { asInModel, ordered, rangeOf, reaching } from "./grid.ts";
import type { Order } from "./grid.ts";
import type { Scored } from "./mosaic.ts";
import type { ViewContext } from "./state.ts";
import { listen } from "./until.ts";
import type { Measure, PartInfo } from "./wire.ts";
import { measuresOf, wordsOf } from "./wire.ts";

export interface Sorting {
  /** What to sort by, and whether layers too; then how much is needed. */
  readonly controls: readonly [order: readonly HTMLElement[], least: readonly HTMLElement[]];
  /** What is sorted by now; `null` where heads stand as in the model. */
  readonly scored: Scored | null;
  readonly order: Order;
  /** Another part. */
  show(part: PartInfo): void;
}

const NOTCHES = 200; // of the slider

export const titleOf = ({ name }: Measure): string => name.replaceAll("_", " ");

/** `heard` is told of another order, and of another value to dim below. */
export function sorting({ state, tiles, signal }: Pick<ViewContext, "state" | "tiles" | "signal">, part: PartInfo, heard: { order(): void; least(): void }): Sorting {
  const select = element("select", { class: "attn-button", "aria-label": "Sort heads by", "data-keep": "sort" });
  const both = element("input", { type: "checkbox" });
  const layers = element("label", { class: "attn-control" }, both, "layers too");
  const least = element("input", { type: "range", min: 0, max: NOTCHES, step: 1, "aria-label": "Dim heads below" });
  const number = element("output");
  const words = element("span", { class: "attn-quiet", "data-least": "" });
  const slider = element("label", { class: "attn-control" }, "dim below", least, number);
  const by = element("label", { class: "attn-control" }, "sort by", select);

  let trouble = "";
  let scored: Scored | null = null;
  let order: Order;
  const found = new Map<string, readonly Measure[] | null>(); // null: asked for

  /** The numbers of the kernel, and those of the user, which come with the part under a title that is their name. */
  const measures = (): Measure[] => [...new Map([...(found.get(part.name) ?? []), ...part.measures].map((one) => [one.name, one])).values()];
  const askable = (): boolean => (tiles.live || tiles.has(`measures/${part.name}`)) && !found.has(part.name) && part.measures.every(({ name, title }) => name === title);
  const ask = (): void => {
    if (!askable()) return;
    const { name } = part;
    found.set(name, null);
    update();
    const told = (): void => {
      if (signal.aborted || name !== part.name) return;
      update();
      if (scored !== null) heard.order();
    };
    tiles.get(`measures/${name}`, { signal }).then(measuresOf).then((list) => { found.set(name, list); }, (error: unknown) => {
      found.delete(name);
      trouble = wordsOf(error);
    }).finally(told);
  };

  /** Shows what there is to sort by, and what is sorted by. */
  const update = (): void => {
    const sort = state.get("sort");
    const known = measures();
    const measure = known.find(({ name }) => name === sort);
    const range = measure === undefined ? null : rangeOf(measure.values);
    scored = measure === undefined || range === null ? null : { measure, range, least: state.get("least") };
    order = scored === null ? asInModel(part) : ordered(part, scored.measure.values, both.checked);
    const options = known.map((one) => element("option", { value: one.name, title: one.title }, titleOf(one)));
    if (sort !== "" && measure === undefined) options.push(element("option", { value: sort }, sort));
    if (found.get(part.name) === null) options.push(element("option", { disabled: "" }, "waiting …"));
    by.hidden = options.length === 0 && !askable();
    select.replaceChildren(element("option", { value: "" }, "head number"), ...options);
    select.value = sort;
    select.title = measure?.title ?? "";
    layers.hidden = slider.hidden = scored === null;
    tell(trouble);
    showLeast();
  };
  const tell = (text: string): void => {
    words.textContent = text;
    words.hidden = text === "";
  };
  const showLeast = (): void => {
    if (scored === null) return;
    const { range: [low, high], least: at, measure } = scored;
    least.value = String(Math.round(at === null || high === low ? 0 : (NOTCHES * (at - low)) / (high - low)));
    number.value = least.ariaValueText = at === null ? "none" : valueText(at);
    if (at === null) return tell("");
    const [reached, all] = reaching(part, measure.values, at);
    tell(`${thousands(reached)} of ${counted(all, "head")} ≥ ${number.value}`);
  };
  const slide = (commit: boolean): void => {
    const [low, high] = scored?.range ?? [0, 0];
    state.set({ least: least.value === "0" ? null : low + ((high - low) * Number(least.value)) / NOTCHES }, { commit });
  };
  const show = (shown: PartInfo): void => {
    part = shown;
    trouble = "";
    update();
    if (state.get("sort") !== "" && scored === null) ask();
  };

  listen(by, { pointerenter: ask, pointerdown: ask, focusin: ask }, signal);
  listen(select, { change: () => { state.set({ sort: select.value, least: null }); } }, signal);
  listen(both, { change: () => { update(); heard.order(); } }, signal);
  listen(least, { input: () => { slide(false); }, change: () => { slide(true); } }, signal);
  state.on("sort", () => { show(part); heard.order(); }, signal);
  state.on("least", () => {
    if (scored !== null) scored = { ...scored, least: state.get("least") };
    showLeast();
    heard.least();
  }, signal);
  show(part);

  return {
    show,
    controls: [[by, layers], [slider, words]],
    get scored() {
      return scored;
    },
    get order() {
      return order;
    },
  };
}
