/**
 * Token arcs: queries left, keys right, an edge for every weight that counts.
 *
 * Two canvases lie under the tokens: hairlines for all queries in sight, drawn when the map changes, and tapers for the
 * token in focus, drawn on every hover. Both, and the tokens, exist for a window of the list only, so that a thousand
 * tokens cost what forty do. Hovering changes texts and classes inside boxes of fixed size: no layout beyond them.
 */

import { counted, element, stepped, thousands, weightText } from "../a11y.ts";
import type { Edge } from "../draw.ts";
import { fit, hairlines, perFrame, tapers, watchWidth } from "../draw.ts";
import type { Focus, Focusing } from "../focus.ts";
import { axesOf, focusOf, pinnedIn, point, togglePinned } from "../focus.ts";
import { boundaries, brackets, chip, facts, LANE, laneOf, nameOf, Ruler } from "../label.ts";
import type { WeightMap } from "../math.ts";
import { MASKED, PADDED, strongest } from "../math.ts";
import type { Moment, Shown, State, ViewContext } from "../state.ts";
import { focusedQuery, momentOf, shown } from "../state.ts";
import { css, onDress, paletteAt, tints } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { listen } from "../until.ts";
import type { Axis } from "../wire.ts";

// ── where things are ────────────────────────────────────────────────────────────────────────────────────────────────

interface Layout {
  /** Height of a row, and of all rows. */
  row: number;
  height: number;
  /** What is seen of it at once. */
  view: number;
  nq: number;
  nk: number;
  /** Left edges of the columns: weights by query, queries, arcs, keys, weights by key; and where the last one ends. */
  columns: readonly [number, number, number, number, number, number];
}

const VIEW = 560; // pixels of height before the list scrolls
const NUMBER = 48; // width of a column of weights
const CHIP = 28; // padding and borders of a chip, and a little air
const BAND = 150; // pixels that long tokens leave to the arcs
const SPREAD = 1.5; // how far apart the rows of the shorter side may be

export function layOut(nq: number, nk: number, width: number, widestQuery: number, widestKey: number): Layout {
  const n = Math.max(nq, nk, 1);
  const roomy = Math.floor(VIEW / n);
  const row = roomy >= 18 ? Math.min(26, roomy) : 22;
  const height = row * n;
  const most = Math.max(48, Math.min(width * 0.27, (width - 2 * NUMBER - Math.min(BAND, width / 4)) / 2));
  const [query, key] = [Math.min(widestQuery + CHIP, most), Math.min(widestKey + CHIP, most)];
  const arcs = Math.max(60, Math.min(460, width - 2 * NUMBER - query - key));
  const from = Math.max(0, (width - (2 * NUMBER + query + arcs + key)) / 2);
  const columns: number[] = [from];
  for (const wide of [NUMBER, query, arcs, key, NUMBER]) columns.push(columns[columns.length - 1] + wide);
  return { row, height, view: Math.min(height, VIEW), nq, nk, columns: columns.map(Math.round) as unknown as Layout["columns"] };
}

/** Top of row `i` on a side of `n` rows: the shorter side is spread out a little, and centred. */
export function topOf({ row, height, view }: Layout, i: number, n: number): number {
  const pitch = height > view ? height / n : Math.min(height / n, row * SPREAD);
  return Math.round((height - n * pitch) / 2 + i * pitch + (pitch - row) / 2);
}

/** Rows [first, last) of a side of `n` that show between two heights. */
function rowsBetween(layout: Layout, n: number, from: number, to: number): [number, number] {
  let [first, last] = [0, n];
  while (first < n && topOf(layout, first, n) + layout.row < from) first++;
  while (last > first && topOf(layout, last - 1, n) > to) last--;
  return [first, last];
}

// ── which edges ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** The keys that carry the chosen share of one query, strongest first. */
interface Carried {
  keys: Uint32Array;
  weights: Float32Array;
}

interface Ends {
  query: number;
  key: number;
  weight: number;
}

const LEAK = 1e-3;

