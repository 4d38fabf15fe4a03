/** Pointer and keyboard over what is numbered: it is pointed at, pressed, and walked with the arrows. */

import { chorded, listen } from "./until.ts";

export interface Heard {
  point: (at: number | null) => void;
  press: (at: number) => void;
  escape: () => void;
}

/** Where an event is, where a key leads from there, and what to do to have the keyboard there. */
export interface Walk {
  at: (event: Event) => number | null;
  to: (key: string, at: number) => number | null;
  go: (to: number) => void;
}

export function hear(el: HTMLElement, heard: Heard, { at, to, go }: Walk, signal: AbortSignal): void {
  listen(el, {
    pointermove: (event) => { heard.point(at(event)); },
    pointerleave: () => { heard.point(null); },
    focusin: (event) => { if (event.target instanceof Element && event.target.matches(":focus-visible")) heard.point(at(event)); },
    focusout: ({ relatedTarget }) => { if (relatedTarget !== null) heard.point(null); }, // null: it was drawn anew
    click: (event) => {
      const place = at(event);
      if (place === null) return;
      go(place);
      heard.press(place);
    },
    keydown: (event) => {
      const place = at(event);
      if (place === null || chorded(event)) return;
      const next = to(event.key, place);
      if (event.key === "Escape") heard.escape();
      else if (event.key === "Enter" || event.key === " ") heard.press(place);
      else if (next === null) return;
      else go(next);
      event.preventDefault();
    },
  }, signal);
}

/** The token of the element that an event is in, by its `data-query` or `data-key`. */
export function tokenAt({ target }: Event): number | null {
  const data = target instanceof Element ? target.closest<HTMLElement>("[data-query], [data-key]")?.dataset : undefined;
  return data === undefined ? null : Number(data["query"] ?? data["key"]);
}
