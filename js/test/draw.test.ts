/** Canvases are as large as they are asked to be, whatever the zoom of the browser. */

import { afterEach, expect, it, vi } from "vitest";

import { fit } from "../src/draw.ts";

afterEach(() => { vi.unstubAllGlobals(); });

it("a canvas of as many pixels of the screen, but fewer of the page, takes up less of the page", () => {
  const pen = { setTransform: vi.fn(), clearRect: vi.fn() };
  const canvas = { width: 0, height: 0, style: { width: "", height: "" }, getContext: () => pen };
  const sized = (ratio: number, width: number, height: number): unknown[] => {
    vi.stubGlobal("window", { devicePixelRatio: ratio });
    fit(canvas as unknown as HTMLCanvasElement, width, height);
    return [canvas.width, canvas.height, canvas.style.width, canvas.style.height];
  };
  expect(sized(1, 300, 200)).toEqual([300, 200, "300px", "200px"]);
  expect(sized(2, 150, 100)).toEqual([300, 200, "150px", "100px"]);
  expect(pen.setTransform).toHaveBeenLastCalledWith(2, 0, 0, 2, 0, 0);
});
