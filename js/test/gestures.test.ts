/** What a pointer does that leaves the element, or is let go outside of it. */

import { beforeEach, describe, expect, it, vi } from "vitest";

import { gestures } from "../src/gestures.ts";

class Box extends EventTarget {
  readonly classList = { add: vi.fn(), remove: vi.fn() };
  readonly setPointerCapture = vi.fn();
  getBoundingClientRect(): object { return { left: 0, top: 0 }; }
}

describe("a drag", () => {
  const pan = vi.fn();
  let box: Box;
  let moves: { readonly dragging: boolean };
  const on = (type: string, event: object): void => { box.dispatchEvent(Object.assign(new Event(type), { pointerId: 1, pointerType: "mouse", button: 0, ...event })); };
  beforeEach(() => {
    pan.mockClear();
    box = new Box();
    moves = gestures(box as unknown as HTMLElement, { zoom: vi.fn(), pan, movable: () => true }, new AbortController().signal);
    on("pointerdown", { clientX: 0, clientY: 0, buttons: 1 });
  });

  it("moves what is in sight", () => {
    on("pointermove", { clientX: 9, clientY: 0, buttons: 1 });
    expect([pan.mock.calls, moves.dragging]).toEqual([[[9, 0]], true]);
  });

  it("is none where the button was let go outside before it was one", () => {
    on("pointermove", { clientX: 9, clientY: 0, buttons: 0 });
    on("pointermove", { clientX: 20, clientY: 0, buttons: 0 });
    expect([pan.mock.calls, moves.dragging]).toEqual([[], false]);
  });

  it("ends where the pointer is taken away", () => {
    on("pointermove", { clientX: 9, clientY: 0, buttons: 1 });
    on("lostpointercapture", {});
    expect(moves.dragging).toBe(false);
  });
});
