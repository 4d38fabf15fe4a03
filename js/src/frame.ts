/** The widget as one sees it: controls, matrix and detail, one sentence of numbers. */

import { boundOf, columnSentence, cut, element, liveLine, Names, plain, rowSentence, segmented, selectionText, spelled, stepper, valueText } from "./a11y.ts";
import type { Choice, Piece, Segmented, Spoken } from "./a11y.ts";
import { perFrame, watchWidth } from "./draw.ts";
import { deed, effectText } from "./effects.ts";
import { focusOf } from "./focus.ts";
import type { Focusing } from "./focus.ts";
import { shapeOf, widthBeside } from "./grid.ts";
import { summary } from "./math.ts";
import { asPooled } from "./said.ts";
import { saved } from "./saved.ts";
import { scrubber } from "./scrubber.ts";
import type { Axes, Fields, Shown, State, Traits, View, ViewContext } from "./state.ts";
import { axesOf, effectsIn, momentOf, selected, shown } from "./state.ts";
import { dress, paletteOf, themeOf, watchTheme } from "./theme.ts";
import type { Tiles } from "./tiles.ts";
import { atEnd, listen } from "./until.ts";
import { verifier } from "./verify.ts";
import { arcs } from "./views/arcs.ts";
import { graph } from "./views/graph.ts";
import { heatmap } from "./views/heatmap.ts";
import { image } from "./views/image.ts";
import { matrix } from "./views/matrix.ts";
import { steps } from "./views/steps.ts";
import { table } from "./views/table.ts";
import { text } from "./views/text.ts";
import style from "./widget.css";
import type { Axis, BundleMeta, PartInfo } from "./wire.ts";
import { mapKey } from "./wire.ts";

interface Detail {
  value: Traits["view"];
  label: string;
  view: View;
  /** What of the toolbar means something in it. */
  uses: readonly ("threshold" | "scale" | "group" | "effects")[];
  /** Whether there is anything for it to show in a part; always, unless given. */
  fits?: (axes: readonly Axis[]) => boolean;
}

const DETAILS: readonly Detail[] = [
  { value: "arcs", label: "Arcs", view: arcs, uses: ["threshold", "scale", "group", "effects"] },
  { value: "heatmap", label: "Heat map", view: heatmap, uses: ["scale", "group", "effects"] },
  { value: "graph", label: "Graph", view: graph, uses: ["threshold"], fits: ([queries, keys]) => queries === keys },
  { value: "text", label: "Text", view: text, uses: ["scale", "group"], fits: (axes) => axes.some(({ grid, image: places }) => grid === null || places.length > 0) },
  { value: "image", label: "Image", view: image, uses: ["scale"], fits: (axes) => axes.some(({ grid }) => grid !== null) },
  { value: "steps", label: "Steps", view: steps, uses: [] },
  { value: "table", label: "Table", view: table, uses: ["threshold", "group", "effects"] },
];

const GROUPS: readonly Choice<Traits["group"]>[] = [
  { value: "token", label: "tokens" },
  { value: "word", label: "words", name: "words: weights summed over the keys of a word, averaged over its queries" },
  { value: "sentence", label: "sentences" },
];

const SCALES: readonly Choice<Traits["scale"]>[] = [
  { value: "linear", label: "linear", name: "linear scale" },
  { value: "sqrt", label: "√", name: "√, square-root scale" },
  { value: "log", label: "log", name: "log scale" },
  { value: "uniform", label: "× uniform", name: "× uniform, relative to the uniform weight" },
];

/** Draws the widget in `el` until `signal` aborts, and returns it. What was drawn by then stays until it is taken away. */
export function mount(context: ViewContext): HTMLElement {
  return new Frame(context).root;
}

const WAIT = 400; // milliseconds before a wait is mentioned
const PADDING = 32; // around the matrix, left and right

class Frame {
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #signal: AbortSignal;
  readonly #focus: Focusing;

