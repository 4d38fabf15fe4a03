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

// What the style sheet says most often, each as one character that it has no other use for.
const SHORT = { "?": "attn-", "$": "var(--" };

/** `import css from "./widget.css"` gives the minified style sheet as text. */
const cssAsText = {
  name: "css-as-text",
  setup({ onLoad }) {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      if (watch) return { contents: source, loader: "text", watchFiles: [path] };
      const { code } = await transform(source, { loader: "css", minify: true });
      let [text, unpack] = [code.trim(), ""];
      for (const [sign, words] of Object.entries(SHORT)) {
        if (text.includes(sign)) throw new Error(`The style sheet uses “${sign}”, which build.mjs needs.`);
        text = text.replaceAll(words, sign);
        unpack += `.replaceAll(${JSON.stringify(sign)}, ${JSON.stringify(words)})`;
      }
      return { contents: `export default ${JSON.stringify(text)}${unpack}`, loader: "js" };
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
  inject: watch ? [] : [here("short.mjs")],
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
