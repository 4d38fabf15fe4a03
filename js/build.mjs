// Two bundles from one source, each a single file without imports:
//   widget.js  an ES module for notebooks (anywidget loads it, once per widget, so it is kept small)
//   page.js    a classic script that exported pages carry inline
// `node build.mjs` writes what ships; `node build.mjs --watch` rebuilds on every change, readable and unminified.

import { mkdir, readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build, context, transform } from "esbuild";

const BUDGET = 100_000; // bytes of each bundle, minified
const watch = process.argv.includes("--watch");
const here = (path) => fileURLToPath(new URL(path, import.meta.url));

// What the style sheet says most often; in the bundle each is one letter that the sheet has no other use for.
const OFTEN = [
  "attn-", ":1px solid var(--line)", "color:var(--ink)", "var(--", "position:absolute;", "align-items:center;", "white-space:nowrap", "overflow:hidden",
  "pointer-events:none", "background:", "font-size:", "padding", "border", "inline", "display:", "height:", "width:", "margin",
];
const LETTERS = "ABCDEFGHJKLMNOPQTVWXYZ";

/** `import css from "./widget.css"` gives the minified style sheet as text. */
const cssAsText = {
  name: "css-as-text",
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      if (watch) return { contents: source, loader: "text", watchFiles: [path] };
      const { code } = await transform(source, { loader: "css", minify: true });
      const text = code.trim();
      if (new RegExp(`[${LETTERS}]`).test(text)) throw new Error(`The style sheet uses one of ${LETTERS}, which build.mjs needs.`);
      const packed = OFTEN.reduce((rest, words, n) => rest.replaceAll(words, LETTERS[n]), text);
      const unpack = `(text, words) => text.replace(/[A-Z]/g, (letter) => words[${JSON.stringify(LETTERS)}.indexOf(letter)] ?? letter)`;
      return { contents: `export default (${unpack})(${JSON.stringify(packed)}, ${JSON.stringify(OFTEN)})`, loader: "js" };
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
  inject: watch ? [] : [here("src/short.mjs")],
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
  try {
    for (const options of bundles) {
      await build(options);
      await inspect(options.outfile);
    }
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}

/** Refuses a bundle that is too large, or that would end the script element it is put into. */
async function inspect(file) {
  const { size } = await stat(file);
  const name = file.split(/[\\/]/).at(-1);
  console.log(`${name.padEnd(10)} ${(size / 1000).toFixed(1)} kB of ${BUDGET / 1000} kB`);
  if (size > BUDGET) throw new Error(`${name} is over its budget of ${BUDGET / 1000} kB.`);
  if (/<\/script/i.test(await readFile(file, "utf8"))) throw new Error(`${name} contains “</script”, which would end an inline script.`);
}
