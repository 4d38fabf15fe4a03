/**
 * Where the heads are: which stands at which place once they are sorted, and where places are in pixels, at any size. Pure.
 *
 * A *place* is a row and a column on screen; one past the last is the margin. A *cell* is a layer and a head of the model.
 */

import { runs } from "./label.ts";
import type { HeadAt, LayerInfo, Measure, PartInfo } from "./wire.ts";

// ── heads, and the order they stand in ──────────────────────────────────────────────────────────────────────────────

/** A layer and a head; `null` is the margin. */
export interface Cell {
  layer: number | null;
  head: number | null;
}

export interface Place {
  row: number;
  col: number;
}

export const sameCell = (a: Cell | null, b: Cell | null): boolean => a?.layer === b?.layer && a?.head === b?.head;

export interface Order {
  part: PartInfo;
  /** How many heads the widest layer has. */
  cols: number;
  /** The layer of each row. */
  layers: readonly number[];
  /** The heads of each layer (by its number), left to right. */
  heads: readonly (readonly number[])[];
  sorted: boolean;
}

/** 0, 1 … below `n`. */
export const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

const orderOf = (part: PartInfo, sorted: boolean, layers: number[], of: (layer: number, heads: number[]) => number[]): Order => ({
  part, sorted, layers, cols: Math.max(0, ...part.layers.map(({ heads }) => heads)), heads: part.layers.map(({ heads }, layer) => of(layer, upTo(heads))),
});

export const asInModel = (part: PartInfo): Order => orderOf(part, false, upTo(part.layers.length), (_, heads) => heads);

/** Numbers by layer and head; `null` where there is none. */
type Values = Measure["values"];

export function valueOf(values: Values, { layer, head }: Cell): number | null {
  const value = layer === null || head === null ? null : (values.at(layer)?.at(head) ?? null);
  return value !== null && Number.isFinite(value) ? value : null;
}

const valuesIn = (values: Values, layer: number): number[] => (values.at(layer) ?? []).flatMap((_, head) => valueOf(values, { layer, head }) ?? []);

/** The mean over the heads that have a value; `null` where none has. */
export function layerMean(values: Values, layer: number): number | null {
  const there = valuesIn(values, layer);
  return there.length === 0 ? null : there.reduce((sum, value) => sum + value, 0) / there.length;
}

/** Heads by their value within each layer, largest first; with `layersToo` the layers by their mean. What has no value comes last. */
export function ordered(part: PartInfo, values: Values, layersToo: boolean): Order {
  const falling = (of: (at: number) => number | null) => (a: number, b: number): number => {
    const [p, q] = [of(a) ?? -Infinity, of(b) ?? -Infinity];
    return p === q ? a - b : q - p;
  };
  const rows = upTo(part.layers.length);
  if (layersToo) rows.sort(falling((layer) => layerMean(values, layer)));
  return orderOf(part, true, rows, (layer, heads) => heads.sort(falling((head) => valueOf(values, { layer, head }))));
}

/** Smallest and largest value of the heads there are; `null` where none has a value. */
export function rangeOf(values: Values): readonly [low: number, high: number] | null {
  const there = values.flatMap((_, layer) => valuesIn(values, layer));
  return there.length === 0 ? null : [Math.min(...there), Math.max(...there)];
}

/** How many heads reach `least`, and how many there are. */
export function reaching({ layers }: PartInfo, values: Values, least: number): readonly [reached: number, all: number] {
  const reached = layers.flatMap(({ heads }, layer) => valuesIn(values, layer).slice(0, heads).filter((value) => value >= least));
  return [reached.length, layers.reduce((sum, { heads }) => sum + heads, 0)];
}

/** The cell at a place; `null` where the layer has no such head. Along the lower margin heads stand as in the model. */
export function cellOf({ layers, heads, cols }: Order, { row, col }: Place): Cell | null {
  const layer = layers.at(row) ?? null;
  const all = layer === null ? upTo(cols) : heads[layer];
  if (col >= cols) return layer !== null && all.length === 0 ? null : { layer, head: null };
  return col < all.length ? { layer, head: all[col] } : null;
}

