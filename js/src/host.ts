/** One widget in one element, whatever the host: open the bundle, mount the frame, and start again when the bundle changes. */

import { mount } from "./frame.ts";
import type { Model } from "./state.ts";
import { connect, follow } from "./state.ts";
import { openTiles } from "./tiles.ts";
import { bytesOf } from "./wire.ts";

/** Shows what `model` holds in `el` until `signal` aborts. What cannot be shown is said in words, in its place. */
export function show(model: Model, el: HTMLElement, signal: AbortSignal): void {
  const { state, transport, bundle, onBundle } = connect(model, signal);
  let shown = new AbortController();

  const start = async (): Promise<void> => {
    shown.abort();
    shown = new AbortController();
    const own = shown.signal;
    el.replaceChildren();
    try {
      const bytes = bytesOf(bundle());
      if (bytes === null || bytes.byteLength === 0) throw new Error("There is nothing to show: no attention came with this widget.");
      const tiles = await openTiles(bytes, transport, own);
      if (own.aborted) return;
      state.set({ hover: null, map: { status: "loading", since: performance.now(), previous: null } }, { commit: false });
      follow(state, tiles, own);
      mount({ el, state, tiles, signal: own });
    } catch (error) {
      if (!own.aborted) complain(el, error);
    }
  };

  signal.addEventListener(
    "abort",
    () => {
      shown.abort();
      el.replaceChildren();
    },
    { once: true },
  );
  onBundle(() => void start(), signal);
  void start();
}

/** Puts the words of an error where the picture would be. */
export function complain(el: HTMLElement, error: unknown): void {
  const words = document.createElement("p");
  words.setAttribute("role", "alert");
  words.textContent = `attnwidget: ${error instanceof Error ? error.message : String(error)}`;
  el.replaceChildren(words);
}
