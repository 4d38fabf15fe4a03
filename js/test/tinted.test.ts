/** What tokens are tinted by, without a browser. */

import { expect, it, vi } from "vitest";

import type { Shown } from "../src/state.ts";
import { State } from "../src/state.ts";
import { tinted } from "../src/tinted.ts";
import { weightMap } from "../src/math.ts";
import { plain } from "../src/a11y.ts";
import { bundleMeta } from "../src/wire.ts";
import { block, bundleMetaOf, weights } from "./fixtures.ts";

it("a column that cannot be had is said, and asked for again when one comes back to it", async () => {
  const { axes: [axis] } = bundleMeta(block("bundle", bundleMetaOf(), {}));
  const column = vi.fn(() => Promise.reject(new Error("There is no kernel to ask.")));
  const at: Shown = {
    map: { ...weightMap(weights([[1, 0, 0], [1, 0, 0], [1, 0, 0]])), pooled: true, row: () => null, column: () => null },
    row: () => Promise.resolve(Float32Array.of(1, 0, 0)), column,
    selection: { part: "decoder", layer: 0, head: 0, reduce: "mean" }, axes: { queries: axis, keys: axis }, groups: { queries: null, keys: null }, overlaid: [],
  };
  const state = new State({ pinned: [1], map: { status: "ready", ...at } });
  const changed = vi.fn();
  const made = tinted({ state, signal: new AbortController().signal }, changed);
  made.load(at);
  const words = (): string => plain(made.line(true, (_, place) => [{ kind: "token", text: `${place}` }]).words);
  expect(words()).toBe("What attends to 1");
  await vi.waitFor(() => { expect(words()).toBe("There is no kernel to ask."); });
  words();
  expect(column).toHaveBeenCalledTimes(1); // drawing again does not ask again
  for (const pinned of [[2], [1]]) {
    state.set({ pinned });
    words();
  }
  expect(column).toHaveBeenCalledTimes(3);
});
