/** One widget in one element, whatever the host: open the bundle, mount the frame, and start again when another one is to be shown. */

import { mount } from "./frame.ts";
import type { Model, Notice } from "./state.ts";
import { connect, follow } from "./state.ts";
import type { Tiles, Transport } from "./tiles.ts";
import { openTiles } from "./tiles.ts";
import { atEnd } from "./until.ts";
import { bytesOf, wordsOf } from "./wire.ts";

const WAIT = 400; // milliseconds before a wait is mentioned, or a picture is shown that has not been drawn

const PATIENCE = 6000; // milliseconds after which a kernel that was never heard may be none
const SILENT: Notice = { missing: false, words: "No kernel has answered yet. If none is running, run the cell again." };
const GONE: Notice = { missing: false, words: "The kernel has stopped or was restarted. What is here still works; run the cell again for the rest." };

/** Shows what `model` holds in `el` until `signal` aborts. What cannot be shown is said in words, in its place. */
export function show(model: Model, el: HTMLElement, signal: AbortSignal): void {
  const { state, transport: sender, bundle, onBundle, onGone } = connect(model, signal);
  const ended = new AbortController(); // of the kernel
  const gone = ended.signal;
  let heard = false; // saved notebooks take messages, and nobody hears them
  const hear = (): void => {
    heard = true;
    if (state.get("notice") === SILENT) state.set({ notice: null });
  };
  const doubt = (): void => { if (!heard && !signal.aborted && !gone.aborted && state.get("notice")?.missing !== true) state.set({ notice: SILENT }); };
  const transport = sender && {
    ...sender,
    gone,
    send: (content: unknown): void => {
      gone.throwIfAborted();
      sender.send(content);
      if (!heard) setTimeout(doubt, PATIENCE);
    },
  };
  transport?.onMessage(hear, signal);
  let opening = new AbortController();
  let shown: { tiles: Tiles; controller: AbortController } | null = null;

  const start = async (): Promise<void> => {
    opening.abort();
    const controller = (opening = new AbortController());
    try {
      const bytes = bytesOf(bundle());
      if (bytes === null || bytes.byteLength === 0) throw new Error("There is nothing to show: no attention came with this widget.");
      const sample = state.get("sample");
      const tiles = await openTiles(bytes, transport, controller.signal, sample);
      if (controller.signal.aborted) return;
      const { count, at } = tiles.meta.samples;
      if (at !== sample && sample < count && shown !== null) {
        controller.abort(); // the picture before stays
        say(tiles, sample);
        return;
      }
      const first = shown === null;
      shown?.controller.abort();
      opening = new AbortController();
      state.set({ hover: null, expanded: [], notice: usual(), map: { status: "loading", since: performance.now(), previous: null } }, { commit: false });
      follow(state, tiles, controller.signal);
      if (first) el.replaceChildren();
      const root = mount({ el, state, tiles, signal: controller.signal });
      shown = { tiles, controller };
      if (!first) exchange(el, root);
      if (sample >= count) state.set({ sample: at }, { commit: false });
      else if (at !== sample) say(tiles, sample);
    } catch (error) {
      if (controller.signal.aborted) return;
      shown?.controller.abort();
      shown = null;
      complain(el, error);
    }
  };
  const usual = (): Notice | null => (gone.aborted ? GONE : null);
  /** Why `sample` is not on screen. */
  const say = ({ meta: { samples } }: Tiles, sample: number): void => {
    const name = `${samples.noun} ${sample + 1} of ${samples.count}`;
    if (!answers(transport)) {
      const [where, how] = gone.aborted ? ["here, and the kernel has stopped or was restarted", "Run the cell again"] : ["in this page", "A larger budget would include it"];
      state.set({ notice: { missing: true, words: `${name.charAt(0).toUpperCase()}${name.slice(1)} is not stored ${where}. ${how}.` } });
      return;
    }
    const own = opening.signal;
    setTimeout(() => { if (opening.signal === own && !signal.aborted) state.set({ notice: { missing: false, words: `waiting for the kernel: ${name} …` } }); }, WAIT);
  };

  atEnd(signal, () => {
    opening.abort();
    shown?.controller.abort();
    el.replaceChildren();
  });
  state.on("sample", () => {
    const back = shown?.tiles.meta.samples.at === state.get("sample");
    if (!back) return void start();
    opening.abort();
    opening = new AbortController();
    state.set({ notice: usual() });
  }, signal);
  onGone(() => {
    ended.abort();
    const sample = state.get("sample");
    if (shown === null || shown.tiles.meta.samples.at === sample) state.set({ notice: GONE });
    else say(shown.tiles, sample);
  }, signal);
  onBundle(() => {
    hear();
    void start();
  }, signal);
  void start();
}

/** Whether there is somebody to send messages to: static hosts may offer to, and throw. */
function answers(transport: Transport | null): boolean {
  try {
    transport?.send({ type: "cancel", ids: [] });
    return transport !== null;
  } catch {
    return false;
  }
}

/** Puts `after` in the place of what `el` shows as soon as it is drawn, so that nothing empty is seen; the keyboard goes along. */
function exchange(el: HTMLElement, after: HTMLElement): void {
  const [before, ...between] = [...el.children].filter((one): one is HTMLElement => one instanceof HTMLElement && one !== after);
  const { offsetLeft, offsetTop, offsetWidth } = before;
  const had = el.querySelector<HTMLElement>("[data-keep]:focus")?.dataset["keep"];
  const hidden = { position: "absolute", opacity: "0", left: `${offsetLeft}px`, top: `${offsetTop}px`, width: `${offsetWidth}px` };
  Object.assign(after.style, hidden);
  if (had !== undefined) after.querySelector<HTMLElement>(`[data-keep="${had}"]`)?.focus({ preventScroll: true });
  for (const one of between) one.remove(); // overtaken before it was drawn
  delete before.dataset["attnReady"];
  const done = (): void => {
    if (!after.isConnected) return;
    before.remove();
    for (const name of Object.keys(hidden)) after.style.removeProperty(name);
  };
  after.addEventListener("attn-drawn", () => requestAnimationFrame(done), { once: true });
  setTimeout(done, WAIT);
}

/** Puts the words of an error where the picture would be; over the still one that a page may have there. */
export function complain(el: HTMLElement, error: unknown): void {
  const words = document.createElement("p");
  words.setAttribute("role", "alert");
  words.textContent = `attnwidget: ${wordsOf(error)}`;
  el.replaceChildren(words, ...el.querySelectorAll(":scope > img"));
}
