/** The map itself: a cell for every query and key where the screen has the pixels, the strongest of each block where not. */

import { boundOf, cellSentence, counted, element, Names, spelled, weightText } from "../a11y.ts";
import { CellImage, cross, fit, hatch, paintOf, perFrame, pixelRatio, watchWidth } from "../draw.ts";
import { axesOf, focusOf, pinnedIn, point, togglePinned } from "../focus.ts";
import type { Focusing } from "../focus.ts";
import { boundaries, brackets, Card, chip, LANE, laneOf, legend, nameOf, Ruler } from "../label.ts";
import type { Overview, WeightMap } from "../math.ts";
import { binStart, MASKED, overview, PADDED } from "../math.ts";
import type { Moment, Shown, State, ViewContext } from "../state.ts";
import { focusedQuery, momentOf, shown } from "../state.ts";
import type { Palette } from "../theme.ts";
import { css, onDress, paletteAt, ramp } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { atEnd, listen } from "../until.ts";
import type { Axis } from "../wire.ts";

// ── where things are ────────────────────────────────────────────────────────────────────────────────────────────────

interface Layout {
  nq: number;
  nk: number;
  /** Cells on screen: one per weight, or one per block of weights. */
  rows: number;
  cols: number;
  /** Side of a cell in CSS pixels; a whole number of the screen's pixels. */
  cell: number;
  left: number;
  right: number;
  top: number;
  width: number;
  height: number;
  /** Between the labels and the cells: for the queries, and for the keys. */
  gaps: readonly [left: number, top: number];
}

const TALLEST = 620;
const LARGEST = 34; // pixels
const SLANT = { rise: 0.82, run: 0.58 }; // of the key labels, which lean to the right
const STRIP = 28; // width of the strip of what leaves
const STRIP_GAP = 8;

export function layOut(nq: number, nk: number, width: number, widestQuery: number, widestKey: number, ratio: number, lanes: readonly [number, number] = [0, 0]): Layout {
  const gaps = [6 + lanes[0], 6 + lanes[1]] as const;
  const left = Math.ceil(Math.min(widestQuery + 12 + gaps[0], width * 0.3));
  const keyLabel = Math.min(widestKey, 110);
  const top = Math.ceil(keyLabel * SLANT.rise + 10 + gaps[1]);
  const right = Math.max(STRIP + STRIP_GAP + 8, Math.ceil(keyLabel * SLANT.run));
  const [across, down] = [Math.max(40, width - left - right) * ratio, TALLEST * ratio];
  const fits = Math.floor(Math.min(across / nk, down / nq, LARGEST * ratio));
  const block = fits >= 1 ? 1 : Math.ceil(Math.max(nk / across, nq / down));
  const cell = Math.max(1, fits) / ratio;
  const [rows, cols] = [Math.ceil(nq / block), Math.ceil(nk / block)];
  return { nq, nk, rows, cols, cell, left, right, top, width: cols * cell, height: rows * cell, gaps };
}

interface Block {
  r0: number;
  r1: number;
  c0: number;
  c1: number;
}

/** The weights behind cell (row, col) of the screen. */
const blockAt = ({ nq, nk, rows, cols }: Layout, row: number, col: number): Block => ({
  r0: binStart(row, nq, rows), r1: binStart(row + 1, nq, rows), c0: binStart(col, nk, cols), c1: binStart(col + 1, nk, cols),
});

/** The cell of the screen that holds index `i` of `n`, when `bins` cells share them. */
function binOf(i: number, n: number, bins: number): number {
  let bin = Math.min(bins - 1, Math.floor((i * bins) / n));
  while (bin + 1 < bins && binStart(bin + 1, n, bins) <= i) bin++;
  return bin;
}

/** The strongest weight of a block; where there is none, its first cell. */
function strongestIn(map: WeightMap, { r0, r1, c0, c1 }: Block): { query: number; key: number } {
  const cells = map.tile(r0, r1, c0, c1);
  let most = 0;
  for (let at = 1; at < (r1 - r0) * (c1 - c0); at++) if (cells[at] > cells[most]) most = at;
  return { query: r0 + Math.floor(most / (c1 - c0)), key: c0 + (most % (c1 - c0)) };
}

