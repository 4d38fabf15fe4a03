/** What is in sight of the heads, and how large: sizes to step through, and a window that is scrolled. */

import { element } from "./a11y.ts";
import { gridFor, headersOf, isMovable, moved, sizesFor, TALLEST } from "./grid.ts";
import type { Grid, Shape, Size } from "./grid.ts";
import type { Window } from "./headers.ts";
import { GLYPH, WHOLE } from "./mosaic.ts";

export interface Lens {
  readonly el: HTMLElement;
  /** What is scrolled. */
  readonly sight: HTMLElement;
  /** Buttons for the size. */
  readonly zoom: HTMLElement;
  readonly grid: Grid;
  readonly window: Window;
  readonly movable: boolean;
  /** Puts what has a shape into a room; with `anew` at the size to begin with. */
  layOut(shape: Shape, width: number, anew: boolean): void;
  /** Sizes up or down, −Infinity for everything at once. */
  step(steps: number): void;
  /** To the size that is nearest to what wheel or fingers come to; what is at (x, y) of the window stays there. */
  stretch(factor: number, x: number, y: number): void;
  /** A gesture begins. */
  rest(): void;
  /** Scrolls so that the cell at a corner is in sight, beside the axes. */
  reveal(corner: readonly [left: number, top: number]): void;
}

/** `corner` is that of the cell in focus, `resized` is told of another grid. */
export function lensOf(board: HTMLElement, corner: () => readonly [left: number, top: number], resized: () => void): Lens {
  const sight = element("div", { class: "attn-sight" }, board);
  const el = element("div", { class: "attn-lens" }, sight);
  let sizes: Size[] = [];
  let home = 0; // the size to begin with
  let chosen = 0; // pixels of a cell; 0: at home
  let pinched = 0; // … while a gesture goes on
  let at = 0;
  let grid: Grid = gridFor({ layers: 0, heads: 0 }, 0);
  let [width, height] = [0, 0];

  const nearest = (cell: number): number => {
    const off = (n: number): number => Math.abs(Math.log(sizes[n].cell / cell));
    return sizes.reduce((best, _, n) => (off(n) < off(best) ? n : best), 0);
  };
  const movable = (): boolean => isMovable(grid, { width, height });
  const reveal = ([left, top]: readonly [number, number]): void => {
    const axes = headersOf(grid);
    const near = (start: number, from: number, to: number, now: number): number => Math.max(Math.min(now, start - 4 - from), start + grid.cell + 4 - to);
    sight.scrollTo(near(left, axes.left, width, sight.scrollLeft), near(top, axes.top, height, sight.scrollTop));
  };
  const resize = (wanted: number, x?: number, y?: number): void => {
    const to = Math.min(sizes.length - 1, Math.max(0, wanted));
    if (to === at) return;
    const before = grid;
    const [left, top] = corner();
    const middle = [left + grid.cell / 2 - sight.scrollLeft, top + grid.cell / 2 - sight.scrollTop];
    const seen = x === undefined && middle[0] > 0 && middle[1] > 0 && middle[0] < width && middle[1] < height;
    const [fx, fy] = seen ? middle : [x ?? width / 2, y ?? height / 2];
    const spot = [fx + sight.scrollLeft, fy + sight.scrollTop] as const;
    chosen = to === home ? 0 : sizes[to].cell;
    resized();
    const [nx, ny] = moved(before, grid, ...spot);
    sight.scrollTo(nx - Math.min(fx, width), ny - Math.min(fy, height));
    if (seen) reveal(corner());
  };
  const step = (steps: number): void => {
    pinched = 0;
    resize(at + steps);
  };

  const buttons = ([["smaller heads (−)", "−", -1], ["larger heads (+)", "+", 1], ["fit: all heads at once (0)", "fit", -Infinity]] as const).map(([name, sign, steps]) => {
    const button = element("button", { type: "button", "aria-label": name, title: name, "data-zoom": sign }, sign);
    button.addEventListener("click", () => { step(steps); });
    return button;
  });
  const zoom = element("div", { role: "group", "aria-label": "Size of the heads", class: "attn-segmented" }, ...buttons);

  return {
    el, sight, zoom, step, reveal,
    get grid() {
      return grid;
    },
    get window() {
      return { x: sight.scrollLeft, y: sight.scrollTop, width, height };
    },
    get movable() {
      return movable();
    },
    layOut(shape, room, anew) {
      if (anew) chosen = pinched = 0;
      ({ sizes, home } = sizesFor(shape, room));
      at = chosen === 0 ? home : nearest(chosen);
      grid = gridFor(shape, room, sizes[at]);
      [width, height] = [Math.min(room, grid.width), Math.min(TALLEST, grid.height)];
      Object.assign(el.style, { width: `${width}px`, height: `${height}px` });
      Object.assign(sight.dataset, { cell: String(grid.cell), level: grid.cell < GLYPH ? "glyphs" : grid.cell < WHOLE ? "thumbnails" : "maps" });
      sight.classList.toggle("attn-movable", movable());
      for (const [n, button] of buttons.entries()) button.ariaDisabled = String(at === (n === 1 ? sizes.length - 1 : 0));
    },
    rest() {
      pinched = 0;
    },
    stretch(factor, x, y) {
      pinched = Math.min(2 * sizes[sizes.length - 1].cell, Math.max(sizes[0].cell / 2, (pinched || grid.cell) * factor));
      resize(nearest(pinched), x, y);
    },
  };
}
