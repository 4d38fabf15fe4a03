/** Every head at once: layers down, heads across, real patterns, and what they come to on average along both margins. */

import { element, segmented, selectionText } from "../a11y.ts";
import { fit, paintThumb, perFrame, pixelRatio, watchWidth } from "../draw.ts";
import { legend, runs } from "../label.ts";
import type { State, ViewContext } from "../state.ts";
import type { Lut, Palette, Scale } from "../theme.ts";
import { level, onDress, paletteAt, pixel, ramp } from "../theme.ts";
import type { Tiles } from "../tiles.ts";
import { listen } from "../until.ts";
import type { Block, PartInfo, Reduce } from "../wire.ts";
import { findArray, needArray, thumbTable } from "../wire.ts";

// ── where things are ────────────────────────────────────────────────────────────────────────────────────────────────

export interface Shape {
  layers: number;
  heads: number;
  /** Layers without heads that follow each other: drawn as one thin band. */
  absent?: readonly Run[];
}

interface Run {
  from: number;
  to: number;
  /** Why there is nothing to show, for each of them. */
  reasons: readonly string[];
}

export function shapeOf({ layers }: PartInfo): Shape {
  const absent = runs(layers.length, (layer) => (layers[layer].absent === null ? -1 : 0));
  return {
    layers: layers.length,
    heads: Math.max(0, ...layers.map(({ heads }) => heads)),
    absent: absent.map(([from, to]) => ({ from, to, reasons: layers.slice(from, to).map(({ absent: reason }) => reason ?? "") })),
  };
}

interface Grid extends Shape {
  cell: number;
  gap: number;
  width: number;
  height: number;
  absent: readonly Run[];
  /** Top of each layer, and of the margin. Absent layers share out the height of their band. */
  tops: readonly number[];
}

const AXIS = 24; // pixels for the layer numbers at the left
const HEADER = 18; // pixels for the head numbers on top
const MARGIN = 6; // pixels between the heads and their averages
const EDGE = 3; // room for the frame around the outermost cells
const LARGEST = 64;
const SMALLEST = 2;
const TALLEST = 490; // pixels of height to aim at
const BAND = 15; // pixels that a run of absent layers needs to say why; a long run needs more to look long
const bandOf = ({ from, to }: Run): number => Math.max(BAND, 2 * (to - from));

/** The largest cells that fit `width`, and do not make the matrix tower over what is beside it. */
export function gridFor({ layers, heads, absent = [] }: Shape, width: number): Grid {
  const bands = absent.reduce((sum, run) => sum + bandOf(run) + 3, 0);
  const rows = layers - absent.reduce((sum, { from, to }) => sum + to - from, 0);
  const across = (width - AXIS - MARGIN - 2 * EDGE) / (heads + 1);
  const down = Math.max((TALLEST - HEADER - MARGIN - bands) / (rows + 1), 13);
  const pitch = Math.min(across, down, LARGEST + 3);
  const gap = pitch >= 17 ? 3 : pitch >= 11 ? 2 : 1;
  const cell = Math.max(SMALLEST, Math.floor(pitch - gap));
  const tops: number[] = [];
  let at = HEADER + EDGE;
  for (let layer = 0; layer < layers; layer++) {
    const run = absent.find(({ from, to }) => layer >= from && layer < to);
    tops.push(at);
    at += run === undefined ? cell + gap : bandOf(run) / (run.to - run.from) + (layer === run.to - 1 ? gap : 0);
  }
  tops.push(at + MARGIN);
  const size = (heads + 1) * (cell + gap) - gap + MARGIN + EDGE;
  return { layers, heads, absent, cell, gap, tops, width: AXIS + size + EDGE, height: at + MARGIN + cell + 2 * EDGE };
}

/** Left of head `head`; the number of heads is the margin. */
const left = ({ cell, gap, heads }: Grid, head: number): number => AXIS + EDGE + head * (cell + gap) + (head === heads ? MARGIN : 0);
const top = ({ tops }: Grid, layer: number): number => tops[layer];