  readonly #notice = element("p", { class: "attn-notice", role: "status" });
  readonly #bar = element("div", { class: "attn-bar", role: "group", "aria-label": "Controls" });
  readonly #time = element("div", { class: "attn-time", role: "group", "aria-label": "Generation" });
  readonly #clock: { readonly playing: boolean };
  readonly #matrix = element("div", { class: "attn-panel", role: "group", "aria-label": "Heads" });
  readonly #title = element("h2");
  readonly #subtitle = element("p", { class: "attn-subtitle" });
  readonly #notes = element("div");
  readonly #trouble = element("p", { class: "attn-trouble", role: "status" });
  readonly #detail = element("div", { class: "attn-detail", role: "group", "aria-label": "Detail" }, element("div", {}, this.#title, this.#subtitle, this.#notes), this.#trouble);
  readonly #sentence = element("p", { class: "attn-sentence" });
  readonly #base = element("div", { class: "attn-base" }, this.#sentence, element("p", { class: "attn-quiet" }, "a weight is not a reason"));
  readonly #live = liveLine();
  readonly #body = element("div", { class: "attn-body" }, this.#matrix, this.#detail);
  readonly root = element("div", { class: "attnwidget", role: "group", "aria-label": "Attention" },
    element("style", {}, style), this.#bar, this.#time, this.#body,
    this.#base,
    this.#live.el,
  );

  #stage: HTMLElement | null = null;
  #mounted = new AbortController(); // ends the view in the detail
  #names: { of: Axes; queries: Names; keys: Names } | null = null;
  #byKeyboard = false;
  #fold: (narrow: boolean) => void = () => undefined; // where there is no room, puts the settings into the menu
  #spokenHead = "";

