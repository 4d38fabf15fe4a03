/** Views that are kept under a name, the code that makes a view again, and its picture. */

import { element } from "./a11y.ts";
import { figure } from "./figure.ts";
import type { State, ViewContext } from "./state.ts";
import { readTraits, told, TRAITS, traitsOf } from "./state.ts";
import { listen } from "./until.ts";
import type { BundleMeta } from "./wire.ts";

/** A button with a small panel: the named views, a name for this one, and its code to copy. Returns the panel. */
export function saved({ el, state, tiles, signal }: ViewContext): HTMLElement {
  const button = element("button", { type: "button", class: "attn-button", "aria-expanded": "false", "aria-label": "Views, code and figures", title: "Views, code and figures" }, "⋯");
  const name = element("input", { type: "text", "aria-label": "Name for this view", placeholder: "name this view", maxlength: 60 });
  const save = element("button", { type: "button", class: "attn-button" }, "Save");
  const list = element("ul", { "aria-label": "Saved views" });
  const copy = element("button", { type: "button", class: "attn-button" }, "Copy code");
  const code = element("textarea", { readonly: "", rows: 3, "aria-label": "Code of this view", spellcheck: "false" });
  const done = element("span", { class: "attn-quiet", role: "status" });
  const panel = element("div", { class: "attn-menu", role: "group", "aria-label": "Views, code and figures" }, list, element("div", { class: "attn-row" }, name, save), code, element("div", { class: "attn-row" }, copy, done));
  const showFigure = figure({ el: panel, state, tiles, signal });
  panel.hidden = true;
  el.append(button, panel);

  const open = (on: boolean): void => {
    panel.hidden = !on;
    button.ariaExpanded = String(on);
    done.textContent = "";
    if (on) show();
  };
  const show = (): void => {
    if (panel.hidden !== false) return;
    showFigure();
    code.value = codeOf(state, tiles.meta);
    const names = Object.keys(state.get("views"));
    list.hidden = names.length === 0;
    list.replaceChildren(...names.map((one) => element("li", {},
      element("button", { type: "button", class: "attn-button", "data-view": one, dir: "auto" }, one),
      element("button", { type: "button", class: "attn-button", "data-forget": one, "aria-label": `Forget ${one}`, title: `Forget ${one}` }, "×"),
    )));
  };
  const change = (views: Readonly<Record<string, Readonly<Record<string, unknown>>>>): void => { state.set({ views }); };

  listen(button, { click: () => { open(panel.hidden !== false); } }, signal);
  listen(el, {
    keydown: (event) => {
      if (event.key !== "Escape" || panel.hidden) return;
      event.stopPropagation();
      open(false);
      button.focus();
    },
  }, signal);
  listen(list, {
    click: ({ target }) => {
      const { view, forget } = target instanceof HTMLElement ? target.dataset : {};
      if (view !== undefined) state.set({ ...readTraits(state.get("views")[view]), hover: null, expanded: [] });
      if (forget !== undefined) change(Object.fromEntries(Object.entries(state.get("views")).filter(([one]) => one !== forget)));
    },
  }, signal);
  const keep = (): void => {
    const wanted = name.value.trim();
    if (wanted === "") return;
    change({ ...state.get("views"), [wanted]: traitsOf(state) });
    name.value = "";
    done.textContent = `saved as “${wanted}”`;
  };
  // No form: notebooks take its Enter. Nor do they get the letters of a name, which are commands to them.
  listen(save, { click: keep }, signal);
  listen(name, {
    keydown: (event) => {
      if (event.key === "Escape") return;
      event.stopPropagation();
      if (event.key === "Enter") keep();
    },
  }, signal);
  listen(copy, {
    click: () => {
      code.select();
      // Pages in frames may have no clipboard: what is selected can be copied by hand.
      const written = navigator.clipboard?.writeText(code.value) ?? Promise.reject(new Error("no clipboard"));
      written.then(() => "copied", () => "selected: copy it with the keyboard").then((words) => { done.textContent = words; }, () => undefined);
    },
  }, signal);
  state.on(TRAITS, show, signal);
  return panel;
}

/**
 * `AttentionWidget(attention, layer=5, head=3, view="heatmap")`: what differs from a widget of which nothing is said. Which
 * sample and part these are depends on the attention, so they are said wherever there are several.
 */
export function codeOf(state: State, { parts, samples, objective }: Pick<BundleMeta, "parts" | "samples" | "objective">): string {
  const given = parts.some(({ measures }) => measures.some(({ name, title }) => name === title)) ? ["measures=measures"] : []; // somebody's own
  const several = [["part", parts.length > 1], ["sample", samples.count > 1]] as const;
  const named = several.flatMap(([name, is]) => (is ? [[name, state.get(name)] as const] : []));
  const traits = [...named, ...told(state).filter(([name]) => !["theme", "part", "sample"].includes(name))];
  return `AttentionWidget(${[objective === null ? "attention" : "trace", ...given, ...traits.map(([name, value]) => `${name}=${python(value)}`)].join(", ")})`;
}

/** A value as Python writes it. */
function python(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((item: unknown) => (Array.isArray(item) ? `(${item.map(python).join(", ")})` : python(item))).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item)}`).join(", ")}}`;
  return JSON.stringify(value);
}
