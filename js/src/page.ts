/** Entry for exported pages: shows every `<script type="application/vnd.attnwidget+json">` of the page where it stands. */

import { complain, show } from "./host.ts";
import { inflate } from "./inflate.ts";
import { storedModel } from "./state.ts";
import style from "./widget.css";
import { own } from "./wire.ts";

const SELECTOR = 'script[type="application/vnd.attnwidget+json"]:not([data-attn-shown])';

function showAll(): void {
  for (const script of document.querySelectorAll<HTMLScriptElement>(SELECTOR)) {
    script.dataset["attnShown"] = ""; // a page may carry this code once for each picture
    const before = script.previousElementSibling;
    const el = before instanceof HTMLDivElement && before.id !== "" ? before : document.createElement("div");
    if (el !== before) script.before(el);
    try {
      show(storedModel(script.textContent), el, new AbortController().signal);
    } catch (error) {
      complain(el, error);
    }
  }
}

/** Pages whose rules refuse <style> elements take the sheet itself. */
function dressed(): void {
  const probe = document.createElement("style");
  probe.textContent = style;
  document.documentElement.append(probe);
  if (probe.sheet === null) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    document.adoptedStyleSheets.push(sheet);
  }
  probe.remove();
}

own.inflate = inflate;
dressed();
showAll();
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", showAll);
