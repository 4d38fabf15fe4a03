/**
 * The map itself: a cell for every query and key where the screen has the pixels, the strongest of each block where not.
 * One can look closer: what is in sight is computed, and nothing else is.
 */

import { boundOf, element, Names, weightText } from "../a11y.ts";
import { groupsAround, Labels } from "../axes.ts";
import type { Pointed } from "../bars.ts";
import { Bars } from "../bars.ts";
import { leaks } from "../carried.ts";
import { fit, paintOf, perFrame, pixelRatio, watchWidth } from "../draw.ts";
import type { Paint } from "../draw.ts";
import type { Effects } from "../effects.ts";
import { signedText } from "../effects.ts";
import { focusOf, pinnedIn, point, togglePinned } from "../focus.ts";
import type { Focusing } from "../focus.ts";
import { gestures } from "../gestures.ts";
import { cellText, drawAside, drawFrames, drawNumbers, drawSmall, inSight, signsIn, storedBlock, strongestIn } from "../ink.ts";
import { Card, effectLegend, laneOf, legend, Ruler } from "../label.ts";
import type { Margins } from "../margins.ts";
import { entropyOf, margins, QUICK, receivedIn, THOROUGH, without } from "../margins.ts";
import type { Region, WeightMap } from "../math.ts";
import { Pictures } from "../pictures.ts";
import type { Side } from "../layout.ts";
import { edgeOf, LARGEST, layOut, TITLES, within } from "../plan.ts";
import type { Layout } from "../plan.ts";
import { cardOf, noteOf, sharesOf, signsOf } from "../said.ts";
import type { Here } from "../said.ts";
import type { Moment, Shown, State, ViewContext } from "../state.ts";
import { axesNow, effectsIn, focusedQuery, momentOf, placeOf, shown } from "../state.ts";
import { onDress, paletteAt } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { atEnd, chorded, listen } from "../until.ts";
import type { Sight } from "../window.ts";
import { isWhole, moved, placeAt, resumed, revealing, seen, snapped, spanOf, stride, zoomed } from "../window.ts";
import type { Axis } from "../wire.ts";

export function heatmap(context: ViewContext): void {
  new HeatMap(context);
}

const NOWHERE: Layout = layOut(1, 1, 100, { query: 0, key: 0, lanes: [0, 0], bars: false, leaks: false }, 1);
const ZOOMS: Readonly<Record<string, number>> = { "+": 2, "=": 2, "-": 0.5, "−": 0.5, _: 0.5 };

class HeatMap {
  readonly #el: HTMLElement;
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #focus: Focusing;