export const placeOf = ({ layers, heads, cols }: Order, { layer, head }: Cell): Place => ({
  row: layer === null ? layers.length : layers.indexOf(layer),
  col: head === null ? cols : layer === null ? head : (heads.at(layer) ?? []).indexOf(head),
});

/** Layers may have fewer heads than the widest. */
export const exists = (cell: Cell, order: Order): boolean => sameCell(cellOf(order, placeOf(order, cell)), cell);

/** The cells at the places of rows [r0, r1) and columns [c0, c1). */
export function cellsIn(order: Order, { r0, r1, c0, c1 }: Places): Cell[] {
  const found: Cell[] = [];
  for (let row = r0; row < r1; row++) {
    for (let col = c0; col < c1; col++) {
      const cell = cellOf(order, { row, col });
      if (cell !== null) found.push(cell);
    }
  }
  return found;
}

/** The heads in the rectangle between two places, margins left out. */
export function within(order: Order, a: Place, b: Place): HeadAt[] {
  const [r0, c0] = [Math.max(0, Math.min(a.row, b.row)), Math.max(0, Math.min(a.col, b.col))];
  const [r1, c1] = [Math.min(Math.max(a.row, b.row) + 1, order.layers.length), Math.min(Math.max(a.col, b.col) + 1, order.cols)];
  return cellsIn(order, { r0, r1, c0, c1 }).map(({ layer, head }): HeadAt => [layer ?? 0, head ?? 0]);
}

const STEPS: Readonly<Record<string, readonly [down: number, across: number]>> = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity], End: [0, Infinity], PageUp: [-Infinity, 0], PageDown: [Infinity, 0],
};

/** Where a key leads from a cell: past layers without heads, and heads that are not there; `null` for keys that lead nowhere. */
export function neighbour(order: Order, from: Cell, key: string): Cell | null {
  if (!(key in STEPS)) return null;
  const [down, across] = STEPS[key];
  const { cols } = order;
  const at = placeOf(order, from);
  const rows = upTo(order.layers.length + 1).filter((row) => cellOf(order, { row, col: cols }) !== null);
  const row = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(at.row) + down))];
  let col = Math.min(cols, Math.max(0, at.col + across));
  while (col > 0 && col < cols && cellOf(order, { row, col }) === null) col += across < 0 ? -1 : 1;
  return cellOf(order, { row, col });
}

// ── what layers have in common ──────────────────────────────────────────────────────────────────────────────────────

/** Runs of heads that share keys and values; none where every head has its own. */
export function sharing({ heads, kv_heads: shared }: LayerInfo): (readonly [from: number, to: number])[] {
  if (shared <= 0 || shared >= heads || heads % shared !== 0) return [];
  const size = heads / shared;
  return upTo(shared).map((group) => [group * size, (group + 1) * size]);
}

const withHeads = ({ layers }: PartInfo): LayerInfo[] => layers.filter(({ heads }) => heads > 0);

/** Those runs where all layers that have heads agree; else `null`. */
export function sharedAlike(part: PartInfo): (readonly [from: number, to: number])[] | null {
  const there = withHeads(part);
  if (there.length === 0) return [];
  return new Set(there.map(({ heads, kv_heads }) => `${heads}/${kv_heads}`)).size > 1 ? null : sharing(there[0]);
}

/** How far layers look back. */
export const windowsOf = (part: PartInfo): (number | null)[] => [...new Set(withHeads(part).map(({ window }) => window))];

export const windowsDiffer = (part: PartInfo): boolean => windowsOf(part).length > 1;

// ── pixels ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Shape {
  layers: number;
  heads: number;
  /** Rows without heads that follow each other: drawn as one thin band. */
  absent?: readonly Run[];
  /** Room besides that for the numbers of layers and heads. */
  lanes?: Lanes;
}