function leaks(map: WeightMap): boolean {
  for (let i = 0; i < map.nq; i++) if (map.leak(i) > LEAK) return true;
  return false;
}

const DRAWN = 2000; // edges on screen at once
const KEPT = 512; // queries whose edges are remembered
const NONE: Carried = { keys: new Uint32Array(), weights: new Float32Array() };

function carriedBy(row: Float32Array | null, share: number): Carried {
  if (row === null) return NONE;
  const keys = strongest(row, share).indices;
  return { keys, weights: Float32Array.from(keys, (key) => row[key]) };
}

/** The strongest of the edges that `queries` carry, strongest first, at most `limit`; and how many there are in all. */
export function strongestEdges(queries: readonly (readonly [query: number, carried: Carried])[], limit: number): { edges: Ends[]; count: number } {
  const count = queries.reduce((sum, [, { keys }]) => sum + keys.length, 0);
  let least = 0;
  if (count > limit) {
    const weights = new Float32Array(count);
    let at = 0;
    for (const [, carried] of queries) {
      weights.set(carried.weights, at);
      at += carried.weights.length;
    }
    least = weights.sort()[count - limit];
  }
  const edges: Ends[] = [];
  for (const [query, { keys, weights }] of queries) {
    for (let n = 0; n < keys.length && weights[n] >= least; n++) edges.push({ query, key: keys[n], weight: weights[n] });
  }
  edges.sort((a, b) => b.weight - a.weight);
  return { edges: edges.slice(0, limit), count };
}

// ── the view ────────────────────────────────────────────────────────────────────────────────────────────────────────

export function arcs(context: ViewContext): void {
  new Arcs(context);
}

type Side = "query" | "key";

/** One token on screen, with the weight beside it. */
interface Row {
  el: HTMLElement;
  chip: HTMLElement;
  weight: HTMLElement;
}

/** How a token stands to the focus. */
interface Mark {
  /** In focus, or pinned. */
  on: boolean;
  /** The focus cannot see it. */
  off: boolean;
  /** It is not there yet, or it is just being produced. */
  time: "later" | "now" | "";
  /** Weight of its edge with the focus; `null` where there is none to speak of. */
  weight: number | null;
  /** The edge is among those drawn. */
  carried: boolean;
}

class Arcs {
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #focus: Focusing;
  readonly #el: HTMLElement;