/** A cell of the grid; `null` is the margin. */
interface Cell {
  layer: number | null;
  head: number | null;
}

/** The cell under a point, gaps counted to the cell before them. */
export function cellAt(grid: Grid, x: number, y: number): Cell | null {
  const { heads, layers, tops } = grid;
  const head = x >= left(grid, heads) - MARGIN / 2 ? heads : Math.floor((x - left(grid, 0)) / (grid.cell + grid.gap));
  const layer = y >= tops[layers] - MARGIN / 2 ? layers : tops.filter((top) => top <= y).length - 1;
  if (head < 0 || layer < 0 || x > grid.width || y > grid.height) return null;
  return { layer: layer >= layers ? null : layer, head: head >= heads ? null : head };
}

const same = (a: Cell | null, b: Cell | null): boolean => a === b || (a !== null && b !== null && a.layer === b.layer && a.head === b.head);

/**
 * How wide the matrix should be beside a detail view in a room `width` wide; `null` when the detail had better go under it.
 */
export function widthBeside(shape: Shape, width: number): number | null {
  if (width < NARROW) return null;
  const [calm, most] = [gridFor(shape, Math.min(width * 0.44, width - DETAIL)), gridFor(shape, width - DETAIL)];
  const grid = calm.cell >= LEGIBLE ? calm : most;
  return grid.cell >= LEGIBLE || grid.cell >= gridFor(shape, width).cell ? Math.max(grid.width, CONTROLS) : null;
}

const NARROW = 640;
const DETAIL = 400; // pixels the detail view needs, with padding
const CONTROLS = 250; // pixels that the line above the matrix needs
const LEGIBLE = 11; // a cell of fewer pixels shows little of a pattern

// ── colours of thumbnail codes ──────────────────────────────────────────────────────────────────────────────────────

interface Thumbs {
  rows: number;
  cols: number;
  heads: number; // stored per layer
  single: Uint8Array; // [layers, heads, rows, cols]
  reduced: Record<Reduce, Uint8Array>; // [layers + heads + 1, rows, cols]
  allowed: Float32Array; // [layers, rows]
  weights: Float32Array; // [256]
}

function thumbsOf(block: Block): Thumbs {
  const single = needArray(block, "heads", findArray(block, "heads", "u8", [-1, -1, -1, -1]));
  const [layers, heads, rows, cols] = single.shape;
  const reduced = (name: Reduce): Uint8Array => needArray(block, name, findArray(block, name, "u8", [layers + heads + 1, rows, cols])).data;
  const vmax = block.meta["vmax"];
  return {
    rows, cols, heads,
    single: single.data,
    reduced: { mean: reduced("mean"), max: reduced("max"), min: reduced("min") },
    allowed: needArray(block, "allowed", findArray(block, "allowed", "f32", [layers, rows])).data,
    weights: thumbTable(typeof vmax === "number" ? vmax : 1),
  };
}

/** Codes of one cell of the grid. */
function codesOf({ single, reduced, rows, cols, heads }: Thumbs, { layer, head }: Cell, layers: number, reduce: Reduce): Uint8Array {
  const size = rows * cols;
  const [source, at] =
    layer !== null && head !== null ? [single, layer * heads + head] : [reduced[reduce], layer ?? layers + (head ?? heads)];
  return source.subarray(at * size, (at + 1) * size);
}

/** Colours of the 256 codes for rows whose queries may look at `allowed` keys. */
function codeColours({ weights }: Thumbs, palette: Palette, scale: Scale, lut: Lut, allowed: number): Lut {
  const colours = new Uint32Array(256).fill(pixel(palette.accent)); // NaN
  for (let code = 0; code <= 250; code++) colours[code] = lut[Math.round(255 * level(weights[code], scale, allowed))];
  colours[254] = pixel(palette.line);
  colours[255] = pixel(palette.ground);
  return colours;
}

