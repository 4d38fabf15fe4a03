// Two bundles from one source, each a single file without imports:
//   widget.js  an ES module for notebooks. It travels, and is stored, once per widget: so it is packed, and unpacks itself
//   page.js    a classic script that exported pages carry inline, once for all their pictures; it evaluates nothing
// `node build.mjs` writes what ships; `node build.mjs --watch` rebuilds on every change, readable and unminified.

import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import zopfli from "@gfx/zopfli";
import { build, context, transform } from "esbuild";
import { minify } from "terser";

const BUDGETS = { "widget.js": 125_000, "page.js": 280_000 }; // bytes of what travels, minified
// Digits of base 91: thirteen bits in two characters (91² > 2¹³), none of which JSON, HTML or a string would have to escape.
const DIGITS = Array.from({ length: 93 }, (_, n) => String.fromCharCode(33 + n)).filter((digit) => !'"\\<'.includes(digit)).join("") + " ";
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

const bundles = [
  { entry: "src/widget.ts", file: here("../attnwidget/static/widget.js"), format: "esm" },
  { entry: "src/page.ts", file: here("../attnwidget/static/page.js"), format: "iife" },
].map(({ entry, file, format }) => ({
  entryPoints: [here(entry)],
  outfile: file,
  format,
  bundle: true,
  minify: !watch,
  sourcemap: watch ? "inline" : false,
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
  plugins: [cssAsText],
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

/** `bytes` in base 91, the lowest bits first. */
function digits(bytes) {
  let [text, bits, held] = ["", 0, 0];
  for (const byte of [...bytes, 0, 0]) {
    bits |= byte << held;
    held += 8;
    if (held < 13) continue;
    const thirteen = bits & 8191;
    text += DIGITS[thirteen % 91] + DIGITS[Math.floor(thirteen / 91)];
    bits >>= 13;
    held -= 13;
  }
  return text;
}

/**
 * A module that carries `code` deflated, and is what `code` is. All widgets of a page share the one copy that the first of
 * them unpacks. It is imported from a blob, as anywidget imports this module itself, so a page that lets anywidget in lets
 * this in; `render` returns at once, since not every host waits for a promise.
 */
async function packed(code) {
  const hash = createHash("sha256").update(code).digest("hex").slice(0, 16);
  const bytes = await zopfli.deflateAsync(new TextEncoder().encode(code), { numiterations: 30 });
  const source = `
    const packed = ${JSON.stringify(digits(bytes))};
    const load = async () => {
      if (typeof DecompressionStream === "undefined") throw new Error("this browser has no DecompressionStream. Any browser from 2023 on has.");
      const bytes = new Uint8Array(${bytes.length});
      const value = Object.fromEntries(Array.from(${JSON.stringify(DIGITS)}, (digit, n) => [digit, n]));
      for (let at = 0, n = 0, bits = 0, held = 0; n < bytes.length; at += 2) {
        bits |= (value[packed[at]] + 91 * value[packed[at + 1]]) << held;
        for (held += 13; held > 7; held -= 8, bits >>= 8) bytes[n++] = bits;
      }
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
      const url = URL.createObjectURL(new Blob([await new Response(stream).text()], { type: "text/javascript" }));
      try {
        return await import(url);
      } finally {
        URL.revokeObjectURL(url);
      }
    };
    export default {
      render(context) {
        let [ended, end] = [false, null];
        (globalThis[Symbol.for("attnwidget ${hash}")] ??= load()).then((module) => {
          if (!ended) end = module.default.render(context);
        }).catch((error) => {
          context.el.textContent = "attnwidget: " + error.message;
        });
        return () => {
          ended = true;
          end?.();
        };
      },
    };`;
  return (await transform(source, { minify: true, format: "esm", target: "es2022" })).code;
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