  constructor({ el, state, tiles, signal }: ViewContext) {
    this.#state = state;
    this.#tiles = tiles;
    this.#signal = signal;
    el.append(this.root);
    atEnd(signal, () => { this.#mounted.abort(); });
    this.#focus = focusOf({ state, signal });
    this.#dress();
    this.#toolbar();
    this.#notesOf();
    matrix({ el: this.#matrix, state, tiles, signal });
    this.#clock = scrubber({ el: this.#time, state, tiles, signal });
    verifier({ el: this.#base, state, tiles, signal }, this.root);
    this.#showDetail();
    this.#follow();
  }

  #follow(): void {
    const [state, signal] = [this.#state, this.#signal];
    const say = perFrame(() => { this.#say(); }, signal);
    const dressAgain = perFrame(() => { this.#dress(); }, signal);
    this.root.addEventListener("attn-drawn", () => { this.root.dataset["attnReady"] = "true"; }, { signal });
    listen(this.root, { keydown: () => { this.#byKeyboard = true; }, pointermove: () => { this.#byKeyboard = false; } }, signal, { capture: true, passive: true });
    state.on("theme", dressAgain, signal);
    watchTheme(this.root, dressAgain, signal);
    state.on("map", () => { this.#showMap(); say(); }, signal);
    state.on("view", () => { this.#showDetail(); }, signal);
    state.on("part", () => { this.#arrange(this.root.clientWidth); }, signal);
    state.on("notice", () => { say(); this.#showWaiting(); }, signal);
    state.on("pinned", () => { this.#speak(this.#sentenceNow()); }, signal);
    this.#focus.on(say, signal);
    watchWidth(this.root, (width) => { this.#arrange(width); }, signal);
    this.#showMap();
    this.#say();
  }

  // ── looks ──

  #dress(): void {
    dress(this.root, paletteOf(this.root, themeOf(this.root, this.#state.get("theme"))));
  }

  /** Puts the detail beside the matrix, or under it where there is no room. */
  #arrange(width: number): void {
    const beside = widthBeside(shapeOf(this.#part()), width - PADDING);
    this.root.classList.toggle("attn-stacked", beside === null);
    this.root.classList.toggle("attn-narrow", width < 640);
    this.#fold(width < 640);
    this.#matrix.style.width = beside === null ? "" : `${beside + PADDING}px`;
  }

  #part(name = this.#state.get("part")): PartInfo {
    const { parts } = this.#tiles.meta;
    return parts.find((part) => part.name === name) ?? parts[0];
  }

  // ── controls ──

  #toolbar(): void {
    const { parts, sides, objective } = this.#tiles.meta;
    const fitting = (): readonly Detail[] => DETAILS.filter(({ fits }) => fits === undefined || fits(Object.values(axesOf(this.#tiles.meta, this.#state.get("part")))));
    const view = this.#control("View", "view", fitting, (name) => ({ view: name }));
    const part = this.#control("Part", "part", () => parts.map(({ name, title }) => ({ value: name, label: name, name: title })), (name) => this.#toPart(name));
    const side = this.#control("Side", "side", () => sidesOf(this.#tiles.meta), (name) => ({ side: name }));
    const menu = element("span", { class: "attn-more" });
    const used = {
      group: named("of", this.#control("Tokens as", "group", () => GROUPS, (group) => ({ group, hover: null })).el),
      threshold: named("edges that carry", this.#control("Edges that carry", "threshold", () => thresholds(this.#state.get("threshold")), (threshold) => ({ threshold })).el),
      scale: named("scale", this.#control("Scale", "scale", () => SCALES, (scale) => ({ scale })).el),
      effects: this.#effects(),
    };
    const settings = element("span", { class: "attn-right" }, used.group, used.threshold, used.scale);
    this.#bar.append(
      view.el, ...(parts.length > 1 ? [part.el] : []), ...(sides === null ? [] : [side.el]), ...this.#picker(), used.effects,
      settings, menu, this.#notice,
    );
    const panel = saved({ el: menu, state: this.#state, tiles: this.#tiles, signal: this.#signal });
    this.#fold = (narrow) => { if (narrow) panel.prepend(settings); else menu.before(settings); };
    const fade = (): void => {
      const { uses } = detailOf(this.#state);
      const { queries, keys } = axesOf(this.#tiles.meta, this.#state.get("part"));
      for (const name of ["threshold", "scale", "group", "effects"] as const) used[name].hidden = !uses.includes(name);
      used.effects.hidden ||= objective === null;
      used.group.hidden ||= queries.words === null && keys.words === null;
    };
    this.#state.on(["view", "part"], fade, this.#signal);
    fade();
  }

  /** Whether edges show what they do to the number that is explained. */
  #effects(): HTMLElement {
    const { words, value } = this.#tiles.meta.objective ?? { words: "", value: 0 };
    const button = element("button", { type: "button", title: `${words} = ${valueText(value)}` }, `effect on ${cut(words, 40)}`);
    const show = (): void => { button.ariaPressed = String(this.#state.get("effects")); };
    listen(button, { click: () => { this.#state.set({ effects: !this.#state.get("effects") }); } }, this.#signal);
    this.#state.on("effects", show, this.#signal);
    show();
    return element("span", { class: "attn-control" }, element("span", { class: "attn-segmented" }, button));
  }

  /** Which of several texts, images … is shown, and why not yet. */
  #picker(): HTMLElement[] {
    const { count, noun } = this.#tiles.meta.samples;
    const picker = stepper(noun, (sample) => { this.#state.set({ sample }); });
    const show = (): void => {
      const notice = this.#state.get("notice");
      picker.show(this.#state.get("sample"), count);
      this.#notice.textContent = notice?.words ?? "";
      this.#notice.hidden = notice === null;
      this.#body.inert = this.#time.inert = notice?.missing === true;
    };
    this.#state.on(["sample", "notice"], show, this.#signal);
    show();
    return count > 1 ? [picker.el] : [];
  }

  /** A row of buttons for one field of the state. */
  #control<K extends "view" | "part" | "threshold" | "scale" | "group" | "side">(
    name: string, field: K, choices: () => readonly Choice<Fields[K]>[], patch: (value: Fields[K]) => Partial<Fields>,
  ): Segmented<Fields[K]> {
    const control = segmented<Fields[K]>(name, (value) => { this.#state.set(patch(value)); });
    const show = (): void => { control.show(choices(), this.#state.get(field)); };
    this.#state.on([field, "part"], show, this.#signal);
    show();
    return control;
  }

  /** What choosing another part changes: what is selected but not there becomes the average, and other tokens are not pinned. */
  #toPart(name: string): Partial<Fields> {
    const { layers } = this.#part(name);
    const [layer, head] = [this.#state.get("layer"), this.#state.get("head")];
    const there = layer === null || (layer < layers.length && layers[layer].heads > 0);
    const most = layer !== null && there ? layers[layer].heads : shapeOf(this.#part(name)).heads;
    const step = momentOf(this.#state, axesOf(this.#tiles.meta, name).queries)?.step ?? null;
    return { part: name, layer: there ? layer : null, head: head !== null && head < most ? head : null, heads: [], pinned: [], query: null, step, hover: null };
  }

  // ── detail ──

  #showDetail(): void {
    this.#mounted.abort();
    this.#mounted = new AbortController();
    this.#stage?.remove();
    this.#stage = element("div", { class: "attn-view" });
    this.#detail.append(this.#stage);
    detailOf(this.#state).view({ el: this.#stage, state: this.#state, tiles: this.#tiles, signal: this.#mounted.signal });
    this.#showMap();
  }

  #showMap(): void {
    const map = this.#state.get("map");
    const failed = map.status === "error";
    const why = failed ? map.message : map.status === "ready" && typeof map.effects === "string" ? map.effects : "";
    this.#trouble.textContent = why;
    this.#trouble.hidden = why === "";
    if (this.#stage !== null) this.#stage.hidden = failed;
    const selection = (failed ? null : shown(this.#state)?.selection) ?? selected(this.#state);
    const { part, layer, head } = selection;
    const { sides } = this.#tiles.meta;
    const side = sides === null ? "" : ` · ${sideText(sides, this.#state.get("side"))}`;
    this.#title.textContent = `${selectionText(selection, this.#part(part))}${side}`;
    if (map.status === "loading") {
      setTimeout(() => { this.#showWaiting(); }, WAIT);
      return;
    }
    this.root.dataset["selection"] = selection.heads === undefined ? `${part}/${layer ?? "*"}/${head ?? "*"}` : mapKey(selection);
    this.#subtitle.textContent = "";
    if (failed) this.root.dataset["attnReady"] = "true";
    else this.#summarise(map);
  }

  #showWaiting(): void {
    const map = this.#state.get("map");
    if (map.status !== "loading" || this.#signal.aborted || performance.now() - map.since < WAIT - 20) return;
    const name = selectionText(selected(this.#state), this.#part());
    const asked = this.#state.get("notice") === null ? `waiting for the kernel: ${name} …` : `${name} is not stored here`;
    this.#subtitle.textContent = this.#tiles.live ? asked : `reading ${name} …`;
  }

  /** Numbers about the whole map: computed when there is time for it. */
  #summarise(at: Shown): void {
    whenIdle(() => {
      if (this.#signal.aborted || shown(this.#state) !== at) return;
      this.#subtitle.textContent = summaryText(at, this.#sameTokens(at.selection.part), at.groups.keys === null ? "token" : this.#state.get("group"));
    });
  }

  #sameTokens(part: string): boolean {
    const { queries, keys } = this.#part(part);
    return queries === keys;
  }

  #notesOf(): void {
    const { check, notes } = this.#tiles.meta;
    if (check !== null) {
      const seal = check.rows > 0 ? "✓ checked against the model" : check.text;
      const line = check.ok ? element("p", { class: "attn-quiet", title: check.text }, seal) : element("p", { class: "attn-warning", role: "alert" }, check.text);
      this.#notes.append(line);
    }
    for (const note of notes) this.#notes.append(element("p", { class: "attn-quiet" }, note));
    this.#ranking();
  }

  /** Of a comparison: the heads that changed most, to go to. */
  #ranking(): void {
    if (this.#tiles.meta.sides === null) return;
    const line = element("p", { class: "attn-quiet attn-ranking" });
    const show = (): void => {
      const changed = mostOf(this.#part(), "change", 5);
      const buttons = changed.map(([layer, head, value]) => {
        const button = element("button", { type: "button", class: "attn-button", "data-changed": `${layer}/${head}` }, `${layer}·${head} `, element("b", {}, value.toFixed(2)));
        button.ariaLabel = `Layer ${layer}, head ${head}: ${value.toFixed(2)}`;
        listen(button, { click: () => { this.#state.set({ layer, head, heads: [] }); } }, this.#signal);
        return button;
      });
      line.hidden = buttons.length === 0;
      line.replaceChildren("changed most (share of each row's weight that moved): ", ...buttons);
    };
    this.#state.on("part", show, this.#signal);
    show();
    this.#notes.append(line);
  }

  // ── the sentence ──

  #spoken({ selection, axes, map }: Shown, produced?: number): Spoken {
    if (this.#names?.of !== axes) this.#names = { of: axes, queries: new Names(axes.queries.labels), keys: new Names(axes.keys.labels) };
    return { ...this.#names, bound: boundOf(selection), signed: map.signed, ...(produced === undefined ? {} : { produced }) };
  }

  /** What the edges of a row, or of a column, do. */
  #acting(at: Shown, side: "query" | "key"): Pick<Spoken, "effect"> {
    const [effects, { effects: line, queries }] = [effectsIn(at), this.#focus.current];
    const shares = line?.[side];
    if (effects === null || !shares) return {};
    const reaches = (i: number): boolean => (side === "query" ? effects.reach(i) : queries.some((query) => effects.reach(query)));
    return { effect: (i, first) => (first ? `, which ${deed(effects, shares[i], reaches(i))}` : ` (${effectText(effects, shares[i])})`) };
  }

  #sentenceNow(): Piece[] {
    const at = shown(this.#state);
    const { queries, key, row, column, leak, moment, error } = this.#focus.current;
    if (this.#body.inert) return []; // the picture is of another text
    if (error !== null) return [{ kind: "words", text: error }];
    if (this.#state.get("map").status === "error") return [{ kind: "words", text: "There is no picture here to read numbers from; click a square for another head." }];
    const both = (this.#state.get("hover")?.query ?? null) !== null;
    if (at !== null && key !== null && column !== null && !both) return columnSentence(key, column, { ...this.#spoken(at), ...this.#acting(at, "query") });
    const produced = queries.length === 1 && queries[0] === moment?.query ? moment.token : undefined;
    if (at !== null && row !== null && queries.length > 0) return rowSentence(queries, row, leak, { ...this.#spoken(at, produced), ...this.#acting(at, "key") });
    if (queries.length > 0 || key !== null) return [{ kind: "words", text: "waiting for the exact weights …" }];
    return [{ kind: "words", text: "Hover a token to see where its weight goes; click to pin; click a square for its head." }];
  }

  #say(): void {
    const sentence = this.#sentenceNow();
    this.#sentence.replaceChildren(...spelled(sentence));
    if (this.#byKeyboard && !this.#clock.playing) this.#speak(sentence);
  }

  /** Says a sentence to those who listen, and whose numbers these are where that is another head than before. */
  #speak(sentence: readonly Piece[]): void {
    const { textContent: head } = this.#title;
    this.#live.say(`${head === this.#spokenHead ? "" : `${head}: `}${plain(sentence)}`);
    this.#spokenHead = head;
  }
}

const detailOf = (state: State): Detail => DETAILS.find(({ value }) => value === state.get("view")) ?? DETAILS[0];

const named = (label: string, control: HTMLElement): HTMLElement => element("span", { class: "attn-control" }, element("span", { "aria-hidden": "true" }, label), control);

const sideText = ([a, b]: readonly [string, string], side: Traits["side"]): string => (side === "a" ? a : side === "b" ? b : `${a} − ${b}`);

const sidesOf = ({ sides }: BundleMeta): Choice<Traits["side"]>[] =>
  sides === null ? [] : [{ value: "a", label: "A", name: `A: ${sides[0]}` }, { value: "b", label: "B", name: `B: ${sides[1]}` }, { value: "difference", label: "A − B" }];

/** The heads of which a measure is largest, with it. */
export function mostOf(part: PartInfo, measure: string, count: number): [layer: number, head: number, value: number][] {
  const { values } = part.measures.find(({ name }) => name === measure) ?? { values: [] };
  const all = values.flatMap((row, layer) => row.flatMap((value, head): [number, number, number][] => (value === null ? [] : [[layer, head, value]])));
  return all.sort((a, b) => b[2] - a[2]).slice(0, count);
}

/** The usual shares, and the one that was set from Python. */
function thresholds(threshold: number): Choice<number>[] {
  const usual: Choice<number>[] = [{ value: 0.5, label: "50 %" }, { value: 0.9, label: "90 %" }, { value: 1, label: "all" }];
  if (usual.some(({ value }) => value === threshold)) return usual;
  const own = { value: threshold, label: `${Number((threshold * 100).toFixed(1))} %` };
  return [...usual, own].sort((a, b) => a.value - b.value);
}

function summaryText({ map }: Shown, sameTokens: boolean, noun: Traits["group"]): string {
  const pooled = map.pooled ? [`too large to be here whole: each cell is ${asPooled(map)} of ${map.step.join(" × ")} weights`] : [];
  if (map.signed) return [...pooled, "+ is what A gives more, − what B gives more"].join(" · ");
  if (map.pooled) return pooled[0];
  const numbers = summary(map);
  if (numbers === null) return "";
  const about = numbers.sampled ? "≈ " : "";
  const distance = sameTokens ? [`mean distance ${about}${numbers.distance.toFixed(1)} ${noun}s`] : [];
  return [...distance, `${about}${numbers.effective.toFixed(1)} effective ${noun}s`, `first ${noun} ${about}${numbers.first.toFixed(2)}`].join(" · ");
}

function whenIdle(act: () => void): void {
  if (typeof requestIdleCallback === "function") requestIdleCallback(act, { timeout: 500 });
  else setTimeout(act, 50);
}