/** Keys a query of thumbnail row `row` may look at, in `layer` or on average over all. */
function allowedIn({ allowed, rows }: Thumbs, { layers }: PartInfo, layer: number | null, row: number): number {
  if (layer !== null) return allowed[layer * rows + row];
  const there = layers.flatMap(({ heads }, at) => (heads > 0 ? [allowed[at * rows + row]] : []));
  return there.reduce((sum, count) => sum + count, 0) / there.length;
}

function paint(canvas: HTMLCanvasElement, grid: Grid, part: PartInfo, thumbs: Thumbs, reduce: Reduce, scale: Scale, palette: Palette): void {
  const context = fit(canvas, grid.width, grid.height);
  const ratio = pixelRatio();
  const image = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const lut = ramp(palette, scale);
  const kept = new Map<number, Lut>();
  const colours = (allowed: number): Lut => {
    const key = scale === "uniform" ? allowed : 0;
    const made = kept.get(key) ?? codeColours(thumbs, palette, scale, lut, key);
    kept.set(key, made);
    return made;
  };
  const size = Math.round(grid.cell * ratio);
  for (const cell of cellsOf(grid, part)) {
    const rowColours = Array.from({ length: thumbs.rows }, (_, row) => colours(scale === "uniform" ? allowedIn(thumbs, part, cell.layer, row) : 0));
    const at = Math.round(top(grid, cell.layer ?? grid.layers) * ratio) * canvas.width + Math.round(left(grid, cell.head ?? grid.heads) * ratio);
    paintThumb(codesOf(thumbs, cell, grid.layers, reduce), thumbs.rows, thumbs.cols, (row) => rowColours[row], pixels, canvas.width, at, size, size);
  }
  context.putImageData(image, 0, 0);
}

/** All cells there are, row by row; layers may have fewer heads than the widest. */
function cellsOf(grid: Shape, part: PartInfo): Cell[] {
  const cells: Cell[] = [];
  for (let layer = 0; layer <= grid.layers; layer++) {
    for (let head = 0; head <= grid.heads; head++) {
      const cell = { layer: layer === grid.layers ? null : layer, head: head === grid.heads ? null : head };
      if (exists(cell, part)) cells.push(cell);
    }
  }
  return cells;
}

const exists = ({ layer, head }: Cell, part: PartInfo): boolean => layer === null || (head ?? 0) < part.layers[layer].heads;

// ── the board ───────────────────────────────────────────────────────────────────────────────────────────────────────

export function matrix(context: ViewContext): void {
  new Matrix(context);
}

const REAL_CELLS = 400; // heads that get an element each; beyond that only the cell in focus is one
const REDUCTIONS = [
  { value: "mean", label: "mean", name: "Margins: mean" },
  { value: "max", label: "max", name: "Margins: max, the largest weight" },
  { value: "min", label: "min", name: "Margins: min, the smallest weight" },
] as const;

class Matrix {
  readonly #state: State;
  readonly #tiles: Tiles;
  readonly #el: HTMLElement;

  readonly #caption = element("div", { class: "attn-caption" });
  readonly #canvas = element("canvas", { "aria-hidden": "true" });
  readonly #axes = element("div", { class: "attn-axes", "aria-hidden": "true" });
  readonly #cells = element("div", { role: "rowgroup" });
  readonly #bands = element("div", { role: "rowgroup" });
  readonly #selected = element("div", { class: "attn-frame attn-selected", "aria-hidden": "true" });
  readonly #hovered = element("div", { class: "attn-frame attn-hovered", "aria-hidden": "true" });
  readonly #board = element("div", { class: "attn-board", role: "grid" }, this.#canvas, this.#axes, this.#bands, this.#cells, this.#hovered, this.#selected);
  readonly #legend = element("div");
  readonly #reduce = segmented<Reduce>("Averages in the margins", (reduce) => { this.#state.set({ reduce }); });
  readonly #paintSoon: () => void;

