/**
 * Entry of what pages carry inline: a classic script that holds that of `page.ts` packed, and runs it as an inline script
 * of its own. So a page needs to allow inline scripts and nothing else: no eval, no blob, no file.
 */

import { expand, unpack } from "./unpack.ts";

// Put in by build.mjs.
declare const PACKED: string;
declare const SIZE: number;
declare const HASH: string;

const shared = globalThis as unknown as Record<symbol, string | undefined>; // of a page that carries this several times
const script = document.createElement("script");
script.nonce = document.currentScript?.nonce ?? "";
script.textContent = shared[Symbol.for(`attnwidget ${HASH} page`)] ??= expand(unpack(PACKED, SIZE));
document.documentElement.append(script);
script.remove();

// The script has marked the pictures it has taken on. A page whose rules forbid it goes on without a word.
for (const data of document.querySelectorAll('script[type="application/vnd.attnwidget+json"]:not([data-attn-shown])')) {
  const words = document.createElement("p");
  words.textContent = "attnwidget: the rules of this page (its content security policy) keep the script of this picture from running.";
  data.before(words);
}
