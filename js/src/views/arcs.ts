/**
 * Token arcs: an edge from a query to a key for every weight that counts, between two columns or along one line.
 *
 * Two canvases lie under the tokens: hairlines for all queries in sight, drawn when the map changes, and tapers for the
 * token in focus, drawn on every hover. Both, and the tokens, exist for a window of the list only, so that a thousand
 * tokens cost what forty do.
 */

import type { Choice } from "../a11y.ts";
import { counted, cut, element, segmented, stepped, thousands, weightText } from "../a11y.ts";
import { groupings, headings, samples } from "../around.ts";
import type { Ends } from "../carried.ts";
import { beyond, edgesText, foldsOf, leaks, LEGIBLE, paddingOf } from "../carried.ts";
import type { Groups } from "../combine.ts";
import type { Edge } from "../draw.ts";
import { fit, perFrame, watchWidth } from "../draw.ts";
import type { Focusing } from "../focus.ts";
import { focusOf, pinnedIn, point, togglePinned } from "../focus.ts";
import { effectLegend, facts, laneOf, Ruler, textOf } from "../label.ts";
import type { Layout, Side } from "../layout.ts";
import { columns, drawnWithin, line, SIDES, spanOf, tokensBetween } from "../layout.ts";
import type { WeightMap } from "../math.ts";
import { strongest } from "../math.ts";
import type { Fields, Moment, Shown, State, ViewContext } from "../state.ts";
import { axesNow, axesOf, effectsIn, focusedQuery, momentOf, placeOf, shown } from "../state.ts";
import { endsOf, Strands } from "../strands.ts";
import { onDress, paletteAt } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { TokenList } from "../tokenlist.ts";
import { listen } from "../until.ts";
import type { Axis } from "../wire.ts";

export function arcs(context: ViewContext): void {
  new Arcs(context);
}

const FOLD = 22; // pixels of the sign that takes a group apart
const [TOKEN, SENTENCE] = [150, 260]; // pixels of the widest token in a line
const READABLE = 3; // heads whose numbers stand side by side
const TOGETHER = { mean: "their mean", max: "the largest", min: "the smallest" } as const;

type Both<T> = Readonly<Record<Side, T>>;
const both = <T>(of: (side: Side) => T): Both<T> => ({ query: of("query"), key: of("key") });

class Arcs {
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #focus: Focusing;
  readonly #el: HTMLElement;

  readonly #tokens = new TokenList();
  readonly #lines = element("canvas", { class: "attn-lines", "aria-hidden": "true" });
  readonly #glow = element("canvas", { "aria-hidden": "true" });
  readonly #groups = element("div");
  readonly #space = element("div", { class: "attn-space" }, this.#lines, this.#glow, this.#groups, this.#tokens.el.query, this.#tokens.el.key);
  readonly #list = element("div", { class: "attn-list" }, this.#space);
  readonly #heads = element("div", { class: "attn-heads" });
  readonly #leaves = element("span", { class: "attn-end attn-leaves" }, "← leaves");
  readonly #beyond = ["above", "below"].map((where) => element("button", { type: "button", class: `attn-beyond attn-${where}-view`, tabindex: -1 }));
  readonly #legend = element("div", { class: "attn-legend attn-strands", role: "list" });
  readonly #under = element("p", { class: "attn-quiet attn-under" });

  #width = 0;
  #layout: Layout = columns({ nq: 0, nk: 0, width: 0, widest: { query: 0, key: 0 }, numbers: [0, 0] });
  #same = false; // one line of tokens, each query and key
  #window = { from: 0, to: 0 }; // between these points things exist
  #scroll = 0; // where the list stands; to ask it for that would lay it out
  #at: Shown | null = null;
  #strands = new Strands(null, false, 1);
  #axes: Both<Axis>;
  #folds: Both<ReturnType<typeof foldsOf>> = { query: [], key: [] };
  #folding: { side: Side; token: number } | null = null; // a group that is being taken apart, or put together
  #padding: ReadonlySet<number> = new Set(); // keys
  #leaks = false; // some row of the map gives to no key
  #edges = "";
  #told: Both<ReadonlySet<number>> = both(() => new Set<number>()); // what carries the chosen share of the focus

