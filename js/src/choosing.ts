/** Which heads are chosen: by a click, with keys, or brushed; and the frames around them. */

import { counted, element } from "./a11y.ts";
import type { Board } from "./board.ts";
import type { Cell, Order } from "./grid.ts";
import { exists, neighbour, placeOf, placesIn, sameCell, within } from "./grid.ts";
import type { Lens } from "./lens.ts";
import type { State } from "./state.ts";
import { JOINED, tooMany } from "./state.ts";
import { css, paletteAt } from "./theme.ts";
import { atEnd, listen } from "./until.ts";
import type { HeadAt } from "./wire.ts";

export interface Choosing {
  /** The heads that are chosen together, or the one cell. */
  readonly chosen: readonly Cell[];
  /** A brush may move, or does. */
  readonly held: boolean;
  /** What it is over, in words. */
  readonly brushing: string | null;
  /** Frames what is chosen; the frame glides where that follows a decision, and no change of size. */
  show(glides: boolean): void;
  /** Reads the cells again; the keyboard goes to the one that is chosen. */
  home(): void;
}

interface Told {
  state: State;
  board: Board;
  lens: Lens;
  order: () => Order;
  /** Other heads are under the brush. */
  brushed: () => void;
  say: (words: string) => void;
}

const SLOP = 4; // pixels that are still a click
const LONG = 450; // milliseconds after which a finger brushes

/** An element that is put around cells, and is read from the cells. */
export const frameElement = (name: string): HTMLElement => element("div", { class: `attn-frame ${name}`, "aria-hidden": "true", hidden: "" });

