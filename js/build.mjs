// Bundles from one source, each a single file without imports:
//   widget.js        an ES module for notebooks. It travels, and is stored, once per widget: so it is packed, and unpacks itself
//   page.packed.js   a classic script that pages carry inline; packed, it unpacks itself into another inline script
//   page.js          the same script as it is, for a page whose rules let files in and nothing inline
// `node build.mjs` writes what ships; `node build.mjs --watch` rebuilds on every change, readable and unminified.

import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build, context, transform } from "esbuild";
import lzma from "lzma";
import { minify } from "terser";

const BUDGETS = { "widget.js": 100_000, "page.js": 260_000, "page.packed.js": 104_000 }; // bytes of what travels, minified
const HEADER = 13; // bytes of an LZMA file before its data
// What the script says most often: a character for each takes two hundredths off what LZMA makes of it. At most 31; one that is part of another comes after it.
const WORDS = ["queries", ";for(let ", "weight", "let", "this.#", "return", "Math.", "null", "let ", "attn-", "function", "length", "===", "class", "query", ".replaceChildren(", ".get(", "void ", "this", "new ", "value", "height", "max(", "data", "threshold", "aria", "button", "from", ".map(", "constructor(", "Array"];
// Names of fields that only our own code speaks, no host, no data and no other language: they are sent short. test/floors.test.ts has an eye on them.
const OURS = "arrived beside biased brushed brushing compared cornerOf curve depth failure gaps indices inside kvHead lacks lanes layOut leaking leaks lifted members offered onBand onBundle onGone onMessage outcome outside painted perLine pitch playing pooledAs reduced refuse region restCount reveal rise scored sees sharing strand stretch stride tops unscaled widest";
const watch = process.argv.includes("--watch");
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** `import css from "./widget.css"` gives the minified style sheet as text. */
const cssAsText = {
  name: "css-as-text",
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      if (watch) return { contents: source, loader: "text", watchFiles: [path] };
      const { code } = await transform(source, { loader: "css", minify: true });
      return { contents: code.trim(), loader: "text" };
    });
  },
};

const COMMON = { bundle: true, minify: !watch, target: "es2022", charset: "utf8", legalComments: "none", logLevel: "warning", plugins: [cssAsText] };
const STATIC = here("../attnwidget/static/");
const WIDGET = { entryPoints: [here("src/widget.ts")], outfile: `${STATIC}widget.js`, format: "esm", ...COMMON };
const PAGE = { entryPoints: [here("src/page.ts")], outfile: `${STATIC}page.js`, format: "iife", ...COMMON };

await mkdir(STATIC, { recursive: true });
if (watch) {
  const readable = { sourcemap: "inline", logLevel: "info" };
  for (const options of [WIDGET, PAGE, { ...PAGE, outfile: `${STATIC}page.packed.js` }]) await (await context({ ...options, ...readable })).watch();
} else {
  const [widget, page] = [await small(WIDGET), await small(PAGE)];
  await keep("widget.js", await packed(widget, "src/loader.ts", "esm"), widget);
  await keep("page.js", page);
  await keep("page.packed.js", await packed(page, "src/inline.ts", "iife"), page);
}

/** The minified text of a bundle. */
async function small(options) {
  const mangleProps = new RegExp(`^(?:${OURS.replaceAll(" ", "|")})$`);
  const [{ text }] = (await build({ ...options, mangleProps, write: false })).outputFiles;
  const { code } = await minify(text, { module: options.format === "esm", ecma: 2022, compress: { passes: 3, pure_getters: true, inline: 1 }, format: { ecma: 2022 } });
  return code;
}

/** `bytes`, nine in eleven characters: what src/unpack.ts reads. */
function digits(bytes, base) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 9) {
    let value = 0n;
    for (let n = at; n < at + 9; n++) value = 256n * value + BigInt(bytes[n] ?? 0);
    let eleven = "";
    for (let n = 0; n < 11; n++, value /= BigInt(base)) {
      const sign = 32 + Number(value % BigInt(base));
      eleven = String.fromCharCode(sign + (sign > 33) + (sign > 90)) + eleven; // neither " nor \
    }
    text += eleven;
  }
  return text;
}

/** A loader with `code` in it, packed, once what it unpacks has been seen to be `code`. */
async function packed(code, loader, format) {
  const { DIGITS, expand, unpack } = await imported("src/unpack.ts");
  const short = WORDS.reduce((text, word, n) => text.replaceAll(word, String.fromCharCode(n + 1)), code);
  const source = new TextEncoder().encode([...WORDS, short].join("\0"));
  const text = digits(Uint8Array.from(lzma.compress(source, 9)).subarray(HEADER), DIGITS);
  if (expand(unpack(text, source.length)) !== code) throw new Error("src/unpack.ts does not give back what was packed.");
  const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
  const define = { PACKED: JSON.stringify(text), SIZE: String(source.length), HASH: JSON.stringify(hash) };
  return small({ entryPoints: [here(loader)], ...COMMON, format, define });
}

/** A module of ours, to call it here. */
async function imported(path) {
  const [{ text }] = (await build({ entryPoints: [here(path)], ...COMMON, format: "esm", write: false })).outputFiles;
  return import(`data:text/javascript,${encodeURIComponent(text)}`);
}

/** Writes a bundle; refuses one that is too large, or that would end the script element it is put into. */
async function keep(name, sent, code = sent) {
  const [size, minified, budget] = [...[sent, code].map((text) => new TextEncoder().encode(text).length), BUDGETS[name]].map((bytes) => bytes / 1000);
  console.log(`${name.padEnd(15)} ${size.toFixed(1)} kB of ${budget} kB${sent === code ? "" : ` (unpacked: ${minified.toFixed(1)} kB)`}`);
  await writeFile(STATIC + name, sent);
  const wrong = size > budget ? `is over its budget of ${budget} kB` : /<\/script|<!--/i.test(sent + code) ? "contains “</script” or “<!--”, which would end an inline script" : null;
  if (wrong === null) return;
  console.error(`${name} ${wrong}.`);
  process.exitCode = 1;
}
