// Two bundles from one source, each a single file without imports:
//   widget.js  an ES module for notebooks. It travels, and is stored, once per widget: so it is packed, and unpacks itself
//   page.js    a classic script that exported pages carry inline, once for all their pictures; it evaluates nothing
// `node build.mjs` writes what ships; `node build.mjs --watch` rebuilds on every change, readable and unminified.

import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build, context, transform } from "esbuild";
import lzma from "lzma";
import { minify } from "terser";

const BUDGETS = { "widget.js": 100_000, "page.js": 260_000 }; // bytes of what travels, minified
const HEADER = 13; // bytes of an LZMA file before its data
// What the script says most often: a character for each takes two hundredths off what LZMA makes of it. At most 31; one that is part of another comes after it.
const WORDS = ["this.#", "return", "Math.", "null", "let ", "attn-", "function", "length", "===", "class", "textContent", "query", ".replaceChildren(", ".get(", "void ", "this", "new ", "value", "height", "Object", "data", ".getBoundingClientRect(", "aria", "button", "from", ".map(", "throw"];
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
const bundles = [
  { entry: "src/widget.ts", file: here("../attnwidget/static/widget.js"), format: "esm" },
  { entry: "src/page.ts", file: here("../attnwidget/static/page.js"), format: "iife" },
].map(({ entry, file, format }) => ({
  entryPoints: [here(entry)],
  outfile: file,
  format,
  sourcemap: watch ? "inline" : false,
  ...COMMON,
}));

await mkdir(here("../attnwidget/static"), { recursive: true });
if (watch) {
  for (const options of bundles) await (await context({ ...options, logLevel: "info" })).watch();
} else {
  for (const options of bundles) {
    try {
      const [{ text: bundled }] = (await build({ ...options, write: false })).outputFiles;
      const { code: text } = await minify(bundled, { module: options.format === "esm", ecma: 2022, compress: { passes: 3, pure_getters: true }, format: { ecma: 2022 } });
      await keep(options.outfile, text, options.format === "esm" ? await packed(text) : text);
    } catch (error) {
      console.error(error.message);
      process.exitCode = 1;
    }
  }
}

/** `bytes` in base 91, the lowest bits first: what src/unpack.ts reads. */
function digits(bytes, alphabet) {
  let [text, bits, held] = ["", 0, 0];
  for (const byte of [...bytes, 0, 0]) {
    bits |= byte << held;
    held += 8;
    if (held < 13) continue;
    const thirteen = bits & 8191;
    text += alphabet[thirteen % 91] + alphabet[Math.floor(thirteen / 91)];
    bits >>= 13;
    held -= 13;
  }
  return text;
}

/** The loader with `code` in it, packed, once what it unpacks has been seen to be `code`. */
async function packed(code) {
  const { DIGITS, expand, unpack } = await imported("src/unpack.ts");
  const short = WORDS.reduce((text, word, n) => text.replaceAll(word, String.fromCharCode(n + 1)), code);
  const source = new TextEncoder().encode([...WORDS, short].join("\0"));
  const text = digits(Uint8Array.from(lzma.compress(source, 9)).subarray(HEADER), DIGITS);
  if (expand(unpack(text, source.length)) !== code) throw new Error("src/unpack.ts does not give back what was packed.");
  const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
  const define = { PACKED: JSON.stringify(text), SIZE: String(source.length), HASH: JSON.stringify(hash) };
  return (await build({ entryPoints: [here("src/loader.ts")], ...COMMON, format: "esm", define, write: false })).outputFiles[0].text;
}

/** A module of ours, to call it here. */
async function imported(path) {
  const [{ text }] = (await build({ entryPoints: [here(path)], ...COMMON, format: "esm", write: false })).outputFiles;
  return import(`data:text/javascript,${encodeURIComponent(text)}`);
}

/** Writes a bundle; refuses one that is too large, or that would end the script element it is put into. */
async function keep(file, code, sent) {
  const name = file.split(/[\\/]/).at(-1);
  const [size, minified, budget] = [...[sent, code].map((text) => new TextEncoder().encode(text).length), BUDGETS[name]].map((bytes) => bytes / 1000);
  console.log(`${name.padEnd(10)} ${size.toFixed(1)} kB of ${budget} kB${sent === code ? "" : ` (unpacked: ${minified.toFixed(1)} kB)`}`);
  await writeFile(file, sent);
  if (size > budget) throw new Error(`${name} is over its budget of ${budget} kB.`);
  if (/<\/script/i.test(sent)) throw new Error(`${name} contains “</script”, which would end an inline script.`);
}
