/** Generation as time: from the first generated token to all of them, by hand or played. */

import { counted, cut, element, slid, spelled } from "./a11y.ts";
import type { ViewContext } from "./state.ts";
import { axesOf } from "./state.ts";
import { atEnd, chorded, listen } from "./until.ts";

const PACE = 340; // milliseconds for a token that is played
const REST = 150; // milliseconds after which Python hears of a step

/** Shows the steps of the part in view in `el`, and hides it where nothing was generated. Tells whether it plays. */
export function scrubber({ el, state, tiles, signal }: ViewContext): { readonly playing: boolean } {
  const range = element("input", { type: "range", min: 0, "aria-label": "Generated token" });
  const button = element("button", { type: "button", class: "attn-play" });
  const said = element("span", { class: "attn-step", "aria-hidden": "true" });
  el.append(button, range, said);
  let clock: ReturnType<typeof setInterval> | undefined;
  let resting: ReturnType<typeof setTimeout> | undefined;

  const axis = (): ReturnType<typeof axesOf>["queries"] => axesOf(tiles.meta, state.get("part")).queries;
  const commit = (): void => { state.set({ step: state.get("step") }); };
  const go = (at: number): void => {
    state.set({ step: stepAt(at, axis().generated.length) }, { commit: false });
    clearTimeout(resting);
    if (clock === undefined) resting = setTimeout(commit, REST);
  };
  const play = (on: boolean): void => {
    if (on === (clock !== undefined)) return;
    clearInterval(clock);
    clock = on ? setInterval(onwards, PACE) : undefined;
    if (on && placeOf(state.get("step"), axis().generated.length) === axis().generated.length) go(0);
    if (!on) commit();
    show();
  };
  const onwards = (): void => {
    go(placeOf(state.get("step"), axis().generated.length) + 1);
    if (state.get("step") === null) play(false);
  };
  const show = (): void => {
    const { generated, labels } = axis();
    const steps = generated.length;
    const at = placeOf(state.get("step"), steps);
    el.hidden = steps === 0;
    range.max = String(steps);
    range.value = String(at);
    const text = at === steps ? [] : [{ kind: "token", text: cut(labels[generated[at]], 24) }, { kind: "words", text: "”" }] as const;
    said.replaceChildren(...spelled([{ kind: "words", text: at === steps ? `all ${counted(steps, "generated token")}` : `token ${at + 1} of ${steps}: “` }, ...text]));
    range.setAttribute("aria-valuetext", said.textContent);
    button.textContent = clock === undefined ? "▶" : "❚❚";
    button.ariaLabel = button.title = clock === undefined ? "Play generation" : "Pause";
  };

  listen(range, {
    input: () => { play(false); go(Number(range.value)); },
    keydown: (event) => {
      if (chorded(event)) return;
      const to = slid(event, Number(range.value), Number(range.max) + 1);
      if (event.key === " ") play(clock === undefined);
      else if (to === null) return;
      else {
        play(false);
        go(to);
      }
      event.preventDefault();
    },
  }, signal);
  listen(button, { click: () => { play(clock === undefined); } }, signal);
  state.on("step", show, signal);
  state.on("part", () => { play(false); show(); }, signal);
  atEnd(signal, () => {
    clearInterval(clock);
    clearTimeout(resting);
  });
  show();
  return {
    get playing() {
      return clock !== undefined;
    },
  };
}

/** Place 0 of the range is the first generated token; the last place, after all of them, is everything. */
export const stepAt = (place: number, steps: number): number | null => (place >= steps ? null : place + 1);
export const placeOf = (step: number | null, steps: number): number => Math.min(steps, (step ?? Infinity) - 1);
