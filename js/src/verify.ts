/** What first order only expects, found out: the model runs again without what is in focus, and what changed is said. */

import { closeText, element, Names, plain } from "./a11y.ts";
import type { Groups } from "./combine.ts";
import { focusOf } from "./focus.ts";
import type { Hover, ViewContext } from "./state.ts";
import { axesNow, shown } from "./state.ts";
import { chorded, listen } from "./until.ts";
import type { Block } from "./wire.ts";
import { headsKey, wordsOf } from "./wire.ts";

const ALL: Hover = { query: null, key: null };

/** A button, a key on all of `root`, and a line for what came of it; where there is no objective, nothing. */
export function verifier({ el, state, tiles, signal }: ViewContext, root: HTMLElement): void {
  if (tiles.meta.objective === null) return;
  const { words } = tiles.meta.objective;
  const focus = focusOf({ state, signal });
  const button = element("button", { type: "button", class: "attn-button", title: `Run the model without it, and see what that does to ${words} (V)`, "aria-keyshortcuts": "v" });
  const told = element("p", { class: "attn-verdict", role: "status" });
  el.append(element("div", { class: "attn-row" }, button, told));
  let at = ALL; // stays when the pointer leaves, so that it can go to the button
  let running = new AbortController();

  /** What is verified: an edge, what a query gives, what a key receives, all of the map. */
  const named = (): string => {
    const { queries, keys } = axesNow(state, tiles);
    const [from, to] = [at.query === null ? null : plain(new Names(queries.labels).of(at.query)), at.key === null ? null : plain(new Names(keys.labels).of(at.key))];
    if (from === null) return to === null ? "the whole map" : `what ${to} receives`;
    return to === null ? `what ${from} gives` : `${from} → ${to}`;
  };
  const aim = (next: Hover): void => {
    at = next;
    button.textContent = `verify ${named()}`;
  };
  const follow = (): void => {
    const { queries, key } = focus.current;
    const next = { query: state.get("hover")?.query ?? (key === null && queries.length === 1 ? queries[0] : null), key };
    if (next.query !== null || next.key !== null) aim(next);
  };
  const verify = async (): Promise<void> => {
    const now = shown(state);
    if (now === null) return;
    const what = named();
    running.abort();
    const own = (running = new AbortController()).signal;
    told.textContent = `running the model without ${what} …`;
    delete told.dataset["zero"];
    let said: string;
    try {
      const [query, key] = [tokenAt(now.groups.queries, at.query), tokenAt(now.groups.keys, at.key)];
      const found = await tiles.get(`verified/${now.selection.part}/${headsKey(now.selection)}/${query ?? "*"}/${key ?? "*"}`, { signal: own });
      said = `${what}: ${verdict(found, words)}`;
      told.dataset["zero"] = String(found.meta["zero"]);
    } catch (error) {
      said = wordsOf(error);
    }
    if (!own.aborted) told.textContent = said;
  };

  const anew = (): void => {
    aim(ALL);
    follow();
  };

  focus.on(follow, signal);
  state.on("pinned", anew, signal);
  state.on("map", () => {
    running.abort();
    told.textContent = "";
    anew();
  }, signal);
  listen(button, { click: () => { void verify(); } }, signal);
  listen(root, {
    focusin: ({ target }) => {
      const { query, key } = (target as HTMLElement).closest<HTMLElement>("tr[data-query]")?.dataset ?? {};
      if (query !== undefined) aim({ query: Number(query), key: Number(key) });
    },
    keydown: (event) => {
      if (event.key === "Escape") aim(ALL);
      if (event.key.toLowerCase() !== "v" || chorded(event) || (event.target as HTMLElement).matches("input, select, textarea")) return;
      event.preventDefault();
      void verify();
    },
  }, signal);
  anew();
}

/** The token at a place. */
function tokenAt(groups: Groups | null, place: number | null): number | null {
  if (groups === null || place === null) return place;
  const [token, ...others] = groups.members[place];
  if (others.length > 0) throw new Error("Edges between tokens are verified one by one: show tokens.");
  return token;
}

/** "without it the logit of ' mat' changes by −0.290 (expected −0.312); masked and renormalised: +0.281 (expected +0.350) · p 0.410 → 0.352 · rank 1 → 2". */
export function verdict({ meta }: Block, words: string): string {
  const signed = (name: string): string => `${Number(meta[name]) > 0 ? "+" : ""}${closeText(Number(meta[name]))}`;
  const change = (name: string, expected: string): string => `${signed(name)} (expected ${signed(expected)})`;
  const both = (name: string, text: (value: number) => string): string => (Array.isArray(meta[name]) ? ` · ${name} ${meta[name].map((value) => text(Number(value))).join(" → ")}` : "");
  const masked = typeof meta["knock_out"] === "number" ? `; masked and renormalised: ${change("knock_out", "knock_out_estimate")}` : "";
  return `without it ${words} changes by ${change("zero", "estimate")}${masked}${both("p", closeText)}${both("rank", String)}`;
}