  readonly #lines = element("canvas", { class: "attn-lines", "aria-hidden": "true" });
  readonly #glow = element("canvas", { "aria-hidden": "true" });
  readonly #sides: Record<Side, HTMLElement> = {
    query: element("div", { role: "group", "aria-label": "Queries" }),
    key: element("div", { role: "list", "aria-label": "Keys" }),
  };
  readonly #groups = element("div");
  readonly #space = element("div", { class: "attn-space" }, this.#lines, this.#glow, this.#groups, this.#sides.query, this.#sides.key);
  readonly #list = element("div", { class: "attn-list" }, this.#space);
  readonly #heads = element("div", { class: "attn-heads" });
  readonly #leaves = element("span", { class: "attn-end attn-leaves" }, "← leaves");
  readonly #beyond = {
    above: element("button", { type: "button", class: "attn-beyond attn-above-view", tabindex: -1 }),
    below: element("button", { type: "button", class: "attn-beyond attn-below-view", tabindex: -1 }),
  };
  readonly #under = element("p", { class: "attn-quiet attn-under" });
  readonly #rows: Record<Side, Map<number, Row>> = { query: new Map(), key: new Map() };

  #width = 0;
  #layout: Layout = layOut(0, 0, 0, 0, 0);
  #window = { from: 0, to: 0 }; // heights between which things exist
  #at: Shown | null = null;
  #axes: Record<Side, Axis>;
  #kept = new Map<number, Carried>();
  #roving: Record<Side, number> = { query: 0, key: 0 };
  #edges = "";
  #leaks = false; // some row of the map gives to no key

  constructor(context: ViewContext) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#focus = focusOf(context);
    this.#axes = this.#axesOf(state.get("part"));
    const stage = element("div", { class: "attn-stage" }, this.#list, this.#beyond.above, this.#beyond.below);
    el.classList.add("attn-arcs");
    el.append(this.#heads, stage, this.#under);

    watchWidth(el, (width) => { this.#width = width; this.#arrange(); }, signal);
    state.on("map", () => { this.#load(); }, signal);
    state.on("threshold", () => { this.#kept.clear(); this.#drawAll(); }, signal);
    state.on("pinned", () => { this.#showHeads(); }, signal);
    state.on(["query", "step"], () => { this.#reveal(); }, signal);
    state.on("step", perFrame(() => { this.#drawAll(); }, signal), signal);
    this.#focus.on(perFrame(() => { this.#drawFocus(); }, signal), signal);
    onDress(el, () => { this.#drawAll(); }, signal);
    for (const each of [this.#leaves, ...Object.values(this.#beyond)]) each.hidden = true;
    this.#listen(signal);
    this.#load();
  }

  // ── what is shown ──

  #axesOf(name: string): Record<Side, Axis> {
    const { queries, keys } = axesOf(this.#tiles.meta, name);
    return { query: queries, key: keys };
  }

  #moment(): Moment | null {
    return momentOf(this.#state, this.#axes.query);
  }

  /** How many tokens of a side are there, at the moment that is shown. */
  #there(side: Side): number {
    const moment = this.#moment();
    return moment === null || this.#axes[side] !== this.#axes.query ? this.#length(side) : moment.token + 1;
  }

  #load(): void {
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    this.#at = at;
    this.#leaks = leaks(at.map);
    this.#kept.clear();
    const axes = this.#axesOf(at.selection.part);
    if (axes.query === this.#axes.query && axes.key === this.#axes.key) {
      this.#drawAll();
      return;
    }
    this.#axes = axes;
    this.#roving = { query: 0, key: 0 };
    this.#list.scrollTop = 0;
    this.#arrange();
  }

  /** Places everything anew, for another width or another part. Tokens are there before the map is. */
  #arrange(): void {
    if (this.#width === 0) return;
    const ruler = new Ruler(this.#el);
    const { query, key } = this.#axes;
    const widest = (axis: Axis): number => ruler.widest(axis, 240) + laneOf(axis);
    const layout = (this.#layout = layOut(query.labels.length, key.labels.length, this.#width, widest(query), widest(key)));
    for (const side of ["query", "key"] as const) this.#sides[side].classList.toggle("attn-lane", laneOf(this.#axes[side]) > 0);
    Object.assign(this.#space.style, { height: `${layout.height}px`, lineHeight: `${Math.min(20, layout.row - 2)}px` });
    this.#list.style.height = `${layout.view}px`;
    for (const side of ["query", "key"] as const) {
      this.#rows[side].clear();
      this.#sides[side].replaceChildren();
    }
    this.#window = { from: 0, to: 0 };
    this.#showHeads();
    this.#showGroups();
    this.#scrolled();
    this.#reveal();
  }

  #showGroups(): void {
    const { query, key } = this.#axes;
    const { columns, row } = this.#layout;
    const top = (side: Side, i: number): number => topOf(this.#layout, i, this.#length(side));
    const span = (side: Side) => (from: number, to: number) => [top(side, from) + 2, top(side, to - 1) + row - top(side, from) - 4] as const;
    const across = query === key ? columns[5] : columns[2];
    const lines = boundaries(query).map((i) => element("div", { class: "attn-boundary", style: `top: ${(top("query", i - 1) + row + top("query", i)) / 2}px; left: ${columns[0]}px; width: ${across - columns[0]}px` }));
    this.#groups.replaceChildren(...lines, ...brackets(query, "right", columns[1], span("query")), ...brackets(key, "left", columns[4] - LANE, span("key")));
  }

  #showHeads(): void {
    const { columns, nq } = this.#layout;
    const head = (text: string, from: number, to: number, side: string): HTMLElement =>
      element("span", { class: side, style: `left: ${from}px; width: ${to - from}px` }, text);
    this.#heads.replaceChildren(
      head("query", columns[1], columns[2], "attn-end"),
      head("attends to →", columns[2], columns[3], "attn-middle"),
      head("key", columns[3], columns[4], ""),
      this.#leaves,
    );
    Object.assign(this.#leaves.style, { left: `${columns[0] - 20}px`, width: `${columns[1] - columns[0] + 10}px` });
    const pinned = pinnedIn(this.#state, nq).length;
    if (pinned > 1) this.#heads.append(head(`Σ over ${pinned} pinned`, columns[3] + 36, columns[5], "attn-sum"));
  }

  /** Makes the window follow the list: half a view to spare on either side, so that scrolling shows no gaps. */
  #scrolled(): void {
    const { view, height } = this.#layout;
    const top = this.#list.scrollTop;
    if (this.#window.from <= Math.max(0, top - view / 8) && this.#window.to >= Math.min(height, top + view * 1.125)) {
      this.#showBeyond();
      return;
    }
    this.#window = { from: Math.max(0, Math.floor(top - view / 2)), to: Math.min(height, Math.ceil(top + view * 1.5)) };
    this.#keepRows("query");
    this.#keepRows("key");
    this.#drawAll();
  }

  /** Brings the query that Python asked for, or the token that is being produced, into view. */
  #reveal(): void {
    const query = this.#moment()?.token ?? this.#state.get("query");
    if (query === null || this.#state.get("hover") !== null || query >= this.#layout.nq) return;
    this.#scrollTo("query", query);
  }

  #scrollTo(side: Side, i: number): void {
    const { view, row } = this.#layout;
    const at = topOf(this.#layout, i, this.#length(side));
    const { scrollTop } = this.#list;
    if (at < scrollTop || at + row > scrollTop + view) this.#list.scrollTop = at - (view - row) / 2;
    this.#scrolled();
  }

  #length(side: Side): number {
    return side === "query" ? this.#layout.nq : this.#layout.nk;
  }

  // ── tokens ──

  /** Makes the rows of the window and drops those that left it, but never the one that has the keyboard. */
  #keepRows(side: Side): void {
    const rows = this.#rows[side];
    const [first, last] = rowsBetween(this.#layout, this.#length(side), this.#window.from, this.#window.to);
    for (const [i, row] of rows) {
      if ((i >= first && i < last) || row.el.matches(":focus")) continue;
      row.el.remove();
      row.weight.remove();
      rows.delete(i);
    }
    for (let i = first; i < last; i++) {
      if (rows.has(i)) continue;
      const row = this.#makeRow(side, i);
      rows.set(i, row);
      this.#sides[side].append(row.el, row.weight);
    }
  }

  #makeRow(side: Side, i: number): Row {
    const { columns, row: height } = this.#layout;
    const axis = this.#axes[side];
    const token = chip(axis, i);
    const at = topOf(this.#layout, i, this.#length(side));
    const box = (column: number): string => `top: ${at}px; height: ${height}px; left: ${columns[column]}px; width: ${columns[column + 1] - columns[column]}px`;
    const own = side === "query" ? { role: "button", "aria-pressed": "false", "data-query": i } : { role: "listitem", "data-key": i };
    const el = element("div", { ...own, class: `attn-token attn-${side}`, tabindex: i === this.#roving[side] ? 0 : -1, "aria-label": nameOf(axis, i), style: box(side === "query" ? 1 : 3) }, token);
    const weight = element("span", { class: `attn-weight attn-${side}`, [side === "query" ? "data-weight-from" : "data-weight-for"]: i, "aria-hidden": "true", style: box(side === "query" ? 0 : 4) });
    return { el, chip: token, weight };
  }

  /** Marks tokens and writes weights; only what differs is touched. */
  #mark({ queries, key, row, column }: Focus, carried: Record<Side, ReadonlySet<number>>): void {
    const moment = this.#moment();
    const asked = moment?.token ?? this.#layout.nq;
    const pinned = new Set(pinnedIn(this.#state, asked));
    const there = this.#there("key");
    const tint = tints(paletteAt(this.#el));
    for (const [i, shownRow] of this.#rows.query) {
      const pressed = String(pinned.has(i));
      if (shownRow.el.getAttribute("aria-pressed") !== pressed) shownRow.el.setAttribute("aria-pressed", pressed);
      const time = i === moment?.token ? "now" : i > asked ? "later" : "";
      this.#markRow(shownRow, markOf(column, i, carried.query, pinned.has(i) || queries.includes(i), time), tint);
      if (key === null && this.#leaks) this.#markLeak(shownRow.weight, i, i < asked, queries.includes(i));
    }
    this.#leaves.hidden = !this.#leaks || key !== null;
    for (const [j, shownRow] of this.#rows.key) this.#markRow(shownRow, markOf(row, j, carried.key, j === key, j >= there ? "later" : ""), tint);
  }

  /** Beside a query that gives to no key: how much. */
  #markLeak(weight: HTMLElement, query: number, there: boolean, focused: boolean): void {
    const leak = (there ? this.#at?.map.leak(query) : 0) ?? 0;
    weight.textContent = leak > LEAK ? weightText(leak) : "";
    weight.classList.toggle("attn-strong", focused);
  }

  #markRow({ el, chip: token, weight }: Row, { on, off, time, weight: share, carried }: Mark, tint: (weight: number) => string): void {
    const text = share === null || (!carried && share < 0.005) ? "" : weightText(share);
    if (weight.textContent !== text) weight.textContent = text;
    weight.classList.toggle("attn-strong", carried);
    el.classList.toggle("attn-on", on);
    el.classList.toggle("attn-off", off && time !== "now");
    el.classList.toggle("attn-later", time === "later");
    el.classList.toggle("attn-now", time === "now");
    el.classList.toggle("attn-carried", carried);
    token.style.backgroundColor = carried && share !== null && share > 0 ? tint(share) : "";
  }

  // ── drawing ──

  #drawAll(): void {
    if (this.#at === null || this.#width === 0) return;
    this.#drawHairlines(this.#at.map);
    this.#drawFocus();
    this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
  }

  #pen(canvas: HTMLCanvasElement): { pen: CanvasRenderingContext2D; x0: number; x1: number } {
    const { columns } = this.#layout;
    const { from, to } = this.#window;
    canvas.style.transform = `translate(${columns[2]}px, ${from}px)`;
    const pen = fit(canvas, columns[3] - columns[2], Math.max(1, to - from));
    pen.translate(0, -from);
    return { pen, x0: 2, x1: columns[3] - columns[2] - 2 };
  }

  #edge({ query, key, weight }: Ends): Edge {
    const { nq, nk, row } = this.#layout;
    const to = topOf(this.#layout, key, nk) + row / 2;
    return { from: topOf(this.#layout, query, nq) + row / 2, to, weight, away: to < this.#window.from || to > this.#window.to };
  }

  #carriedBy(map: WeightMap, query: number): Carried {
    const known = this.#kept.get(query);
    if (known !== undefined) return known;
    if (this.#kept.size >= KEPT) this.#kept.clear();
    const made = carriedBy(map.row(query), this.#state.get("threshold"));
    this.#kept.set(query, made);
    return made;
  }

  #drawHairlines(map: WeightMap): void {
    const [first, seen] = rowsBetween(this.#layout, this.#layout.nq, this.#window.from, this.#window.to);
    const asked = this.#moment()?.token ?? map.nq;
    const last = Math.max(first, Math.min(seen, asked));
    const queries = Array.from({ length: last - first }, (_, n) => [first + n, this.#carriedBy(map, first + n)] as const);
    const { edges, count } = strongestEdges(queries, DRAWN);
    const { pen, x0, x1 } = this.#pen(this.#lines);
    hairlines(pen, edges.map((ends) => this.#edge(ends)), x0, x1, paletteAt(this.#el));
    const around = last - first === asked ? "" : `, of the ${counted(last - first, "query token")} around here`;
    this.#edges = map.pooled
      ? "This map is too large to be here whole. Hover a token to see its edges."
      : `${edgesText(edges.length, count, this.#state.get("threshold"))}${around}`;
  }

  #drawFocus(): void {
    if (this.#at === null || this.#width === 0) return;
    const focus = this.#focus.current;
    const share = this.#state.get("threshold");
    const carried = { key: carriedBy(focus.row, share), query: carriedBy(focus.column, share) };
    this.#drawTapers(this.#at.map, focus, carried);
    this.#el.classList.toggle("attn-focused", focus.queries.length > 0 || focus.key !== null);
    this.#mark(focus, { key: new Set(carried.key.keys), query: new Set(carried.query.keys) });
    this.#showBeyond();
    this.#showUnder(focus);
  }

  /** Under the list: what the token in focus is, or how many edges are drawn. */
  #showUnder({ queries, key, error }: Focus): void {
    const query = queries.length === 1 ? queries[0] : focusedQuery(this.#state, this.#moment());
    const under = key !== null ? facts(this.#axes.key, key) : query !== null && query < this.#layout.nq ? facts(this.#axes.query, query) : [this.#edges];
    this.#under.replaceChildren(...(error === null ? under : [error]));
  }

  #drawTapers(map: WeightMap, { queries, key, rows }: Focus, carried: Record<Side, Carried>): void {
    const { pen, x0, x1 } = this.#pen(this.#glow);
    const colour = css(paletteAt(this.#el).accent);
    const draw = (ends: Ends[], alpha: number): void => { tapers(pen, ends.map((one) => this.#edge(one)), x0, x1, colour, alpha); };
    for (const query of pinnedIn(this.#state, this.#moment()?.token ?? map.nq)) if (key !== null || !queries.includes(query)) draw(endsFrom(query, this.#carriedBy(map, query)), 0.3);
    if (key !== null) draw(Array.from(carried.query.keys, (query, n) => ({ query, key, weight: carried.query.weights[n] })), 1);
    else if (queries.length === 1) draw(endsFrom(queries[0], carried.key), 1);
    else rows.forEach((row, n) => { draw(endsOnto(queries[n], row, carried.key.keys), 1); });
  }

  /** Says how much goes to keys above and below what is in view. */
  #showBeyond(): void {
    const { row, column } = this.#focus.current;
    const [cells, side]: [Float32Array | null, Side] = column !== null ? [column, "query"] : [row, "key"];
    const { view, row: tall } = this.#layout;
    const top = this.#list.scrollTop;
    const [first, last] = rowsBetween(this.#layout, this.#length(side), top - tall / 2, top + view - tall / 2);
    this.#tellBeyond(this.#beyond.above, "↑", "above", cells, side, 0, first);
    this.#tellBeyond(this.#beyond.below, "↓", "below", cells, side, last, this.#length(side));
  }

  #tellBeyond(button: HTMLElement, arrow: string, where: string, cells: Float32Array | null, side: Side, from: number, to: number): void {
    let [mass, most] = [0, from];
    for (let i = from; cells !== null && i < to; i++) {
      if (cells[i] > 0) mass += cells[i];
      if (cells[i] > cells[most]) most = i;
    }
    button.hidden = mass < 0.005;
    if (button.hidden) return;
    button.textContent = `${arrow} ${weightText(mass)} ${where}`;
    button.dataset["side"] = side;
    const { columns } = this.#layout;
    button.style.transform = side === "key" ? `translate(calc(${columns[3] - 6}px - 100%))` : `translate(${columns[2] + 6}px)`;
    button.dataset["to"] = String(most);
  }

  // ── pointer and keyboard ──

  #listen(signal: AbortSignal): void {
    const leave = (): void => { this.#pointAt(null); };
    listen(this.#list, { scroll: perFrame(() => { this.#scrolled(); }, signal) }, signal, { passive: true });
    listen(this.#list, {
      pointerover: (event) => { this.#pointAt(event.target); },
      pointerleave: leave,
      focusout: leave,
      focusin: ({ target }) => { if (target instanceof Element && target.matches(":focus-visible")) this.#pointAt(target); },
      click: (event) => {
        const token = tokenAt(event.target);
        if (token?.side === "query") this.#pin(token.i);
      },
      keydown: (event) => { this.#press(event); },
    }, signal);
    for (const button of Object.values(this.#beyond)) {
      listen(button, { click: () => { this.#scrollTo(button.dataset["side"] === "query" ? "query" : "key", Number(button.dataset["to"])); } }, signal);
    }
  }

  #pointAt(target: EventTarget | null): void {
    const token = tokenAt(target);
    point(this.#state, token === null ? null : token.side === "query" ? { query: token.i, key: null } : { query: null, key: token.i });
  }

  #pin(query: number): void {
    if (query < (this.#moment()?.token ?? Infinity)) togglePinned(this.#state, query);
  }

  #press(event: KeyboardEvent): void {
    const token = tokenAt(event.target);
    if (token === null) return;
    const { side, i } = token;
    if (event.key === "Escape") this.#state.set({ pinned: [] });
    else if ((event.key === "Enter" || event.key === " ") && side === "query") this.#pin(i);
    else if (event.key === "ArrowRight" && side === "query") this.#moveTo("key", strongestOf(this.#focus.current.row) ?? Math.min(i, this.#layout.nk - 1));
    else if (event.key === "ArrowLeft" && side === "key") this.#moveTo("query", this.#roving.query);
    else {
      const to = event.key === "ArrowLeft" || event.key === "ArrowRight" ? null : stepped(event.key, i, this.#there(side));
      if (to === null) return;
      this.#moveTo(side, to);
    }
    event.preventDefault();
  }

  #moveTo(side: Side, i: number): void {
    const rows = this.#rows[side];
    const before = rows.get(this.#roving[side]);
    if (before !== undefined) before.el.tabIndex = -1;
    this.#roving[side] = i;
    this.#scrollTo(side, i);
    const row = rows.get(i);
    if (row === undefined) return;
    row.el.tabIndex = 0;
    row.el.focus({ preventScroll: true });
  }
}

function tokenAt(target: EventTarget | null): { side: Side; i: number } | null {
  const el = target instanceof Element ? target.closest<HTMLElement>("[data-query], [data-key]") : null;
  if (el === null) return null;
  const { query, key } = el.dataset;
  return query === undefined ? { side: "key", i: Number(key) } : { side: "query", i: Number(query) };
}

const endsFrom = (query: number, { keys, weights }: Carried): Ends[] => Array.from(keys, (key, n) => ({ query, key, weight: weights[n] }));

/** The edges of one of several pinned queries: to the keys that count in the sum. */
function endsOnto(query: number, row: Float32Array, keys: Uint32Array): Ends[] {
  return Array.from(keys, (key) => ({ query, key, weight: row[key] })).filter(({ weight }) => weight > 0.002);
}

function markOf(cells: Float32Array | null, i: number, carried: ReadonlySet<number>, on: boolean, time: Mark["time"]): Mark {
  if (cells === null) return { on, off: false, time, weight: null, carried: false };
  const cell = cells[i];
  const coded = cell === MASKED || cell === PADDED;
  return { on, off: coded, time, weight: coded ? null : cell, carried: carried.has(i) || Number.isNaN(cell) };
}

function strongestOf(row: Float32Array | null): number | null {
  return row === null ? null : (strongest(row, 1, 1).indices.at(0) ?? null);
}

/** "53 edges that carry 90 %", "the strongest 2 000 of 6 412 edges that carry 90 %". */
function edgesText(drawn: number, count: number, share: number): string {
  const which = drawn < count ? `the strongest ${thousands(drawn)} of ${counted(count, "edge")}` : counted(count, "edge");
  return share === 1 ? which : `${which}${drawn < count ? " that" : ""} carry ${Math.round(share * 100)} %`;
}