  #width = 0;
  #grid: Grid = gridFor({ layers: 0, heads: 0 }, 0);
  #part: PartInfo;
  #thumbs: Thumbs | null = null;
  #hover: Cell | null = null;
  #active: Cell = { layer: null, head: null }; // where the keyboard is

  constructor({ el, state, tiles, signal }: ViewContext) {
    this.#state = state;
    this.#tiles = tiles;
    this.#el = el;
    this.#part = this.#wantedPart();
    el.classList.add("attn-matrix");
    el.append(element("div", { class: "attn-above" }, this.#caption, this.#reduce.el), this.#board, this.#legend);
    this.#paintSoon = perFrame(() => { this.#paint(); }, signal);

    watchWidth(el, (width) => { this.#resize(width); }, signal);
    onDress(el, () => { this.#showLegend(); this.#paintSoon(); }, signal);
    state.on("part", () => { this.#load(); }, signal);
    state.on(["layer", "head"], () => { this.#select(); }, signal);
    state.on("reduce", () => { this.#rename(); this.#paintSoon(); }, signal);
    state.on("scale", () => { this.#showLegend(); this.#paintSoon(); }, signal);
    this.#hovered.hidden = this.#selected.hidden = true;
    this.#listen(signal);
    this.#load();
    this.#showLegend();
  }

  #wantedPart(): PartInfo {
    const { parts } = this.#tiles.meta;
    return parts.find(({ name }) => name === this.#state.get("part")) ?? parts[0];
  }

  #load(): void {
    const part = (this.#part = this.#wantedPart());
    this.#thumbs = null;
    this.#active = this.#selection();
    this.#layOut();
    this.#tiles.thumbs(part.name).then(
      (block) => {
        if (part !== this.#part) return;
        this.#thumbs = thumbsOf(block);
        this.#paintSoon();
      },
      (error: unknown) => { this.#caption.textContent = error instanceof Error ? error.message : String(error); },
    );
  }

  #resize(width: number): void {
    this.#width = width;
    this.#layOut();
  }

  #layOut(): void {
    if (this.#width === 0) return;
    this.#grid = gridFor(shapeOf(this.#part), this.#width);
    const { width, height, layers, heads } = this.#grid;
    Object.assign(this.#board.style, { width: `${width}px`, height: `${height}px` });
    this.#board.setAttribute("aria-label", `Layers by heads of the ${this.#part.title}`);
    this.#board.setAttribute("aria-rowcount", String(layers + 1));
    this.#board.setAttribute("aria-colcount", String(heads + 1));
    this.#makeCells();
    this.#bands.replaceChildren(...this.#grid.absent.map((run) => bandElement(this.#grid, run)));
    this.#rename();
    this.#select();
    this.#paint();
  }

  #paint(): void {
    if (this.#thumbs === null || this.#width === 0) return;
    paint(this.#canvas, this.#grid, this.#part, this.#thumbs, this.#state.get("reduce"), this.#state.get("scale"), paletteAt(this.#el));
  }

  #showLegend(): void {
    this.#legend.replaceChildren(legend(paletteAt(this.#el), this.#state.get("scale")));
  }

  // ── names ──

  /** Writes what depends on how the margins are reduced. */
  #rename(): void {
    const reduce = this.#state.get("reduce");
    this.#reduce.show(REDUCTIONS, reduce);
    this.#axes.replaceChildren(...axisLabels(this.#grid, reduce));
    for (const cell of this.#cells.querySelectorAll<HTMLElement>("[data-layer]")) cell.setAttribute("aria-label", this.#name(cellOf(cell)));
    this.#describe();
  }

  #name(cell: Cell): string {
    return selectionText({ ...cell, reduce: this.#state.get("reduce") }, this.#part).replace(" · ", ", ");
  }

  #describe(): void {
    const name = this.#hover === null ? null : selectionText({ ...this.#hover, reduce: this.#state.get("reduce") }, this.#part);
    this.#caption.textContent = name ?? "Layers × heads";
    this.#caption.classList.toggle("attn-strong", name !== null);
    this.#board.title = name ?? "";
  }

  // ── selection and pointer ──

  #selection(): Cell {
    return { layer: this.#state.get("layer"), head: this.#state.get("head") };
  }

  #select(): void {
    const selection = this.#selection();
    this.#active = selection;
    for (const cell of this.#cells.querySelectorAll<HTMLElement>("[data-layer]")) {
      const chosen = same(cellOf(cell), selection);
      cell.setAttribute("aria-selected", String(chosen));
      cell.tabIndex = chosen ? 0 : -1;
    }
    if (this.#sparse()) this.#moveTo(selection, false);
    this.#place(this.#selected, this.#inGrid(selection) && exists(selection, this.#part) ? selection : null);
  }

  #inGrid({ layer, head }: Cell): boolean {
    return (layer === null || layer < this.#grid.layers) && (head === null || head < this.#grid.heads);
  }

  #place(frame: HTMLElement, cell: Cell | null): void {
    frame.hidden = cell === null;
    if (cell === null) return;
    const { cell: size, layers, heads } = this.#grid;
    Object.assign(frame.style, {
      width: `${size}px`,
      height: `${size}px`,
      transform: `translate(${left(this.#grid, cell.head ?? heads)}px, ${top(this.#grid, cell.layer ?? layers)}px)`,
    });
  }

  #point(cell: Cell | null): void {
    const there = cell !== null && exists(cell, this.#part) ? cell : null;
    if (same(there, this.#hover)) return;
    this.#hover = there;
    this.#place(this.#hovered, there);
    this.#describe();
  }

  #under(event: MouseEvent): Cell | null {
    const target = event.target instanceof HTMLElement ? event.target.closest<HTMLElement>("[data-layer]") : null;
    if (target !== null) return cellOf(target);
    const box = this.#board.getBoundingClientRect();
    return cellAt(this.#grid, event.clientX - box.left, event.clientY - box.top);
  }

  #pick(cell: Cell | null): void {
    if (cell !== null && exists(cell, this.#part)) this.#state.set({ layer: cell.layer, head: cell.head });
  }

  #listen(signal: AbortSignal): void {
    listen(this.#board, {
      pointermove: (event) => { this.#point(this.#under(event)); },
      pointerleave: () => { this.#point(null); },
      click: (event) => { this.#pick(this.#under(event)); },
      focusout: () => { this.#point(null); },
      focusin: ({ target }) => { if (target instanceof HTMLElement && target.matches(":focus-visible")) this.#point(this.#active); },
      keydown: (event) => {
        if (event.key === "Enter" || event.key === " ") this.#pick(this.#active);
        else {
          const next = this.#neighbour(event.key);
          if (next === null) return;
          this.#moveTo(next, true);
        }
        event.preventDefault();
      },
    }, signal);
  }

  // ── keyboard ──

  #neighbour(key: string): Cell | null {
    const { layers, heads } = this.#grid;
    const step: Record<string, readonly [down: number, across: number]> = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -heads], End: [0, heads],
      PageUp: [-layers, 0], PageDown: [layers, 0],
    };
    if (!(key in step)) return null;
    const [down, across] = step[key];
    const bound = (at: number, most: number): number | null => (at >= most ? null : Math.max(0, at));
    let head = (this.#active.head ?? heads) + across;
    const rows = [...this.#part.layers.flatMap((one, at) => (one.heads > 0 ? [at] : [])), null]; // absent layers are passed over
    const layer = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(this.#active.layer) + down))];
    while (head < heads && !exists({ layer, head: Math.max(0, head) }, this.#part)) head += across < 0 ? -1 : 1;
    return { layer, head: bound(head, heads) };
  }

  #sparse(): boolean {
    return this.#grid.layers * this.#grid.heads > REAL_CELLS;
  }

  #moveTo(cell: Cell, focus: boolean): void {
    this.#active = cell;
    if (this.#sparse()) this.#cells.replaceChildren(element("div", { role: "row" }, this.#gridCell(cell)));
    const all = [...this.#cells.querySelectorAll<HTMLElement>("[data-layer]")];
    for (const each of all) each.tabIndex = same(cellOf(each), cell) ? 0 : -1;
    if (focus) all.find((each) => each.tabIndex === 0)?.focus();
  }

  #makeCells(): void {
    if (this.#sparse()) {
      this.#moveTo(this.#active, false);
      return;
    }
    const rows = new Map<number | null, HTMLElement[]>();
    for (const cell of cellsOf(this.#grid, this.#part)) rows.set(cell.layer, [...(rows.get(cell.layer) ?? []), this.#gridCell(cell)]);
    this.#cells.replaceChildren(...[...rows.values()].map((cells) => element("div", { role: "row" }, ...cells)));
  }

  #gridCell(cell: Cell): HTMLElement {
    const { layers, heads } = this.#grid;
    const made = element("div", {
      role: "gridcell", tabindex: -1, "data-layer": cell.layer ?? "*", "data-head": cell.head ?? "*", "aria-label": this.#name(cell),
      "aria-rowindex": (cell.layer ?? layers) + 1, "aria-colindex": (cell.head ?? heads) + 1, "aria-selected": String(same(cell, this.#selection())),
    });
    this.#place(made, cell);
    return made;
  }
}

/** Layers that have nothing to show, and why. */
function bandElement(grid: Grid, run: Run): HTMLElement {
  const { from, to, reasons } = run;
  const which = to - from === 1 ? String(from) : `${from}–${to - 1}`;
  const why = [...new Set(reasons)].join(", ");
  const style = `left: ${left(grid, 0)}px; top: ${top(grid, from)}px; width: ${grid.width - EDGE - left(grid, 0) - EDGE}px; height: ${bandOf(run)}px`;
  const cell = element("div", {
    role: "gridcell", "aria-disabled": "true", "aria-colspan": grid.heads + 1, "aria-label": `Layer${to - from === 1 ? "" : "s"} ${which}: ${why}`,
    class: "attn-absent", "data-absent": which, title: reasons.map((reason, n) => `Layer ${from + n}: ${reason}`).join("\n"), style,
  }, element("span", {}, `${which} · ${why}`));
  return element("div", { role: "row", "aria-rowindex": from + 1 }, cell);
}

function cellOf(target: HTMLElement): Cell {
  const read = (value: string | undefined): number | null => (value === undefined || value === "*" ? null : Number(value));
  return { layer: read(target.dataset["layer"]), head: read(target.dataset["head"]) };
}

const LAYER_MARGIN: Record<Reduce, string> = { mean: "x̄", max: "max", min: "min" };

/** Numbers along both axes, thinned out where they would crowd. */
function axisLabels(grid: Grid, reduce: Reduce): HTMLElement[] {
  const pitch = grid.cell + grid.gap;
  const label = (text: string, x: number, y: number, side: string): HTMLElement =>
    element("span", { class: side, style: `transform: translate(${x}px, ${y}px); --cell: ${grid.cell}px` }, text);
  const heads = every(grid.heads, pitch, 18).map((head) => label(String(head), left(grid, head), 0, "attn-top"));
  const absent = (layer: number): boolean => grid.absent.some(({ from, to }) => layer >= from && layer < to);
  const layers = every(grid.layers, pitch, 13).filter((layer) => !absent(layer)).map((layer) => label(String(layer), 0, top(grid, layer), "attn-left"));
  return [...heads, label(reduce, left(grid, grid.heads), 0, "attn-top"), ...layers, label(LAYER_MARGIN[reduce], 0, top(grid, grid.layers), "attn-left")];
}

/** 0, step, 2 step … below `count`, with at least `room` pixels for each; the steps are round. */
function every(count: number, pitch: number, room: number): number[] {
  const step = [1, 2, 4, 8, 16, 32].find((candidate) => candidate * pitch >= room) ?? 64;
  return Array.from({ length: Math.ceil(count / step) }, (_, n) => n * step);
}
