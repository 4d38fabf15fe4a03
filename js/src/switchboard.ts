/** The controls of the steps: which query, and what is done otherwise than in the model. */

import { cut, element, slid } from "./a11y.ts";
import type { Head, Row, Switches } from "./head.ts";
import { HIDDEN } from "./head.ts";
import { figure, scaleText } from "./stages.ts";
import type { State } from "./state.ts";
import { SWITCHES } from "./state.ts";
import { listen } from "./until.ts";

const TOGGLES = ["scale", "mask", "positions", "uniform"] as const;

const STOPS = 20; // of the keyboard, from one temperature to ten times that

/** A temperature from its logarithm, rounded so that round numbers can be had. */
export const heat = (at: number): number => Number((10 ** Math.min(1, Math.max(-1, at))).toPrecision(2));

const button = (attributes: Record<string, string>, text = ""): HTMLButtonElement => element("button", { type: "button", ...attributes }, text);

export class Switchboard {
  readonly #query = element("select", { "aria-label": "Query" });
  readonly #toggles = TOGGLES.map((name) => button({ role: "switch", class: "attn-switch", "data-switch": name }));
  readonly #slider = element("input", { type: "range", min: -1, max: 1, step: 0.01, "aria-label": "Temperature" });
  readonly #temperature = element("span");
  readonly #reset = button({ class: "attn-button", "data-reset": "" }, "reset");
  readonly #reasons = element("p", { class: "attn-quiet" });
  readonly el: HTMLElement;

  constructor(private readonly state: State, choose: (query: number) => void, signal: AbortSignal) {
    const options = element("div", { class: "attn-options", role: "group", "aria-label": "Switches" },
      element("span", { class: "attn-control" }, "query", this.#query), ...this.#toggles,
      element("span", { class: "attn-control" }, "temperature", this.#slider, this.#temperature), this.#reset);
    this.el = element("div", {}, options, this.#reasons);
    const change = (patch: Partial<Switches>, commit = true): void => { state.set({ switches: { ...state.get("switches"), ...patch } }, { commit }); };
    const slide = (commit: boolean) => (): void => { change({ temperature: heat(Number(this.#slider.value)) }, commit); };
    listen(options, { click: ({ target }) => {
      const at = this.#toggles.findIndex((toggle) => toggle === target);
      if (at < 0 || this.#toggles[at].ariaDisabled === "true") return;
      change({ [TOGGLES[at]]: !state.get("switches")[TOGGLES[at]] });
    } }, signal);
    listen(this.#reset, { click: () => { state.set({ switches: SWITCHES }); } }, signal);
    listen(this.#query, { change: () => { choose(Number(this.#query.value)); } }, signal);
    listen(this.#slider, {
      input: slide(false),
      change: slide(true),
      keydown: (event) => {
        const to = slid(event, Math.round(STOPS * (1 + Number(this.#slider.value))), 2 * STOPS + 1);
        if (to === null) return;
        event.preventDefault();
        change({ temperature: heat(to / STOPS - 1) });
      },
    }, signal);
  }

  /** The queries there are to choose from. */
  list(labels: readonly string[]): void {
    this.#query.replaceChildren(...labels.map((label, i) => element("option", { value: i }, `${i}  ${cut(label, 24)}`)));
  }

  /** Shows the query that is chosen and, where it looks at anything (`own` is its row in the model), what can be switched. */
  show(query: number, head: Head, own: Row | null): void {
    this.#query.value = String(query);
    this.#reasons.hidden = true;
    if (own === null) return;
    const { state } = this;
    const switches = state.get("switches");
    const stored = head.why.vectors;
    const nothing = [
      stored ?? (head.scale === 1 ? "this head multiplies its scores by 1" : null),
      stored ?? (own.sees.includes(HIDDEN) ? null : "nothing is masked for this query"),
      head.positions === null ? (head.why.positions ?? stored ?? "this head has none to take away") : null,
      null,
    ];
    const reasons: string[] = [];
    this.#toggles.forEach((toggle, n) => {
      const [name, why] = [TOGGLES[n], nothing[n]];
      const other = switches[name] !== SWITCHES[name];
      toggle.textContent = name === "scale" && head.d !== null ? scaleText(head) : name;
      toggle.ariaChecked = String(switches[name]);
      toggle.ariaDisabled = String(why !== null && !other);
      toggle.classList.toggle("attn-other", why === null && other);
      if (why !== null && why !== stored) reasons.push(`${toggle.textContent}: ${why.replace(/\.$/, "")}`);
    });
    this.#reasons.textContent = `Not to be switched here – ${reasons.join("; ")}.`;
    this.#reasons.hidden = reasons.length === 0;
    this.#slider.value = String(Math.log10(switches.temperature));
    this.#temperature.textContent = this.#slider.ariaValueText = figure(switches.temperature);
    this.#reset.ariaDisabled = String(Object.entries(SWITCHES).every(([name, value]) => switches[name as keyof Switches] === value));
  }
}
