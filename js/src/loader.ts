/**
 * Entry of what travels: a module that carries the widget's script packed, and is what that script is. All widgets of a
 * page share the one copy that the first of them unpacks. It is imported from a blob, as anywidget imports this module
 * itself, so a page that lets anywidget in lets this in; `render` returns at once, since not every host waits for a promise.
 */

import type { Render } from "@anywidget/types";

import { expand, unpack } from "./unpack.ts";

// Put in by build.mjs.
declare const PACKED: string;
declare const SIZE: number;
declare const HASH: string;

type Context = Parameters<Render>[0];
interface Widget {
  default: { render: (context: Context) => () => void };
}

const shared = globalThis as unknown as Record<symbol, Promise<Widget> | undefined>;

async function load(): Promise<Widget> {
  const url = URL.createObjectURL(new Blob([expand(unpack(PACKED, SIZE))], { type: "text/javascript" }));
  try {
    return (await import(url)) as Widget;
  } finally {
    URL.revokeObjectURL(url);
  }
}

function render(context: Context): () => void {
  let ended = false;
  let end: (() => void) | null = null;
  (shared[Symbol.for(`attnwidget ${HASH}`)] ??= load()).then(
    (widget) => { if (!ended) end = widget.default.render(context); },
    (error: unknown) => { context.el.textContent = `attnwidget: ${String(error)}`; },
  );
  return () => {
    ended = true;
    end?.();
  };
}

export default { render };
