/** What lasts until a signal aborts. */

type Heard = { readonly [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };

/** Calls each function of `heard` on the event it is named after. */
export function listen(target: EventTarget, heard: Heard, signal: AbortSignal, options: AddEventListenerOptions = {}): void {
  for (const [name, listener] of Object.entries(heard)) target.addEventListener(name, listener as (event: Event) => void, { signal, ...options });
}

/** Whether a key is part of a chord, which belongs to the browser or the notebook. */
export const chorded = ({ ctrlKey, metaKey, altKey }: KeyboardEvent): boolean => ctrlKey || metaKey || altKey;

/** Calls `act` when `signal` aborts. */
export function atEnd(signal: AbortSignal, act: () => void): void {
  signal.addEventListener("abort", act, { once: true });
}