  readonly #out = button("−", "Zoom out");
  readonly #in = button("+", "Zoom in");
  readonly #fit = button("fit", "Fit the whole map");
  readonly #zoom = element("div", { class: "attn-segmented", role: "group", "aria-label": "Zoom" }, this.#out, this.#in, this.#fit);
  readonly #setAside = button("sinks aside", "Sinks aside: leave the keys that take most of the weight out of the colour range");
  readonly #sinksText = element("span", { class: "attn-quiet" });
  readonly #sinks = element("span", { class: "attn-control" }, element("span", { class: "attn-segmented" }, this.#setAside), this.#sinksText);

  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #over = element("canvas", { "aria-hidden": "true" });
  readonly #cursor = element("div", { role: "gridcell", id: `attn-cell-${Math.random().toString(36).slice(2)}` });
  readonly #grid = element("div", {
    class: "attn-map", role: "grid", tabindex: 0, "aria-label": "Weights, queries by keys", "aria-keyshortcuts": "+ - 0", "aria-activedescendant": this.#cursor.id,
  }, this.#canvas, this.#over, element("div", { role: "row" }, this.#cursor));
  readonly #groups = element("div");
  readonly #titles = element("div", { class: "attn-titles attn-quiet" }, element("span", {}, "query ↓"), element("span", {}, "key →"));
  readonly #labels: Readonly<Record<Side, Labels>> = { query: new Labels("query"), key: new Labels("key") };
  readonly #bars = new Bars();
  readonly #small = element("canvas", { class: "attn-small", "aria-hidden": "true" });
  readonly #stage = element("div", { class: "attn-stage" }, this.#grid, this.#groups, this.#titles, this.#small, this.#bars.el, this.#labels.query.el, this.#labels.key.el);
  readonly #legend = element("div");
  readonly #note = element("p", { class: "attn-quiet attn-note" });
  readonly #foot = element("div", {}, this.#legend, this.#note);
  readonly #card = new Card(this.#stage);
  readonly #moving: { readonly dragging: boolean };

  #width = 0;
  #whole = NOWHERE; // where things are when all of the map is in sight
  #now = NOWHERE; // and as it is
  #closeness = 1; // the screen's pixels per place that are wanted; what is shown is rounded
  #at: Shown | null = null;
  #leaks = false;
  #axes!: Record<Side, Axis>;
  #names!: Record<"queries" | "keys", Names>;
  readonly #pictures: Pictures;
  #measuring = new AbortController();
  #margins: Margins | null = null;
  #measured = -1; // how many rows of this map, if only by now
  #sinkKeys: readonly number[] | null = null; // `null`: nobody has looked yet
  #most = 1; // the weight at the end of the ramp
  #here: Here | null = null;
  #pointer: { clientX: number; clientY: number } | null = null; // `null` also while the keyboard leads
  #labelled = false; // whether the labels are those of what is in sight

  readonly #redraw: () => void;

  constructor(context: ViewContext) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#focus = focusOf(context);
    this.#redraw = perFrame(() => { this.#draw(); }, signal);
    this.#pictures = new Pictures(this.#redraw);
    el.classList.add("attn-heatmap");
    el.append(element("div", { class: "attn-options" }, this.#zoom, this.#sinks), this.#stage, this.#foot);
    this.#moving = gestures(this.#grid, {
      zoom: (factor, x, y) => { this.#zoomBy(factor, x, y); },
      pan: (dx, dy) => {
        const { rows, cols } = this.#now;
        this.#look(moved(rows, placeAt(rows, -dy * pixelRatio())), moved(cols, placeAt(cols, -dx * pixelRatio())));
      },
      movable: () => this.#closer(),
    }, signal);

    watchWidth(el, (width) => { this.#width = width; this.#arrange(); }, signal);
    state.on("map", () => { this.#load(); }, signal);
    state.on("scale", () => { this.#repaint(); }, signal);
    state.on("sinks", () => { this.#showSinks(); this.#compute(); }, signal);
    state.on(["pinned", "step"], () => { this.#labelled = false; this.#redraw(); }, signal);
    state.on("step", () => { this.#measure(); }, signal);
    state.on(["query", "step"], () => { this.#reveal(); }, signal);
    this.#focus.on(perFrame(() => { this.#showFocus(); }, signal), signal);
    onDress(el, () => { this.#repaint(); }, signal);
    atEnd(signal, () => { this.#pictures.stop(); this.#measuring.abort(); this.#at = null; });
    this.#listen(signal);
    this.#load();
  }

  // ── what is shown ──

  #load(): void {
    const { queries, keys } = axesNow(this.#state, this.#tiles);
    this.#axes = { query: queries, key: keys };
    this.#names = { queries: new Names(queries.labels), keys: new Names(keys.labels) };
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    this.#at = at;
    const { map } = at;
    this.#leaks = leaks(map);
    this.#here = this.#margins = this.#sinkKeys = null;
    this.#measured = -1;
    this.#measuring.abort();
    this.#showSinks();
    this.#arrange();
  }

  get #moment(): Moment | null { return momentOf(this.#state, this.#axes.query); }

  /** Queries that there are by now. */
  get #there(): number { return this.#moment?.token ?? this.#now.rows.n; }

  /** Whether rows share something out: not those of differences, nor of the largest of several heads. */
  get #spreads(): boolean { return this.#at !== null && !this.#at.map.signed && boundOf(this.#at.selection) === ""; }

  #arrange(): void {
    const at = this.#at;
    if (at === null || this.#width === 0 || at.map.nq === 0 || at.map.nk === 0) return;
    const { nq, nk, pooled } = at.map;
    const { query, key } = this.#axes;
    const ruler = new Ruler(this.#el);
    const around = { query: ruler.widest(query, 150), key: ruler.widest(key, 150), lanes: [laneOf(query), laneOf(key)], bars: !pooled, leaks: this.#leaks } as const;
    const whole = (this.#whole = layOut(nq, nk, this.#width, around, pixelRatio()));
    const { rows, cols, left, top, width, height, right, gaps } = whole;
    this.#now = { ...whole, rows: resumed(rows, this.#now.rows), cols: resumed(cols, this.#now.cols) };
    if (!this.#closer()) this.#closeness = this.#least;
    this.#stage.style.width = this.#foot.style.width = `${Math.min(this.#width, left + width + right)}px`;
    this.#stage.style.height = `${top + height + 4}px`;
    Object.assign(this.#grid.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    Object.assign(this.#titles.style, { width: `${left - 8}px`, top: `${top - gaps[1] - TITLES}px` });
    this.#grid.ariaRowCount = String(nq);
    this.#grid.ariaColCount = String(nk);
    this.#labelled = false;
    this.#compute();
  }

  get #effects(): Effects | null { return effectsIn(this.#at); }

  /** Whether keys that take most count as others do: what they do to the objective does, in any case. */
  get #sinksCount(): boolean { return this.#state.get("sinks") || this.#effects !== null; }

  /** The keys that are set aside. */
  get #aside(): readonly number[] { return this.#sinksCount ? [] : (this.#sinkKeys ?? []); }

  get #paint(): Paint { return paintOf(paletteAt(this.#el), this.#state.get("scale"), this.#at?.map.signed === true || this.#effects !== null, this.#most); }

  /** The picture of the whole map, then its margins; sinks that are to be set aside have to be known first. */
  #compute(): void {
    const at = this.#at;
    if (at === null || this.#width === 0) return;
    if (!this.#sinksCount && this.#sinkKeys === null && !at.map.pooled) return this.#measure();
    const aside = this.#aside;
    unlessOvertaken(this.#pictures.show(at, this.#effects?.map ?? without(at.map, aside), this.#whole.rows, this.#whole.cols, this.#paint).then(({ cells }) => {
      this.#most = (aside.length > 0 && signsIn(cells).most) || 1;
      this.#repaint();
      this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
      requestAnimationFrame(() => setTimeout(() => { if (this.#at === at) this.#measure(); })); // once the picture is seen
    }));
  }

  /** The margins, which need all weights of a row: roughly, which is enough to know the sinks, then thoroughly. */
  #measure(): void {
    const at = this.#at;
    if (at === null || at.map.pooled || this.#measured === this.#there) return;
    const rows = (this.#measured = this.#there);
    this.#measuring.abort();
    const { signal } = (this.#measuring = new AbortController());
    const measure = async (budget: number): Promise<void> => {
      const found = (this.#margins = await margins(at.map, { rows, budget, signal }));
      const first = this.#sinkKeys === null;
      this.#sinkKeys ??= found.sinks;
      this.#showSinks();
      this.#redraw();
      if (first && !this.#sinksCount) this.#compute();
      if (found.sampled && budget < THOROUGH) await measure(THOROUGH);
    };
    unlessOvertaken(measure(QUICK));
  }

  #repaint(): void {
    const cells = this.#pictures.whole?.cells;
    if (cells === undefined) return;
    this.#pictures.repaint(this.#paint);
    if (cells.done === cells.rows) this.#showLegend(signsIn(cells.cells));
  }

  // ── the window ──

  /** Pixels per place when all of the map is in sight. */
  get #least(): number { return Math.min(this.#whole.rows.pitch, this.#whole.cols.pitch); }

  get #closest(): number { return Math.max(this.#least, Math.round(LARGEST * pixelRatio())); }

  /** Whether less than all is in sight. */
  #closer(): boolean {
    return !isWhole(this.#now.rows) || !isWhole(this.#now.cols);
  }

  /** Zooms so that the point (x, y) of the map stays: by default what the keyboard or the pointer was last at, else the middle. */
  #zoomBy(factor: number, x?: number, y?: number): void {
    const { rows, cols, width, height } = this.#now;
    this.#closeness = Math.min(this.#closest, Math.max(this.#least, this.#closeness * factor));
    const to = (sight: Sight, at: number): Sight => zoomed(sight, snapped(this.#closeness), at * pixelRatio());
    const here = this.#here;
    this.#look(to(rows, y ?? (here === null ? height / 2 : within(rows, here.query + 0.5))), to(cols, x ?? (here === null ? width / 2 : within(cols, here.key + 0.5))));
  }

  #look(rows: Sight, cols: Sight): void {
    this.#now = { ...this.#now, rows, cols };
    if (this.#here !== null) this.#here = { ...this.#here, block: cellOf(this.#here) };
    this.#labelled = false;
    this.#redraw();
  }

  /** Brings what Python asked for, or the token that is being produced, into sight. */
  #reveal(): void {
    const asked = this.#state.get("query");
    const place = this.#moment?.token ?? (asked === null ? null : placeOf(this.#state, asked));
    const { rows, cols } = this.#now;
    if (place !== null && this.#state.get("hover") === null && place < rows.n) this.#look(revealing(rows, place), cols);
  }

  // ── drawing ──

  #draw(): void {
    const [at, whole, now] = [this.#at, this.#pictures.whole, this.#now];
    if (at === null || whole === null) return;
    const { map } = at;
    this.#pictures.sharpen(now.rows, now.cols);
    const palette = paletteAt(this.#el);
    const pen = fit(this.#canvas, now.width, now.height);
    this.#pictures.draw(pen, now.rows, now.cols, palette);
    drawAside(pen, now, this.#aside, palette);
    const effects = this.#effects;
    const read = effects?.map ?? (map.pooled ? this.#pictures.exactly(inSight(now)) : map);
    drawNumbers(pen, now, read, this.#paint, this.#aside, palette.ink, (cell) => (effects === null ? cellText(cell, map.signed) : Math.abs(cell) < 0.002 ? "·" : signedText(cell * effects.largest)));
    this.#bars.draw({ at: now, map, margins: this.#margins, spread: this.#spreads, leaks: this.#leaks, aside: this.#aside, palette });
    this.#small.hidden = !this.#closer();
    if (this.#closer()) drawSmall(this.#small, whole.image.canvas, now, palette);
    this.#showWindow(effects?.map ?? map);
    if (this.#pointer !== null && this.#pictures.settled) this.#pointAt(this.#pointer); // what is under it may be another weight now
    this.#showFocus();
  }

  /** What follows from where one looks: labels, groups, buttons, and what is said under the map. */
  #showWindow(map: WeightMap): void {
    const now = this.#now;
    const { query, key } = this.#axes;
    const { r0, r1, c0, c1 } = inSight(now);
    const closer = this.#closer();
    if (!this.#labelled) {
      this.#labelled = true;
      const moment = this.#moment;
      this.#labels.query.show(query, now, pinnedIn(this.#state, this.#there), moment);
      this.#labels.key.show(key, now, [], query === key ? moment : null);
      this.#groups.replaceChildren(...groupsAround(query, key, now));
      this.#grid.classList.toggle("attn-closer", closer);
      this.#zoom.hidden = this.#closest <= this.#least;
      this.#out.ariaDisabled = this.#fit.ariaDisabled = String(!closer);
      this.#in.ariaDisabled = String(this.#closeness >= this.#closest);
      this.#grid.dataset["window"] = `${r0}:${r1},${c0}:${c1}`;
    }
    this.#grid.dataset["sharp"] = String(this.#pictures.settled);
    const said = noteOf(map, now, this.#pictures);
    if (this.#note.textContent !== said) this.#note.textContent = said;
  }

  #showLegend(signs: ReturnType<typeof signsIn>): void {
    const [scale, aside] = [this.#state.get("scale"), this.#aside.length > 0];
    const shade = this.#at?.map.signed === true ? "difference" : scale;
    const [palette, also, effects] = [paletteAt(this.#el), signsOf(signs, aside, this.#compared), this.#effects];
    this.#legend.replaceChildren(effects !== null ? effectLegend(palette, effects, also) : legend(palette, shade, also, aside && scale !== "uniform" ? { high: weightText(this.#most) } : {}));
    this.#legend.dataset["most"] = String(this.#most);
  }

  get #compared(): boolean { return this.#tiles.meta.sides !== null; }

  /** Which keys take most, if any do, and whether they are set aside. */
  #showSinks(): void {
    const keys = this.#sinkKeys ?? [];
    this.#sinks.hidden = keys.length === 0 || this.#effects !== null;
    this.#setAside.ariaPressed = String(!this.#state.get("sinks"));
    this.#sinksText.dataset["sinks"] = keys.join(" ");
    this.#sinksText.replaceChildren(...sharesOf(keys, this.#names.keys, this.#margins?.received));
  }

  // ── focus ──

  #showFocus(): void {
    const at = this.#at;
    if (at === null || this.#pictures.whole === null) return;
    const hover = this.#state.get("hover");
    const { queries, key } = this.#focus.current;
    const moment = this.#moment;
    const query = focusedQuery(this.#state, moment);
    this.#labels.query.mark(query === moment?.query ? null : query);
    this.#labels.key.mark(key);
    drawFrames(this.#over, this.#now, new Set([...queries, ...pinnedIn(this.#state, this.#there)]), key, moment?.token ?? null, paletteAt(this.#el));
    this.#bars.point(...this.#pointed, at.map.signed, this.#now);
    if (this.#here !== null && hover?.query === this.#here.query && hover.key === this.#here.key) this.#showCard(at, this.#here);
    else this.#card.hide();
  }

  /** What the margins have for the focus, exactly. */
  get #pointed(): [key: Pointed | null, query: Pointed | null] {
    const { queries, rows, key, column } = this.#focus.current;
    return [key === null || column === null ? null : { at: key, value: receivedIn(column) }, queries.length === 1 && rows.length === 1 ? { at: queries[0], value: entropyOf(rows[0]) } : null];
  }

  #showCard({ map, selection }: Shown, here: Here): void {
    const { query, key, block } = here;
    const content = cardOf(map, here, this.#cellAt(map, here), {
      names: { ...this.#names, bound: boundOf(selection), signed: map.signed }, lifted: this.#state.get("scale") === "uniform", compared: this.#compared, exact: this.#pictures.exactly(block) !== null, effects: this.#effects,
    });
    const { rows, cols, left, top } = this.#now;
    this.#card.show(content, left + edgeOf(cols, key + 0.5), top + edgeOf(rows, query + 0.5));
    const [received, spread] = this.#pointed;
    const said = content.map(({ textContent }) => textContent);
    if (received !== null && !map.pooled) said.push(`key receives ${weightText(received.value)} on average`);
    if (spread !== null && this.#spreads && !map.pooled) said.push(`entropy of the query ${spread.value.toFixed(2)}`);
    this.#cursor.textContent = said.join(", ");
    this.#cursor.ariaRowIndex = String(query + 1);
    this.#cursor.ariaColIndex = String(key + 1);
  }

  /** The weight of a cell, exactly; `null` while a pooled map's row is not here. */
  #cellAt(map: WeightMap, { query, key }: Here): number | null {
    const read = map.pooled ? this.#effects === null ? this.#pictures.exactly(cellOf({ query, key })) : null : map;
    if (read !== null) return read.tile(query, query + 1, key, key + 1)[0];
    const { row, queries } = this.#focus.current;
    return (queries.length === 1 && queries[0] === query ? row?.[key] : undefined) ?? null;
  }

  // ── pointer and keyboard ──

  #listen(signal: AbortSignal): void {
    const leave = (): void => { this.#leave(); };
    listen(this.#grid, {
      pointermove: (event) => { this.#pointAt(event); },
      pointerdown: (event) => { this.#pointAt(event); },
      pointerleave: ({ pointerType }) => { if (pointerType !== "touch") leave(); }, // what a finger tapped stays
      focusout: leave,
      click: () => { if (this.#here !== null) togglePinned(this.#state, this.#here.query); },
      keydown: (event) => { this.#press(event); },
    }, signal);
    for (const side of ["query", "key"] as const) {
      const labelled = ({ target }: Event): number => Number((target as Element).closest<HTMLElement>(`[data-${side}]`)?.dataset[side]); // NaN beside them
      listen(this.#labels[side].el, {
        pointerover: (event) => {
          this.#here = null;
          const at = labelled(event);
          if (at >= 0) point(this.#state, { query: null, key: null, [side]: at });
        },
        pointerleave: leave,
        click: (event) => { if (side === "query" && labelled(event) < this.#there) togglePinned(this.#state, labelled(event)); },
      }, signal);
    }
    for (const [pressed, factor] of [[this.#in, 2], [this.#out, 0.5], [this.#fit, 0]] as const) listen(pressed, { click: () => { this.#zoomBy(factor); } }, signal);
    listen(this.#setAside, { click: () => { this.#state.set({ sinks: !this.#state.get("sinks") }); } }, signal);
  }

  #leave(): void {
    this.#here = this.#pointer = null;
    point(this.#state, null);
  }

  #pointAt({ clientX, clientY }: { clientX: number; clientY: number }): void {
    this.#pointer = { clientX, clientY };
    if (this.#moving.dragging) return;
    const box = this.#grid.getBoundingClientRect();
    const under = this.#pictures.under(this.#now.rows, this.#now.cols, (clientY - box.top) * pixelRatio(), (clientX - box.left) * pixelRatio());
    if (under === null) return;
    const { block, map } = under;
    this.#go(map.pooled ? { query: block.r0, key: block.c0, block: storedBlock(map, block) } : { ...strongestIn(map, block), block });
  }

  #go(to: Here): void {
    if (to.query >= this.#there) return this.#leave();
    const before = this.#here;
    this.#here = to;
    if (before?.query !== to.query || before.key !== to.key) point(this.#state, { query: to.query, key: to.key });
  }

  #press(event: KeyboardEvent): void {
    if (event.key === "Home" || event.key === "End" ? event.altKey : chorded(event)) return;
    const { rows, cols } = this.#now;
    const there = Math.max(1, this.#there);
    const { query, key } = this.#here ?? { query: seen(rows)[0], key: seen(cols)[0] };
    const page = Math.max(1, Math.min(this.#closer() ? Infinity : 10, Math.floor(spanOf(rows)) - 1));
    const all = event.ctrlKey || event.metaKey ? there : 0;
    const [down, across] = stride(event.key, page, all, cols.n);
    if (down !== 0 || across !== 0) {
      const first = this.#here === null ? 0 : 1;
      const bound = (at: number, n: number): number => Math.min(n - 1, Math.max(0, at));
      const to = { query: bound(query + first * down, there), key: bound(key + first * across, cols.n) };
      this.#pointer = null;
      this.#go({ ...to, block: cellOf(to) });
      this.#look(revealing(rows, to.query), revealing(cols, to.key));
    } else if (event.key in ZOOMS) this.#zoomBy(ZOOMS[event.key]);
    else if (event.key === "0") this.#zoomBy(0);
    else if (event.key === "Enter" || event.key === " ") togglePinned(this.#state, query);
    else if (event.key === "Escape") this.#state.set({ pinned: [] });
    else return;
    event.preventDefault();
  }
}

const button = (text: string, name: string): HTMLButtonElement => element("button", { type: "button", title: name, "aria-label": name }, text);

/** Lets work go that something newer has overtaken. */
function unlessOvertaken(work: Promise<unknown>): void {
  work.catch((error: unknown) => {
    if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
  });
}

const cellOf = ({ query, key }: { query: number; key: number }): Region => ({ r0: query, r1: query + 1, c0: key, c1: key + 1 });