export interface Lanes {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

export interface Run {
  from: number;
  to: number;
  /** Which layers these are, and why each of them has nothing to show. */
  layers: readonly number[];
  reasons: readonly string[];
}

const BADGE = 16; // pixels for the sign of how far a layer looks
const SHARED = 15; // … for the brackets of heads that share keys and values
const MEAN = 46; // … for the mean of a layer, where heads are sorted
const NUMBERS = 16; // … for the numbers of the heads under their averages, where those above are ranks

export function shapeOf(part: PartInfo, order = asInModel(part)): Shape {
  const absent = runs(order.layers.length, (row) => (part.layers[order.layers[row]].absent === null ? -1 : 0));
  const shared = !order.sorted && (sharedAlike(part)?.length ?? 0) > 0;
  return {
    layers: part.layers.length,
    heads: order.cols,
    absent: absent.map(([from, to]) => {
      const layers = order.layers.slice(from, to);
      return { from, to, layers, reasons: layers.map((layer) => part.layers[layer].absent ?? "") };
    }),
    lanes: { left: windowsDiffer(part) ? BADGE : 0, top: shared ? SHARED : 0, right: order.sorted ? MEAN : 0, bottom: order.sorted ? NUMBERS : 0 },
  };
}

export interface Size {
  /** Pixels of a cell, and between cells. */
  cell: number;
  gap: number;
}

export interface Grid extends Shape, Size {
  width: number;
  height: number;
  absent: readonly Run[];
  lanes: Lanes;
  /** Where the heads begin. */
  left: number;
  /** Top of each row, and of the margin. Absent layers share out the height of their band. */
  tops: readonly number[];
}

const AXIS = 24; // pixels for the layer numbers at the left
const HEADER = 18; // pixels for the head numbers on top
const MARGIN = 6; // pixels between the heads and their averages
const EDGE = 3; // room for the frame around the outermost cells
const LARGEST = 64;
const SMALLEST = 2;
const TALL = 490; // pixels of height to aim at …
export const TALLEST = 560; // … and to scroll beyond
const BAND = 15; // pixels that a run of absent layers needs to say why; a long run needs more to look long
const CELLS = [8, 12, 16, 24, 32, 48, 64, 96, 144, 208, 304]; // pixels of a cell
const NO_LANES: Lanes = { left: 0, top: 0, right: 0, bottom: 0 };
const LEAST_STEP = 1.2; // times the size before

export const bandOf = ({ from, to }: Run): number => Math.max(BAND, 2 * (to - from));

/** The cells that fit a room: as large as its width allows, or with `whole` as its height allows too. */
function fitting({ layers, heads, absent = [], lanes = NO_LANES }: Shape, width: number, whole = false): Size {
  const bands = absent.reduce((sum, run) => sum + bandOf(run) + 3, 0);
  const rows = layers - absent.reduce((sum, { from, to }) => sum + to - from, 0);
  const across = (width - AXIS - lanes.left - lanes.right - MARGIN - 2 * EDGE) / (heads + 1);
  const down = ((whole ? TALLEST - 2 * EDGE : TALL) - HEADER - lanes.top - lanes.bottom - MARGIN - bands) / (rows + 1);
  const pitch = Math.min(across, whole ? down : Math.max(down, 13), LARGEST + 3);
  const gap = pitch >= 17 ? 3 : pitch >= 11 ? 2 : 1;
  return { cell: Math.max(SMALLEST, Math.floor(pitch - gap)), gap };
}

/** The sizes there are to choose from, ascending; `home` is the one to begin with, and the first shows everything at once. */
export function sizesFor(shape: Shape, width: number): { sizes: Size[]; home: number } {
  const [all, first] = [fitting(shape, width, true), fitting(shape, width)];
  const sizes = all.cell < first.cell ? [all, first] : [first];
  const most = Math.max(144, Math.min(width - AXIS - 20, TALLEST - 60));
  for (const cell of CELLS) {
    const last = sizes[sizes.length - 1].cell;
    if (cell >= LEAST_STEP * last && cell <= most) sizes.push({ cell, gap: cell >= 96 ? 5 : cell >= 16 ? 3 : cell >= 9 ? 2 : 1 });
  }
  return { sizes, home: sizes.indexOf(first) };
}

/** Where everything is with cells of `size`; by default the largest that fit `width` and do not make the matrix tower over what is beside it. */
export function gridFor(shape: Shape, width: number, size = fitting(shape, width)): Grid {
  const { layers, heads, absent = [], lanes = NO_LANES } = shape;
  const { cell, gap } = size;
  const tops: number[] = [];
  let at = HEADER + lanes.top + EDGE;
  for (let layer = 0; layer < layers; layer++) {
    const run = absent.find(({ from, to }) => layer >= from && layer < to);
    tops.push(at);
    at += run === undefined ? cell + gap : bandOf(run) / (run.to - run.from) + (layer === run.to - 1 ? gap : 0);
  }
  tops.push(at + MARGIN);
  const left = AXIS + lanes.left + EDGE;
  const across = (heads + 1) * (cell + gap) - gap + MARGIN + EDGE + lanes.right;
  return { layers, heads, absent, lanes, cell, gap, tops, left, width: left + across, height: at + MARGIN + cell + 2 * EDGE + lanes.bottom };
}

/** The room that stays when the heads are scrolled: at the left, and on top. */
export const headersOf = ({ left, tops }: Grid): { left: number; top: number } => ({ left: left - EDGE, top: tops[0] - EDGE });

/** Whether there is more than is in sight. */
export const isMovable = (grid: Grid, { width, height }: { width: number; height: number }): boolean => grid.width > width + 1 || grid.height > height + 1;

export const leftOf = ({ left, cell, gap, heads }: Grid, col: number): number => left + col * (cell + gap) + (col >= heads ? MARGIN : 0);

/** Where the cell of a place begins. */
export const cornerOf = (grid: Grid, { row, col }: Place): readonly [left: number, top: number] => [leftOf(grid, col), grid.tops[row]];

/** The row that a height lies in, or is nearest to. */
const rowAt = ({ tops }: Grid, y: number): number => tops.filter((top, row) => row > 0 && top <= y).length;

/** The place under a point, gaps counted to the place before them. */
export function placeAt(grid: Grid, x: number, y: number): Place | null {
  const { heads, layers, tops, cell, gap } = grid;
  const [right, bottom] = cornerOf(grid, { row: layers, col: heads });
  const col = x >= right - MARGIN / 2 ? heads : Math.floor((x - leftOf(grid, 0)) / (cell + gap));
  const row = y >= bottom - MARGIN / 2 ? layers : rowAt(grid, y);
  return col < 0 || y < tops[0] || x > right + cell + EDGE || y > bottom + cell + EDGE ? null : { row, col };
}

/** Rows [r0, r1) and columns [c0, c1). */
export interface Places {
  r0: number;
  r1: number;
  c0: number;
  c1: number;
}

/** The places that lie in a rectangle of pixels. */
export function placesIn(grid: Grid, x0: number, y0: number, x1: number, y1: number): Places {
  const { heads, tops, cell, gap } = grid;
  const across = (x: number): number => (x - leftOf(grid, 0)) / (cell + gap);
  const r0 = rowAt(grid, y0);
  const c0 = Math.min(heads, Math.max(0, Math.floor(across(x0))));
  const c1 = Math.max(c0, Math.min(heads + 1, Math.ceil(across(x1)) + (x1 > leftOf(grid, heads) ? 1 : 0)));
  return { r0, r1: Math.max(r0, tops.filter((top) => top < y1).length), c0, c1 };
}

/** The same spot in a grid of another size: cells grow, what is between them does not. */
export function moved(from: Grid, to: Grid, x: number, y: number): readonly [x: number, y: number] {
  const row = rowAt(from, y);
  const height = ({ tops, cell }: Grid): number => (tops.at(row + 1) ?? tops[row] + cell) - tops[row];
  return [to.left + ((x - from.left) / (from.cell + from.gap)) * (to.cell + to.gap), to.tops[row] + ((y - from.tops[row]) / height(from)) * height(to)];
}

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
const CONTROLS = 250; // pixels that the lines above the matrix need
const LEGIBLE = 11; // a cell of fewer pixels shows little of a pattern

/** 0, step, 2 step … below `n`, with at least `room` pixels for each; the steps are round. */
export function every(n: number, pitch: number, room: number): number[] {
  const step = [1, 2, 4, 8, 16, 32].find((candidate) => candidate * pitch >= room) ?? 64;
  return upTo(Math.ceil(n / step)).map((at) => at * step);
}

/** 1st, 2nd, 3rd, 4th … */
export const ordinal = (n: number): string => `${n}${["th", "st", "nd", "rd"][Number(/(?<!1)[1-3]$/.exec(String(n))?.[0] ?? 0)]}`;