export function choosing({ state, board, lens, order, brushed, say }: Told, signal: AbortSignal): Choosing {
  const [one, brush] = [frameElement("attn-selected"), frameElement("attn-brush")];
  const several = element("div", { "aria-hidden": "true" });
  board.el.append(several, one, brush);
  let anchor: Cell | null = null; // where a rectangle of heads starts
  let held = false;
  let under: readonly HeadAt[] | null = null; // the heads under it
  let ended = false; // the click that ends it means nothing
  let resting: ReturnType<typeof setTimeout> | undefined; // a finger
  let pressed: readonly [x: number, y: number] = [0, 0];

  const cellsNow = (): Cell[] => state.get("heads").map(([layer, head]) => ({ layer, head }));
  const selection = (): Cell => ({ layer: state.get("layer"), head: state.get("head") });
  const chosen = (): Cell[] => (state.get("heads").length > 0 ? cellsNow() : [selection()]);

  /** One head is shown by itself, several are joined, too many are refused in words. */
  const choose = (heads: readonly HeadAt[]): void => {
    if (heads.length > JOINED) say(tooMany(heads.length));
    else if (heads.length > 1) state.set({ heads });
    else if (heads.length > 0) pick({ layer: heads[0][0], head: heads[0][1] });
  };
  const pick = (cell: Cell | null): void => {
    if (cell === null) return;
    anchor = cell;
    state.set({ ...cell, heads: [] });
  };
  const toggle = (cell: Cell | null): void => {
    if (cell === null) return;
    anchor = cell;
    board.moveTo(cell);
    const others = chosen().filter((other) => !sameCell(other, cell));
    const left = others.length < chosen().length ? others : [...others, cell];
    choose(left.flatMap(({ layer, head }): HeadAt[] => (layer === null || head === null ? [] : [[layer, head]])));
  };
  /** The rectangle from where the choice began. */
  const extend = (to: Cell | null): void => {
    if (to === null) return;
    const at = order();
    if (anchor === null || !exists(anchor, at)) anchor = board.active;
    choose(within(at, placeOf(at, anchor), placeOf(at, to)));
    board.moveTo(to);
  };

  const brushTo = (event: PointerEvent): void => {
    const [[x, y], [x0, y0]] = [board.inside(event), pressed];
    if (under === null && Math.hypot(x - x0, y - y0) < SLOP) return;
    clearTimeout(resting);
    if (!held || (event.buttons & 1) === 0) return;
    ended = true;
    board.el.setPointerCapture(event.pointerId);
    const [left, top, right, bottom] = [Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)];
    const { r0, r1, c0, c1 } = placesIn(lens.grid, left, top, right, bottom);
    under = r1 <= r0 || c1 <= c0 ? [] : within(order(), { row: r0, col: c0 }, { row: r1 - 1, col: c1 - 1 });
    brush.hidden = false;
    Object.assign(brush.style, { transform: `translate(${left}px, ${top}px)`, width: `${right - left}px`, height: `${bottom - top}px` });
    brushed();
  };
  const end = (heads: readonly HeadAt[]): void => {
    clearTimeout(resting);
    held = false;
    under = null;
    brush.hidden = true;
    brushed();
    choose(heads);
  };

  const key = ({ key: name, shiftKey, ctrlKey, metaKey, altKey }: KeyboardEvent): boolean => {
    const enter = name === "Enter" || name === " ";
    if (ctrlKey || metaKey || altKey) {
      if (enter) toggle(board.active);
      return enter;
    }
    const next = neighbour(order(), board.active, name);
    if (enter) pick(board.active);
    else if (name === "Escape" && state.get("heads").length > 0) state.set({ heads: [] });
    else if (next === null) return zoomed(name);
    else {
      if (shiftKey) extend(next);
      else anchor = null;
      board.moveTo(next, true);
    }
    return true;
  };
  const zoomed = (name: string): boolean => {
    const steps = { "+": 1, "=": 1, "-": -1, "−": -1, "0": -Infinity }[name];
    if (steps !== undefined) lens.step(steps);
    return steps !== undefined;
  };

  // A drag brushes where all is in sight, or with Shift, or where a finger has rested; else it moves what is in sight.
  listen(lens.sight, {
    pointerdown: (event) => {
      ended = false;
      pressed = board.inside(event);
      clearTimeout(resting);
      lens.rest();
      if (event.pointerType !== "touch") held = event.button === 0 && (event.shiftKey || !lens.movable);
      else if (event.isPrimary) resting = setTimeout(() => { held = true; }, LONG);
    },
  }, signal, { capture: true });
  const keep = (event: Event): void => { if (held) event.preventDefault(); };
  listen(lens.sight, { touchmove: keep, contextmenu: keep }, signal, { passive: false });
  listen(board.el, {
    pointermove: brushTo,
    pointerup: () => { end(under ?? []); },
    pointercancel: () => { end([]); },
    click: (event) => {
      if (ended) return;
      const cell = board.under(event);
      if (event.shiftKey) extend(cell);
      else if (event.ctrlKey || event.metaKey) toggle(cell);
      else pick(cell);
    },
    keydown: (event) => { if (key(event)) event.preventDefault(); },
  }, signal);
  atEnd(signal, () => { clearTimeout(resting); });

  return {
    get chosen() {
      return chosen();
    },
    get held() {
      return held;
    },
    get brushing() {
      return under === null ? null : `${counted(under.length, "head")} · ${under.length > JOINED ? `${JOINED} at most` : state.get("reduce")}`;
    },
    show(glides) {
      const heads = cellsNow().filter((cell) => exists(cell, order()));
      const colours = paletteAt(lens.el).several;
      const apart = state.get("overlay") && heads.length > 1 && heads.length <= colours.length;
      several.replaceChildren(...heads.map((cell, n) => {
        const frame = element("div", { class: "attn-frame attn-chosen", "data-chosen": `${cell.layer}.${cell.head}` });
        if (apart) {
          frame.style.setProperty("--own", css(colours[n]));
          frame.append(element("span", {}, String(n + 1)));
        }
        board.frame(frame, cell);
        return frame;
      }));
      one.classList.toggle("attn-gliding", glides);
      const single = state.get("heads").length === 0 && exists(selection(), order());
      board.frame(one, single ? selection() : null);
    },
    home() {
      if (state.get("heads").length === 0) board.moveTo(selection());
      else board.refresh();
    },
  };
}
