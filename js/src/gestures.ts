/** Zooming and moving by wheel, drag, double click and pinch, so that a page can still be scrolled. */

import { listen } from "./until.ts";

export interface Moves {
  /** `x`, `y` of the element stay where they are. */
  zoom(factor: number, x: number, y: number): void;
  pan(dx: number, dy: number): void;
  /** Whether there is anything to move to. */
  movable(): boolean;
}

const SLOP = 4; // pixels that are still a click
const NOTCH = 100; // pixels of wheel that double, roughly
const PINCHED = 8; // a pinch on a trackpad comes as a wheel that turns little

/**
 * The wheel zooms where `el` has the keyboard, or with Ctrl or ⌘; else the page scrolls. A drag, and a finger, move what is
 * zoomed in. Tells whether a drag is under way; the click that ends one is kept from `el`.
 */
export function gestures(el: HTMLElement, moves: Moves, signal: AbortSignal): { readonly dragging: boolean } {
  const down = new Map<number, { x: number; y: number }>();
  let dragging = false;
  let dragged = false;

  const inside = (x: number, y: number): readonly [number, number] => {
    const box = el.getBoundingClientRect();
    return [x - box.left, y - box.top];
  };
  const end = (event: PointerEvent): void => {
    if (!down.delete(event.pointerId) || down.size > 0) return;
    dragging = false;
    el.classList.remove("attn-dragging");
  };
  const pinch = (before: readonly { x: number; y: number }[], after: readonly { x: number; y: number }[]): void => {
    const apart = ([a, b]: typeof before): number => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    const middle = ([a, b]: typeof before): readonly [number, number] => [(a.x + b.x) / 2, (a.y + b.y) / 2];
    const [from, to] = [middle(before), middle(after)];
    moves.zoom(apart(after) / apart(before), ...inside(...to));
    moves.pan(to[0] - from[0], to[1] - from[1]);
  };

  listen(el, {
    wheel: (event) => {
      const wanted = event.ctrlKey || event.metaKey;
      if (!wanted && !el.matches(":focus")) return;
      if (!wanted && event.deltaY > 0 && !moves.movable()) return; // nothing further out: the page scrolls
      event.preventDefault();
      const turned = event.deltaY * (event.deltaMode === 0 ? 1 : 33);
      const fine = event.ctrlKey && Math.abs(turned) < 30 ? PINCHED : 1;
      moves.zoom(2 ** ((-turned * fine) / NOTCH), ...inside(event.clientX, event.clientY));
    },
  }, signal, { passive: false });
  listen(el, {
    pointerdown: (event) => {
      if (event.button !== 0) return;
      if (event.pointerType === "touch" ? down.size === 2 : !moves.movable()) return;
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      dragged = false;
    },
    pointermove: (event) => {
      const from = down.get(event.pointerId);
      if (from === undefined) return;
      if (event.buttons === 0) return end(event); // it was let go elsewhere
      const to = { x: event.clientX, y: event.clientY };
      if (!dragging && down.size === 1) {
        if (!moves.movable() || Math.hypot(to.x - from.x, to.y - from.y) < SLOP) return;
        el.setPointerCapture(event.pointerId);
        el.classList.add("attn-dragging");
      }
      dragging = dragged = true;
      const before = [...down.values()];
      down.set(event.pointerId, to);
      if (before.length === 2) pinch(before, [...down.values()]);
      else moves.pan(to.x - from.x, to.y - from.y);
    },
    pointerup: end,
    pointercancel: end,
    lostpointercapture: end,
    dblclick: (event) => {
      moves.zoom(event.shiftKey ? 0.5 : 2, ...inside(event.clientX, event.clientY));
    },
  }, signal);
  listen(el, {
    click: (event) => {
      if (dragged) event.stopImmediatePropagation();
      dragged = false;
    },
  }, signal, { capture: true });
  return {
    get dragging() {
      return dragging;
    },
  };
}