interface Signs {
  masked: boolean;
  padded: boolean;
  nan: boolean;
}

function signsIn(cells: Float32Array): Signs {
  const signs = { masked: false, padded: false, nan: false };
  for (const cell of cells) {
    if (cell >= 0) continue;
    if (cell === MASKED) signs.masked = true;
    else if (cell === PADDED) signs.padded = true;
    else signs.nan = true;
  }
  return signs;
}

// ── the view ────────────────────────────────────────────────────────────────────────────────────────────────────────

export function heatmap(context: ViewContext): void {
  new HeatMap(context);
}

type Side = "query" | "key";

const LABEL = 13; // height of a label
const ROOM = { beside: 13, apart: 28 }; // pixels for a label where all have room, and where only some do
const LEAK = 1e-3;

class HeatMap {
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #focus: Focusing;
  readonly #el: HTMLElement;

  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #over = element("canvas", { "aria-hidden": "true" });
  readonly #cursor = element("div", { role: "gridcell", id: `attn-cell-${Math.random().toString(36).slice(2)}` });
  readonly #grid = element("div", { class: "attn-map", role: "grid", tabindex: 0, "aria-label": "Weights, queries by keys" }, this.#canvas, this.#over, element("div", { role: "row" }, this.#cursor));
  readonly #groups = element("div");
  readonly #labels: Record<Side, HTMLElement> = { query: element("div"), key: element("div") };
  readonly #markers: Record<Side, HTMLElement> = {
    query: element("div", { class: "attn-token attn-query attn-marker", "aria-hidden": "true" }),
    key: element("div", { class: "attn-token attn-key attn-slanted attn-marker", "aria-hidden": "true" }),
  };
  readonly #strip = element("canvas", { class: "attn-strip", "aria-hidden": "true" });
  readonly #stripName = element("span", { class: "attn-quiet attn-strip-name" }, "leaves");
  readonly #stage = element("div", { class: "attn-stage" }, this.#grid, this.#groups, this.#labels.query, this.#labels.key, this.#markers.query, this.#markers.key, this.#strip, this.#stripName);
  readonly #foot = element("div");
  readonly #card: Card;

  #width = 0;
  #layout: Layout = layOut(1, 1, 100, 0, 0, 1);
  #at: Shown | null = null;
  #axes: Record<Side, Axis>;
  #names: Record<"queries" | "keys", Names>;
  #pooled: Overview | null = null;
  #image: CellImage | null = null;
  #pooling = new AbortController();
  #here: { query: number; key: number; block: number } | null = null; // under the pointer, or the keyboard

  constructor(context: ViewContext) {
    const { el, state, tiles, signal } = context;
    this.#el = el;
    this.#state = state;
    this.#tiles = tiles;
    this.#focus = focusOf(context);
    [this.#axes, this.#names] = this.#axesOf(state.get("part"));
    el.classList.add("attn-heatmap");
    el.append(this.#stage, this.#foot);
    this.#grid.setAttribute("aria-activedescendant", this.#cursor.id);
    this.#card = new Card(this.#stage);

    const refocus = perFrame(() => { this.#showFocus(); }, signal);
    watchWidth(el, (width) => { this.#width = width; this.#arrange(); }, signal);
    state.on("map", () => { this.#load(); }, signal);
    state.on("scale", () => { this.#repaint(); }, signal);
    state.on(["pinned", "step"], () => { this.#makeLabels(); refocus(); }, signal);
    this.#focus.on(refocus, signal);
    onDress(el, () => { this.#repaint(); }, signal);
    atEnd(signal, () => { this.#pooling.abort(); });
    this.#listen(signal);
    this.#load();
  }

  // ── what is shown ──

  #axesOf(name: string): [Record<Side, Axis>, Record<"queries" | "keys", Names>] {
    const { queries, keys } = axesOf(this.#tiles.meta, name);
    return [{ query: queries, key: keys }, { queries: new Names(queries.labels), keys: new Names(keys.labels) }];
  }

  #moment(): Moment | null {
    return momentOf(this.#state, this.#axes.query);
  }

  #load(): void {
    const at = shown(this.#state);
    if (at === null || at === this.#at) return;
    this.#at = at;
    [this.#axes, this.#names] = this.#axesOf(at.selection.part);
    this.#here = null;
    this.#card.hide();
    this.#arrange();
  }

  #arrange(): void {
    const at = this.#at;
    if (at === null || this.#width === 0 || at.map.nq === 0 || at.map.nk === 0) return;
    const ruler = new Ruler(this.#el);
    const { query, key } = this.#axes;
    const lanes = [laneOf(query), laneOf(key)] as const;
    const layout = (this.#layout = layOut(at.map.nq, at.map.nk, this.#width, ruler.widest(query, 150), ruler.widest(key, 150), pixelRatio(), lanes));
    this.#stage.style.width = this.#foot.style.width = `${Math.min(this.#width, layout.left + layout.width + layout.right)}px`;
    this.#stage.style.height = `${layout.top + layout.height + 4}px`;
    Object.assign(this.#grid.style, { left: `${layout.left}px`, top: `${layout.top}px`, width: `${layout.width}px`, height: `${layout.height}px` });
    this.#grid.setAttribute("aria-rowcount", String(layout.nq));
    this.#grid.setAttribute("aria-colcount", String(layout.nk));
    this.#makeLabels();
    this.#showGroups();
    void this.#pool(at.map);
  }

  async #pool(map: WeightMap): Promise<void> {
    this.#pooling.abort();
    const own = (this.#pooling = new AbortController()).signal;
    const { rows, cols } = this.#layout;
    const image = new CellImage(rows, cols);
    let painted = 0;
    try {
      const whole = await overview(map, rows, cols, {
        signal: own,
        onBand: (band) => {
          this.#image = image;
          this.#pooled = band;
          this.#paintRows(painted, band.done);
          painted = band.done;
          this.#draw();
        },
      });
      if (own.aborted) return;
      this.#showFoot(signsIn(whole.cells), whole.sampled);
      this.#showFocus();
      this.#el.dispatchEvent(new Event("attn-drawn", { bubbles: true }));
    } catch (error) {
      if (!own.aborted) throw error;
    }
  }

  #repaint(): void {
    if (this.#pooled === null) return;
    this.#paintRows(0, this.#pooled.done);
    this.#draw();
    this.#showFoot(signsIn(this.#pooled.cells), this.#pooled.sampled);
    this.#showFocus();
  }

  #paintRows(from: number, to: number): void {
    const [map, pooled, image] = [this.#at?.map, this.#pooled, this.#image];
    if (map === undefined || pooled === null || image === null) return;
    const [scale, palette] = [this.#state.get("scale"), paletteAt(this.#el)];
    image.paint(pooled.cells, from, to, paintOf(palette, scale, ramp(palette, scale)), (row) => map.allowed(binStart(row, this.#layout.nq, pooled.rows)));
  }

  #draw(): void {
    const [pooled, image] = [this.#pooled, this.#image];
    if (pooled === null || image === null) return;
    const { width, height, cell } = this.#layout;
    const palette = paletteAt(this.#el);
    const pen = fit(this.#canvas, width, height);
    pen.fillStyle = hatch(pen, css(palette.soft, 0.45));
    pen.fillRect(0, 0, width, pooled.done * cell);
    pen.imageSmoothingEnabled = false;
    if (pooled.done > 0) pen.drawImage(image.canvas, 0, 0, pooled.cols, pooled.done, 0, 0, width, pooled.done * cell);
    this.#drawNaN(pen, pooled, palette);
    this.#drawStrip(palette);
  }

  #drawNaN(pen: CanvasRenderingContext2D, { cells, cols, done }: Overview, palette: Palette): void {
    const { cell } = this.#layout;
    if (cell < 5) return;
    pen.beginPath();
    for (let at = 0; at < done * cols; at++) {
      if (!Number.isNaN(cells[at])) continue;
      const [x, y] = [(at % cols) * cell, Math.floor(at / cols) * cell];
      pen.fillStyle = css(palette.ground);
      pen.fillRect(x, y, cell, cell);
      cross(pen, x + cell / 2, y + cell / 2, cell);
    }
    pen.strokeStyle = css(palette.accent);
    pen.lineWidth = Math.min(2, cell / 6);
    pen.stroke();
  }

  /** The share of each row that goes to no key, beside the map, when there is any. */
  #drawStrip(palette: Palette): void {
    const map = this.#at?.map;
    const { rows, nq, left, top, width, height, cell } = this.#layout;
    const leaks = Array.from({ length: rows }, (_, row) => map?.leak(binStart(row, nq, rows)) ?? 0);
    this.#strip.hidden = this.#stripName.hidden = !leaks.some((leak) => leak > LEAK);
    if (this.#strip.hidden) return;
    const x = left + width + STRIP_GAP;
    this.#strip.style.transform = `translate(${x}px, ${top}px)`;
    this.#stripName.style.transform = `translate(${x - 4}px, ${top - 20}px)`;
    const pen = fit(this.#strip, STRIP, height);
    const bars = [palette.soft, palette.panel] as const;
    pen.fillStyle = css(bars[1]);
    pen.fillRect(0, 0, STRIP, height);
    pen.fillStyle = css(bars[0]);
    leaks.forEach((leak, row) => { pen.fillRect(0, row * cell, STRIP * leak, Math.max(cell - (cell > 4 ? 1 : 0), 0.5)); });
  }

  #showFoot({ masked, padded, nan }: Signs, sampled: boolean): void {
    const sign = (name: string, text: string): HTMLElement => element("span", { class: "attn-sign" }, element("i", { class: name }), text);
    const { rows, nq, nk, cols } = this.#layout;
    const also = [masked && sign("attn-is-masked", "masked"), padded && sign("attn-is-padded", "padding"), nan && sign("attn-is-nan", "not a number")].filter((each) => each !== false);
    this.#foot.replaceChildren(legend(paletteAt(this.#el), this.#state.get("scale"), also));
    const [down, across] = this.#at?.map.step ?? [1, 1];
    const [tall, wide] = [Math.max(down, Math.ceil(nq / rows)), Math.max(across, Math.ceil(nk / cols))];
    if (tall * wide === 1) return;
    this.#foot.append(element("p", { class: "attn-quiet" }, `A dot is the strongest of ${sampled ? "a sample of " : ""}${tall} × ${wide} weights.`));
  }

  // ── tokens ──

  #showGroups(): void {
    const { query, key } = this.#axes;
    const { nq, nk, rows, cols, cell, left, top, width, height } = this.#layout;
    const span = (start: number, n: number, bins: number) => (from: number, to: number) => {
      const first = binOf(from, n, bins);
      return [start + first * cell + 1, Math.max(2, (binOf(to - 1, n, bins) + 1 - first) * cell - 2)] as const;
    };
    const lines = boundaries(query).map((i) => element("div", { class: "attn-boundary", style: `top: ${top + binOf(i, nq, rows) * cell}px; left: ${left - LANE}px; width: ${LANE + width}px` }));
    const rules = boundaries(key).map((j) => element("div", { class: "attn-boundary attn-upright", style: `left: ${left + binOf(j, nk, cols) * cell}px; top: ${top - LANE}px; height: ${LANE + height}px` }));
    this.#groups.replaceChildren(...lines, ...rules, ...brackets(query, "right", left - LANE - 2, span(top, nq, rows)), ...brackets(key, "down", top - LANE - 2, span(left, nk, cols)));
  }

  #makeLabels(): void {
    const { nq, nk, rows, cols } = this.#layout;
    const token = this.#moment()?.token;
    const pinned = pinnedIn(this.#state, token ?? nq);
    const always = token === undefined ? pinned : [...pinned, token];
    this.#labels.query.replaceChildren(...this.#thinned(nq, rows, always).map((i) => this.#makeLabel("query", i, pinned.includes(i))));
    this.#labels.key.replaceChildren(...this.#thinned(nk, cols, []).map((j) => this.#makeLabel("key", j, false)));
  }

  /** As many indices, evenly spaced, as have room; and all of `always`. */
  #thinned(n: number, bins: number, always: readonly number[]): number[] {
    const pitch = (this.#layout.cell * bins) / n;
    const step = pitch >= ROOM.beside ? 1 : Math.ceil(ROOM.apart / pitch);
    const even = Array.from({ length: Math.ceil(n / step) }, (_, k) => k * step);
    const free = even.filter((i) => always.includes(i) || always.every((other) => Math.abs(other - i) >= step));
    return [...new Set([...free, ...always])];
  }

  #makeLabel(side: Side, i: number, pinned: boolean): HTMLElement {
    const own = side === "query" ? { role: "button", "aria-pressed": String(pinned), "data-query": i } : { "data-key": i };
    const { left, gaps } = this.#layout;
    const slanted = side === "key" ? " attn-slanted" : "";
    const moment = this.#axes[side] === this.#axes.query ? this.#moment() : null;
    const time = moment === null ? "" : i > moment.token ? " attn-later" : side === "key" ? "" : i === moment.token ? " attn-now" : i === moment.query ? " attn-on" : "";
    const made = element("div", {
      ...own, class: `attn-token attn-${side}${slanted}${pinned ? " attn-on" : ""}${time}`, "aria-label": nameOf(this.#axes[side], i), tabindex: -1,
      style: side === "query" ? `width: ${left - gaps[0]}px` : "",
    }, chip(this.#axes[side], i));
    made.style.setProperty("--at", this.#place(side, i));
    return made;
  }

  /** Where the label of index `i` stands, as a CSS transform. */
  #place(side: Side, i: number): string {
    const { left, top, cell, nq, nk, rows, cols, gaps } = this.#layout;
    if (side === "query") return `translate(0, ${top + (binOf(i, nq, rows) + 0.5) * cell - LABEL / 2}px)`;
    return `translate(${left + (binOf(i, nk, cols) + 0.5) * cell}px, ${top - gaps[1]}px)`;
  }

  #showMarker(side: Side, i: number | null): void {
    const marker = this.#markers[side];
    marker.hidden = i === null;
    if (i === null) return;
    if (marker.dataset["at"] !== String(i)) {
      marker.replaceChildren(chip(this.#axes[side], i));
      marker.dataset["at"] = String(i);
    }
    marker.style.width = side === "query" ? `${this.#layout.left - this.#layout.gaps[0]}px` : "";
    marker.style.setProperty("--at", this.#place(side, i));
  }

  // ── focus ──

  #showFocus(): void {
    const at = this.#at;
    if (at === null || this.#pooled === null) return;
    const hover = this.#state.get("hover");
    const { queries, key } = this.#focus.current;
    const moment = this.#moment();
    const query = focusedQuery(this.#state, moment);
    this.#showMarker("query", query !== null && query < at.map.nq && query !== moment?.query ? query : null);
    this.#showMarker("key", key);
    this.#drawOver(queries, key);
    if (this.#here !== null && hover?.query === this.#here.query && hover.key === this.#here.key) this.#showCard(at, this.#here);
    else this.#card.hide();
  }

  #drawOver(queries: readonly number[], key: number | null): void {
    const { nq, nk, rows, cols, cell, width, height } = this.#layout;
    const palette = paletteAt(this.#el);
    const pen = fit(this.#over, width, height);
    const moment = this.#moment();
    if (moment !== null) {
      const down = binOf(moment.token, nq, rows) * cell;
      pen.fillStyle = css(palette.ground, 0.86);
      pen.fillRect(0, down, width, height - down);
    }
    pen.lineWidth = 1.5;
    pen.strokeStyle = pen.fillStyle = css(palette.accent);
    const frame = (x: number, y: number, w: number, h: number): void => {
      if (cell < 5) pen.fillRect(x, y, Math.max(w, 1), Math.max(h, 1));
      else pen.strokeRect(x + 0.75, y + 0.75, w - 1.5, h - 1.5);
    };
    for (const query of new Set([...queries, ...pinnedIn(this.#state, moment?.token ?? nq)])) frame(0, binOf(query, nq, rows) * cell, width, cell);
    if (key !== null) frame(binOf(key, nk, cols) * cell, 0, cell, height);
  }

  #showCard({ map, selection }: Shown, { query, key, block }: { query: number; key: number; block: number }): void {
    const { row, queries } = this.#focus.current;
    const cell = map.pooled ? (queries.length === 1 ? row?.[key] : undefined) : map.tile(query, query + 1, key, key + 1)[0];
    const sentence = cellSentence(query, key, cell ?? 0, { ...this.#names, bound: boundOf(selection) });
    const said = cell === undefined ? sentence.slice(0, -1) : sentence;
    const content = [element("div", {}, ...spelled(said))];
    if (cell !== undefined && cell > 0 && this.#state.get("scale") === "uniform") content.push(element("div", {}, `${lift(cell * map.allowed(query))}× the uniform weight`));
    if (block > 1) content.push(element("div", { class: "attn-quiet" }, `the strongest of ${counted(block, "weight")} here`));
    const { left, top, nq, nk, rows, cols, cell: size } = this.#layout;
    this.#card.show(content, left + (binOf(key, nk, cols) + 0.5) * size, top + (binOf(query, nq, rows) + 0.5) * size);
    this.#cursor.textContent = content.map(({ textContent }) => textContent).join(", ");
  }

  // ── pointer and keyboard ──

  #listen(signal: AbortSignal): void {
    const leave = (): void => { this.#leave(); };
    listen(this.#grid, {
      pointermove: (event) => { this.#pointAt(event); },
      pointerleave: leave,
      focusout: leave,
      click: () => { if (this.#here !== null) togglePinned(this.#state, this.#here.query); },
      keydown: (event) => { this.#press(event); },
    }, signal);
    for (const labels of Object.values(this.#labels)) {
      listen(labels, {
        pointerover: (event) => { this.#pointAtLabel(event.target); },
        pointerleave: leave,
        click: (event) => {
          const query = labelAt(event.target)?.dataset["query"];
          if (query !== undefined && Number(query) < (this.#moment()?.token ?? Infinity)) togglePinned(this.#state, Number(query));
        },
      }, signal);
    }
  }

  #leave(): void {
    this.#here = null;
    point(this.#state, null);
  }

  #pointAtLabel(target: EventTarget | null): void {
    const { query, key } = labelAt(target)?.dataset ?? {};
    this.#here = null;
    if (query !== undefined) point(this.#state, { query: Number(query), key: null });
    else point(this.#state, key === undefined ? null : { query: null, key: Number(key) });
  }

  #pointAt(event: PointerEvent): void {
    const map = this.#at?.map;
    if (map === undefined) return;
    const { cell, rows, cols } = this.#layout;
    const box = this.#grid.getBoundingClientRect();
    const [row, col] = [Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell)];
    if (row < 0 || col < 0 || row >= rows || col >= cols) return;
    const block = blockAt(this.#layout, row, col);
    const size = (block.r1 - block.r0) * (block.c1 - block.c0);
    this.#go({ ...(map.pooled ? { query: block.r0, key: block.c0 } : strongestIn(map, block)), block: map.pooled ? 1 : size });
  }

  #go(to: { query: number; key: number; block: number }): void {
    if (to.query >= (this.#moment()?.token ?? Infinity)) {
      this.#leave();
      return;
    }
    const before = this.#here;
    if (before !== null && before.query === to.query && before.key === to.key) return;
    this.#here = to;
    point(this.#state, { query: to.query, key: to.key });
  }

  #press(event: KeyboardEvent): void {
    const { nk } = this.#layout;
    const nq = Math.max(1, this.#moment()?.token ?? this.#layout.nq);
    const { query, key } = this.#here ?? { query: 0, key: 0 };
    const steps: Record<string, readonly [down: number, across: number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -nk], End: [0, nk], PageUp: [-10, 0], PageDown: [10, 0],
    };
    if (event.key in steps) {
      const [down, across] = this.#here === null ? [0, 0] : steps[event.key];
      const within = (at: number, n: number): number => Math.min(n - 1, Math.max(0, at));
      this.#go({ query: within(query + down, nq), key: within(key + across, nk), block: 1 });
    } else if (event.key === "Enter" || event.key === " ") togglePinned(this.#state, query);
    else if (event.key === "Escape") this.#state.set({ pinned: [] });
    else return;
    event.preventDefault();
  }
}

const labelAt = (target: EventTarget | null): HTMLElement | null => (target instanceof Element ? target.closest<HTMLElement>("[data-query], [data-key]") : null);

const lift = (times: number): string => (times >= 10 ? times.toFixed(0) : times >= 0.1 ? times.toFixed(1) : weightText(times));