  constructor(context: ViewContext) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#focus = focusOf(context);
    this.#axes = this.#axesNow();
    el.classList.add("attn-arcs");
    el.append(this.#options(signal), this.#heads, element("div", { class: "attn-stage" }, this.#list, ...this.#beyond), this.#legend, this.#under);

    watchWidth(el, (width) => { this.#width = width; this.#arrange(); }, signal);
    state.on("map", () => { this.#load(); }, signal);
    state.on(["arrangement", "overlay"], () => { this.#select(); this.#arrange(); }, signal);
    state.on("threshold", () => { this.#select(); this.#drawAll(); }, signal);
    state.on("pinned", () => { this.#showHeads(); }, signal);
    state.on(["query", "step"], () => { this.#reveal(); }, signal);
    state.on("step", perFrame(() => { this.#drawAll(); }, signal), signal);
    this.#focus.on(perFrame(() => { this.#drawFocus(); }, signal), signal);
    onDress(el, () => { this.#arrange(); }, signal);
    for (const each of [this.#leaves, ...this.#beyond]) each.hidden = true;
    this.#listen(signal);
    this.#load();
  }

  /** How tokens are arranged, which of their edges hovering shows, and whether several heads are drawn one by one. */
  #options(signal: AbortSignal): HTMLElement {
    const state = this.#state;
    const control = <K extends "arrangement" | "direction" | "overlay">(name: K, label: string, choices: () => Choice<Fields[K]>[], needless: () => boolean): HTMLElement => {
      const buttons = segmented<Fields[K]>(label, (value) => { state.set({ [name]: value }); });
      const update = (): void => {
        buttons.show(choices(), state.get(name));
        buttons.el.hidden = needless();
      };
      state.on(["map", "arrangement", name], update, signal);
      update();
      return buttons.el;
    };
    return element("div", { class: "attn-options" },
      control("arrangement", "Tokens in", () => [{ value: "columns", label: "columns" }, { value: "line", label: "line" }], () => false),
      control("direction", "A token shows what it", () => [{ value: "attends", label: "attends to" }, { value: "receives", label: "receives from" }], () => !this.#isSame(this.#axesNow())),
      control("overlay", "Of several heads", () => [{ value: true, label: "each head" }, { value: false, label: TOGETHER[shown(state)?.selection.reduce ?? "mean"] }], () => !isFew(shown(state)) || effectsIn(shown(state)) !== null),
    );
  }

  // ── what is shown ──

  #axesNow(): Both<Axis> {
    const { queries, keys } = axesNow(this.#state, this.#tiles);
    return { query: queries, key: keys };
  }

  #isSame({ query, key }: Both<Axis>): boolean {
    return this.#state.get("arrangement") === "line" && query === key;
  }

  get #moment(): Moment | null {
    return momentOf(this.#state, this.#axes.query);
  }

  /** How many tokens of a side are there, at the moment that is shown. */
  #there(side: Side): number {
    const moment = this.#moment;
    return moment === null || this.#axes[side] !== this.#axes.query ? this.#length(side) : moment.token + 1;
  }

  #length(side: Side): number {
    return side === "query" ? this.#layout.nq : this.#layout.nk;
  }

  #groupsOf(side: Side): Groups | null {
    return this.#at?.groups[side === "query" ? "queries" : "keys"] ?? null;
  }

  #select(): void {
    this.#strands = new Strands(this.#at, this.#state.get("overlay"), this.#state.get("threshold"));
  }

  #load(): void {
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    const shape = (): string => `${this.#strands.all.length} ${this.#numbers}`; // what the numbers need room for
    const before = shape();
    this.#at = at;
    this.#leaks = leaks(at.map);
    this.#padding = paddingOf(at.map);
    this.#select();
    const axes = this.#axesNow();
    if (axes.query === this.#axes.query && axes.key === this.#axes.key && shape() === before) {
      this.#showLegend();
      this.#drawAll();
      return;
    }
    this.#axes = axes;
    const folding = this.#folding;
    this.#folding = null;
    if (folding === null) this.#scrollBy(0);
    this.#arrange(true);
    if (folding !== null) this.#moveTo(folding.side, this.#groupsOf(folding.side)?.of[folding.token] ?? folding.token);
  }

  /** Places everything anew, for another width, arrangement or part (`other`). Tokens are there before the map is. */
  #arrange(other = false): void {
    if (this.#width === 0) return;
    const [oneLine, strands, { length: count }] = [this.#state.get("arrangement") === "line", this.#strands, this.#strands.all];
    const narrow = this.#width < 560;
    const dense = count > READABLE || (count > 1 && narrow);
    const tall = !oneLine && this.#groupsOf("query") !== null && this.#state.get("group") === "sentence";
    this.#same = this.#isSame(this.#axes);
    const groups = both((side) => this.#groupsOf(side));
    this.#folds = both((side) => this.#foldsOf(side));
    const layout = (this.#layout = oneLine ? this.#line(dense) : this.#columns(dense, narrow, tall));
    for (const [name, holds] of Object.entries({ line: oneLine, tall, several: strands.several, brief: !oneLine && strands.several && narrow })) this.#el.classList.toggle(`attn-${name}`, holds);
    for (const side of SIDES) this.#tokens.el[side].classList.toggle("attn-lane", !oneLine && laneOf(this.#axes[side]) > 0);
    const lineHeight = oneLine ? 20 : Math.min(20, spanOf(layout, "query", 0)[1] - 2);
    Object.assign(this.#space.style, { width: oneLine ? `${layout.width}px` : "", height: `${layout.height}px`, lineHeight: `${lineHeight}px` });
    layout.arcs.forEach((at, n) => { this.#el.style.setProperty(n === 0 ? "--near" : "--far", `${at}px`); });
    this.#list.style.height = oneLine ? `${layout.height + (layout.width > layout.view ? 12 : 0)}px` : `${layout.view}px`;
    this.#tokens.arrange({ layout, axes: this.#axes, groups, folds: this.#folds, same: this.#same, tall, strands, dense, palette: paletteAt(this.#el) }, !other);
    this.#window = { from: 0, to: 0 };
    this.#showHeads();
    this.#groups.replaceChildren(...groupings(layout, this.#axes, this.#same));
    this.#showLegend();
    this.#scrolled();
    this.#reveal();
  }

  /** Pixels of a number beside a token. */
  get #numbers(): number { return this.#strands.effects !== null ? 104 : this.#strands.signed ? 58 : 48; }

  #columns(dense: boolean, narrow: boolean, tall: boolean): Layout {
    const ruler = new Ruler(this.#el);
    const widest = both((side) => ruler.widest(this.#axes[side], tall ? 320 : 240) + laneOf(this.#axes[side]) + (this.#folds[side].some((sign) => sign !== null) ? FOLD : 0));
    const [count, { query, key }] = [this.#strands.all.length, this.#axes];
    const numbers = count < 2 ? this.#numbers : dense ? 7 * count + 52 : 46 * count;
    // Several heads in a narrow room: bars alone beside queries.
    return columns({ nq: query.labels.length, nk: key.labels.length, width: this.#width, widest, numbers: [count > 1 && narrow ? 7 * count + 8 : numbers, numbers], tall });
  }

  #line(dense: boolean): Layout {
    const ruler = new Ruler(this.#el);
    const most = this.#state.get("group") === "sentence" ? SENTENCE : TOKEN;
    const widths = (side: Side): number[] => this.#axes[side].labels.map((_, i) => Math.min(most, ruler.width(textOf(this.#axes[side], i))) + ((this.#folds[side][i] ?? null) === null ? 0 : FOLD));
    const queries = widths("query");
    const { length: count } = this.#strands.all;
    const numbers = count < 2 ? [this.#numbers - 16, 18] as const : dense ? [Math.max(48, 7 * count), 36] as const : [48, 15 * count + 3] as const;
    return line({ width: this.#width, queries, keys: this.#same ? queries : widths("key"), numbers, ahead: !this.#causal, lanes: both((side) => laneOf(this.#axes[side])) });
  }

  get #causal(): boolean {
    return this.#tiles.meta.parts.find(({ name }) => name === this.#state.get("part"))?.causal ?? false;
  }

  #foldsOf(side: Side): ReturnType<typeof foldsOf> {
    const [groups, numbers] = [this.#groupsOf(side), this.#groupNumbers];
    // Only what has the tokens of the queries can be taken apart.
    return groups === null || numbers === null || this.#axes[side] !== this.#axes.query ? [] : foldsOf(groups.members, numbers);
  }

  /** The word or sentence of each query token. */
  get #groupNumbers(): readonly number[] | null {
    const { words, sentences } = axesOf(this.#tiles.meta, this.#state.get("part")).queries;
    return this.#state.get("group") === "sentence" ? sentences : words;
  }

  #showHeads(): void {
    const pinned = pinnedIn(this.#state, this.#layout.nq).length;
    this.#heads.replaceChildren(...headings(this.#layout, this.#same, pinned > 1 ? `Σ over ${pinned} pinned` : "", this.#leaves));
  }

  /** What lines and colours stand for; nothing where there is nothing to tell apart. */
  #showLegend(): void {
    const { several, signed, effects } = this.#strands;
    const also: string[] = [];
    if (this.#same) also.push(`above: back to earlier tokens${this.#causal ? "" : " · below: ahead to later ones"} · wide at the query, narrow at the key`);
    if (this.#state.get("overlay") && isFew(this.#at) && !several && effects === null) also.push("These maps are too large to be here whole, so the heads are shown together.");
    const palette = paletteAt(this.#el);
    this.#legend.replaceChildren(...(effects === null ? samples(this.#strands, palette, this.#tiles.meta.sides ?? ["A", "B"]) : [element("span", { role: "listitem" }, effectLegend(palette, effects, [element("span", {}, "dashed: lowers")]))]), ...also.map((words) => element("span", { role: "listitem" }, words)));
    this.#legend.hidden = !several && !signed && effects === null && also.length === 0;
  }

  // ── the window ──

  /** Makes the window follow the list: half a view to spare on either side, so that scrolling shows no gaps. */
  #scrolled(): void {
    const { view, along, height, width } = this.#layout;
    const at = (this.#scroll = along === "y" ? this.#list.scrollTop : this.#list.scrollLeft);
    const [length, { from, to }] = [along === "y" ? height : width, this.#window];
    if (from <= Math.max(0, at - view / 8) && to >= Math.min(length, at + view * 1.125)) return this.#showBeyond();
    this.#window = { from: Math.max(0, Math.floor(at - view / 2)), to: Math.min(length, Math.ceil(at + view * 1.5)) };
    this.#tokens.keep(this.#window.from, this.#window.to);
    this.#drawAll();
  }

  #scrollBy(to: number): void {
    this.#list[this.#layout.along === "y" ? "scrollTop" : "scrollLeft"] = to;
  }

  /** Brings the query that Python asked for, or the token that is being produced, into view. */
  #reveal(): void {
    const query = this.#state.get("query");
    const place = this.#moment?.token ?? (query === null ? null : placeOf(this.#state, query));
    if (place !== null && this.#state.get("hover") === null && place < this.#layout.nq) this.#scrollTo("query", place);
  }

  /** Brings a token, and one on either side of it, into view. */
  #scrollTo(side: Side, i: number): void {
    const { view } = this.#layout;
    const [at, size] = spanOf(this.#layout, side, i);
    if (at - size < this.#scroll || at + 2 * size > this.#scroll + view) this.#scrollBy(at - (view - size) / 2);
    this.#scrolled();
  }

  // ── drawing ──

  #drawAll(): void {
    if (this.#at === null || this.#width === 0) return;
    this.#drawHairlines(this.#at.map);
    this.#drawFocus();
    this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  #pen(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
    const { along, arcs: [near, far] } = this.#layout;
    const { from, to } = this.#window;
    const [left, top, width, height] = along === "y" ? [near, from, far - near, to - from] : [from, near, to - from, far - near];
    canvas.style.transform = `translate(${left}px, ${top}px)`;
    const pen = fit(canvas, Math.max(1, width), Math.max(1, height));
    pen.translate(-left, -top);
    return pen;
  }

  readonly #edge = ({ query, key, weight, strand }: Ends): Edge => {
    const { length: count } = this.#strands.all;
    const shift = (strand - (count - 1) / 2) * Math.min(4, 15 / count);
    const [at, size] = spanOf(this.#layout, "key", key);
    const { from, to } = this.#window;
    return { curve: this.#layout.curve(query, key, shift, drawnWithin(from, to)), weight, away: at + size < from || at > to };
  };

  #drawHairlines(map: WeightMap): void {
    const [first, seen] = tokensBetween(this.#layout, "query", this.#window.from, this.#window.to);
    const asked = this.#moment?.token ?? map.nq;
    const last = Math.max(first, Math.min(seen, asked));
    const picked = this.#strands.between(first, last);
    this.#strands.hairs(this.#pen(this.#lines), paletteAt(this.#el), picked.edges, this.#edge);
    this.#edges = map.pooled
      ? "This map is too large to be here whole. Hover a token to see its edges."
      : edgesText(picked, this.#state.get("threshold"), last - first < asked ? ` of these ${last - first} rows` : map.signed ? " of what differs" : "");
  }

  #drawFocus(): void {
    if (this.#at === null || this.#width === 0) return;
    const focus = this.#focus.current;
    const { queries, key, error } = focus;
    const lines = this.#strands.inFocus(focus);
    const ends = endsOf(lines, focus);
    const asking = this.#moment?.token ?? this.#layout.nq;
    const pinned = pinnedIn(this.#state, asking);
    const [pen, palette] = [this.#pen(this.#glow), paletteAt(this.#el)];
    // The edges of the focus, over those of what is pinned beside it.
    for (const query of pinned) if (key !== null || !queries.includes(query)) this.#strands.glow(pen, palette, this.#strands.from(query), this.#edge, 0.3);
    this.#strands.glow(pen, palette, ends.slice(0, LEGIBLE), this.#edge, 1);

    this.#el.classList.toggle("attn-focused", queries.length > 0 || key !== null);
    const carried = both((side) => (lines.length === 1 ? lines[0].told[side] : new Set(lines.flatMap(({ told }) => [...told[side]]))));
    const leaking = !this.#same && key === null && this.#leaks;
    this.#leaves.hidden = !leaking;
    this.#tokens.mark({ map: this.#at.map, padding: this.#padding, focus, lines, pinned, there: { query: asking, key: this.#there("key") }, carried, leaking });
    this.#showBeyond(carried);

    // Under the picture: what the token in focus is, or how many edges are drawn.
    const query = queries.length === 1 ? queries[0] : focusedQuery(this.#state, this.#moment);
    const under = key !== null ? this.#facts("key", key) : query !== null && query < this.#layout.nq ? this.#facts("query", query) : [this.#edges];
    const left = ends.length > LEGIBLE ? ` · the strongest ${LEGIBLE} of ${counted(ends.length, "edge")} are drawn` : "";
    this.#under.replaceChildren(...(error === null ? [...under, left] : [error]));
  }

  #facts(side: Side, i: number): (Node | string)[] {
    const [axis, count] = [this.#axes[side], this.#groupsOf(side)?.members[i]?.length ?? 1];
    return count === 1 ? facts(axis, i) : [element("bdi", {}, cut(axis.labels[i], 400)), ` · ${counted(count, "token")}`];
  }

  /** Says how much of the focus is about tokens that are out of sight, and by how many edges. */
  #showBeyond(carried = this.#told): void {
    this.#told = carried;
    const { row, column } = this.#focus.current;
    const [cells, side] = column !== null ? [column, "query"] as const : [row ?? new Float32Array(), "key"] as const;
    const [{ view, along }, n] = [this.#layout, this.#length(side)];
    const spare = n === 0 ? 0 : spanOf(this.#layout, side, 0)[1] / 2;
    const [first, last] = tokensBetween(this.#layout, side, this.#scroll + spare, this.#scroll + view - spare);
    this.#beyond.forEach((button, after) => {
      const { count, mass, most } = beyond(cells, carried[side], after === 0 ? 0 : last, after === 0 ? first : n);
      button.hidden = mass < 0.005;
      if (button.hidden) return;
      const text = `${count > 0 ? `${thousands(count)} more · ` : ""}${this.#strands.signed ? "±" : ""}${weightText(mass)}`;
      button.textContent = along === "y" ? `${"↑↓"[after]} ${text}` : after === 0 ? `← ${text}` : `${text} →`;
      Object.assign(button.dataset, { side, to: most });
    });
  }

  // ── pointer and keyboard ──

  #listen(signal: AbortSignal): void {
    const leave = (): void => { point(this.#state, null); };
    listen(this.#list, { scroll: perFrame(() => { this.#scrolled(); }, signal) }, signal, { passive: true });
    listen(this.#list, {
      pointerover: ({ target }) => { this.#pointAt(target); },
      pointerleave: leave,
      focusout: leave,
      focusin: ({ target }) => { if (target instanceof Element && target.matches(":focus-visible")) this.#pointAt(target); },
      click: ({ target }) => {
        const token = sidedAt(target);
        if (token === null) return;
        if (target instanceof Element && target.closest("[data-fold]") !== null) this.#fold(token.side, token.i);
        else if (token.side === "query") this.#pin(token.i);
      },
      keydown: (event) => { this.#press(event); },
    }, signal);
    for (const button of this.#beyond) listen(button, { click: () => { this.#scrollTo(button.dataset["side"] as Side, Number(button.dataset["to"])); } }, signal);
  }

  #pointAt(target: EventTarget | null): void {
    const token = sidedAt(target);
    const asKey = token?.side === "key" || (this.#same && this.#state.get("direction") === "receives");
    point(this.#state, token === null ? null : asKey ? { query: null, key: token.i } : { query: token.i, key: null });
  }

  #pin(query: number): void {
    if (query < (this.#moment?.token ?? Infinity)) togglePinned(this.#state, query);
  }

  /** Takes a word or sentence apart into its tokens, or puts it together again. */
  #fold(side: Side, i: number): void {
    const [sign, numbers, first] = [this.#folds[side].at(i) ?? null, this.#groupNumbers, this.#groupsOf(side)?.members[i]?.[0]];
    if (sign === null || numbers === null || first === undefined) return;
    const expanded = this.#state.get("expanded");
    this.#folding = { side, token: first };
    this.#state.set({ expanded: sign === "+" ? [...expanded, first] : expanded.filter((token) => numbers[token] !== numbers[first]) });
  }

  #press(event: KeyboardEvent): void {
    const token = sidedAt(event.target);
    if (token === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const { side, i } = token;
    const { row, column } = this.#focus.current;
    const to = stepped(event.key, i, this.#there(side));
    if (event.key === "Escape") this.#state.set({ pinned: [] });
    else if ((event.key === "Enter" || event.key === " ") && side === "query") this.#pin(i);
    else if (event.key === "x") this.#fold(side, i);
    else if ((this.#layout.along === "x" ? ["ArrowUp", "ArrowDown"] : ["ArrowLeft", "ArrowRight"]).includes(event.key)) {
      const other = this.#same || side === "key" ? "query" : "key";
      const cells = column ?? row;
      this.#moveTo(other, (cells === null ? undefined : strongest(cells, 1, 1).indices.at(0)) ?? Math.min(i, this.#length(other) - 1));
    } else if (to === null) return;
    else this.#moveTo(side, to);
    event.preventDefault();
  }

  #moveTo(side: Side, i: number): void {
    this.#scrollTo(side, i);
    this.#tokens.moveTo(side, i);
  }
}

/** Several heads that can be told apart. */
const isFew = (at: Shown | null): boolean => (at?.overlaid.length ?? 0) > 1;

function sidedAt(target: EventTarget | null): { side: Side; i: number } | null {
  const el = target instanceof Element ? target.closest<HTMLElement>("[data-query], [data-key]") : null;
  if (el === null) return null;
  const { query, key } = el.dataset;
  return query === undefined ? { side: "key", i: Number(key) } : { side: "query", i: Number(query) };
}
