/** Heads as a grid that can be read, pointed at and walked through: a cell for each of them, frames around some, and which one has the keyboard. */

import { element } from "./a11y.ts";
import type { Cell, Grid, Order, Run } from "./grid.ts";
import { bandOf, cellOf, cellsIn, cornerOf, exists, leftOf, placeAt, placeOf, sameCell } from "./grid.ts";

/** What is read of a cell. */
export interface Reading {
  name: string;
  value: number | null;
  chosen: boolean;
}

type Corner = readonly [left: number, top: number];

export interface Board {
  readonly el: HTMLElement;
  /** Where the keyboard is. */
  readonly active: Cell;
  show(grid: Grid, order: Order): void;
  /** Reads all cells again. */
  refresh(): void;
  /** Puts the keyboard on a cell, and with `focus` into it. */
  moveTo(cell: Cell, focus?: boolean): void;
  /** Puts an element around a cell, or hides it. */
  frame(frame: HTMLElement, cell: Cell | null): void;
  cornerOf(cell: Cell): Corner;
  /** Where an event is, and on which cell. */
  inside(event: MouseEvent): readonly [x: number, y: number];
  under(event: MouseEvent): Cell | null;
}

const REAL_CELLS = 400; // heads that get an element each; beyond that only the cell in focus is one
const EVERYTHING: Cell = { layer: null, head: null };

/** `reveal` is told of the corner of a cell that takes the keyboard. */
export function boardOf(read: (cell: Cell) => Reading, reveal: (corner: Corner) => void): Board {
  const [bands, cells] = [element("div", { role: "rowgroup" }), element("div", { role: "rowgroup" })];
  const el = element("div", { class: "attn-board", role: "grid", "aria-multiselectable": "true" }, bands, cells);
  let grid: Grid;
  let order: Order;
  let active = EVERYTHING;
  let made: { cell: Cell; real: HTMLElement }[] = [];

  const corner = (cell: Cell): Corner => cornerOf(grid, placeOf(order, cell));
  const frame = (one: HTMLElement, cell: Cell | null): void => {
    one.hidden = cell === null;
    if (cell === null) return;
    const [left, top] = corner(cell);
    const size = `${grid.cell}px`;
    Object.assign(one.style, { width: size, height: size, transform: `translate(${left}px, ${top}px)` });
  };
  const realCell = (cell: Cell): HTMLElement => {
    const { row, col } = placeOf(order, cell);
    const real = element("div", { role: "gridcell", "data-layer": cell.layer ?? "*", "data-head": cell.head ?? "*", "aria-rowindex": row + 1, "aria-colindex": col + 1 });
    frame(real, cell);
    made.push({ cell, real });
    return real;
  };
  const refresh = (): void => {
    for (const { cell, real } of made) {
      const { name, value, chosen } = read(cell);
      real.ariaLabel = name;
      real.ariaSelected = String(chosen);
      real.tabIndex = sameCell(cell, active) ? 0 : -1;
      if (value === null) delete real.dataset["value"];
      else real.dataset["value"] = String(value);
    }
  };
  const moveTo = (cell: Cell, focus = false): void => {
    active = exists(cell, order) ? cell : EVERYTHING;
    const { layers, heads } = grid;
    const sparse = layers * heads > REAL_CELLS;
    if (sparse || made.length === 0) {
      focus ||= cells.querySelector(":focus") !== null;
      made = [];
      const rows = sparse ? [[active]] : Array.from({ length: layers + 1 }, (_, row) => cellsIn(order, { r0: row, r1: row + 1, c0: 0, c1: heads + 1 }));
      cells.replaceChildren(...rows.filter((row) => row.length > 0).map((row) => element("div", { role: "row" }, ...row.map(realCell))));
    }
    refresh();
    if (!focus) return;
    reveal(corner(active));
    const { real } = made.find((one) => sameCell(one.cell, active)) ?? made[0];
    real.focus({ preventScroll: true });
    real.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const inside = (event: MouseEvent): readonly [number, number] => {
    const box = el.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  el.addEventListener("mousedown", (event) => {
    if (made.some(({ real }) => real === event.target)) return;
    event.preventDefault(); // the keyboard stays with the heads
    cells.querySelector<HTMLElement>('[tabindex="0"]')?.focus({ preventScroll: true });
  });

  return {
    el, refresh, moveTo, frame, inside, cornerOf: corner,
    get active() {
      return active;
    },
    show(newGrid, newOrder) {
      [grid, order, made] = [newGrid, newOrder, []];
      Object.assign(el.style, { width: `${grid.width}px`, height: `${grid.height}px` });
      el.ariaLabel = `Layers by heads of the ${order.part.title}`;
      el.ariaRowCount = String(grid.layers + 1);
      el.ariaColCount = String(grid.heads + 1);
      bands.replaceChildren(...grid.absent.map((run) => bandElement(grid, run)));
      moveTo(active);
    },
    under(event) {
      const place = placeAt(grid, ...inside(event));
      return made.find(({ real }) => real === event.target)?.cell ?? (place === null ? null : cellOf(order, place));
    },
  };
}

/** Layers that have nothing to show, and why. */
function bandElement(grid: Grid, run: Run): HTMLElement {
  const { from, layers, reasons } = run;
  const [first, last] = [layers[0], layers[layers.length - 1]];
  const which = last > first && last - first === layers.length - 1 ? `${first}–${last}` : layers.join(", ");
  const why = [...new Set(reasons)].join(", ");
  const [left, top] = cornerOf(grid, { row: from, col: 0 });
  const cell = element("div", {
    role: "gridcell", "aria-disabled": "true", "aria-colspan": grid.heads + 1, "aria-label": `Layer${layers.length === 1 ? "" : "s"} ${which}: ${why}`,
    class: "attn-absent", "data-absent": which, title: reasons.map((reason, n) => `Layer ${layers[n]}: ${reason}`).join("\n"),
    style: `left: ${left}px; top: ${top}px; width: ${leftOf(grid, grid.heads) + grid.cell - left}px; height: ${bandOf(run)}px`,
  }, element("span", {}, `${which} · ${why}`));
  return element("div", { role: "row", "aria-rowindex": from + 1 }, cell);
}
