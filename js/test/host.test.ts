/** Mounting and mounting again, with a frame and a document that only keep account. */

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import type { Model, ViewContext } from "../src/state.ts";
import { bundleMetaOf, pack } from "./fixtures.ts";

const mounted: ViewContext[] = [];

vi.mock("../src/frame.ts", () => ({
  mount: (context: ViewContext) => {
    mounted.push(context);
    const root = Object.assign(new Element(), { dataset: { attnReady: "true" } });
    root.append(Object.assign(new Element(), { dataset: { keep: "next" } })); // a button that keeps the keyboard
    (context.el as unknown as Element).append(root);
    return root;
  },
}));

const { complain, show } = await import("../src/host.ts");
const { default: widget } = await import("../src/widget.ts");

/** As much of an element as the host touches. */
class Element {
  children: Element[] = [];
  textContent = "";
  role = "";
  id = "";
  dataset: Record<string, string> = {};
  style = { removeProperty: (name: string): void => void Reflect.deleteProperty(this.style, name) };
  previousElementSibling: unknown = null;
  parent: Element | null = null;
  focused = false;
  still = false; // whether it is a picture that stands there before any other
  readonly heard = new Map<string, () => void>();

  append(child: Element): void {
    child.parent = this;
    this.children.push(child);
  }

  replaceChildren(...children: Element[]): void {
    for (const child of this.children) child.parent = null;
    this.children = [];
    for (const child of children) this.append(child);
  }

  remove(): void {
    if (this.parent !== null) this.parent.children = this.parent.children.filter((child) => child !== this);
    this.parent = null;
  }

  get isConnected(): boolean {
    return this.parent !== null;
  }

  /** Knows "[data-keep]:focus" and "[data-keep=…]". */
  querySelector(selector: string): Element | null {
    const name = /"(.*)"/.exec(selector)?.[1];
    const fits = ({ dataset, focused }: Element): boolean => (name === undefined ? focused : dataset["keep"] === name);
    return this.children.find(fits) ?? this.children.map((child) => child.querySelector(selector)).find((found) => found !== null) ?? null;
  }

  /** Knows ":scope > img". */
  querySelectorAll(): Element[] {
    return this.children.filter(({ still }) => still);
  }

  focus(): void {
    this.focused = true;
  }

  addEventListener(name: string, listener: () => void): void {
    this.heard.set(name, listener);
  }

  setAttribute(name: string, value: string): void {
    if (name === "role") this.role = value;
  }
}

const place = (): { el: HTMLElement; kept: Element } => {
  const kept = new Element();
  return { el: kept as unknown as HTMLElement, kept };
};
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

class Host implements Model {
  readonly values: Record<string, unknown>;
  readonly #listeners = new Map<string, () => void>();

  constructor(bundle: unknown) {
    this.values = { part: "decoder", layer: 0, head: 0, _bundle: bundle };
  }

  get(name: string): unknown {
    return this.values[name];
  }

  on(event: string, callback: (content: unknown, buffers: unknown) => void): void {
    this.#listeners.set(event, () => callback(undefined, undefined));
  }

  change(name: string, value: unknown): void {
    this.values[name] = value;
    this.say(`change:${name}`);
  }

  say(event: string): void {
    this.#listeners.get(event)?.();
  }
}

beforeEach(() => {
  mounted.length = 0;
  vi.stubGlobal("document", { createElement: () => new Element() });
  vi.stubGlobal("HTMLElement", Element);
  vi.stubGlobal("requestAnimationFrame", (draw: () => void) => { draw(); });
});
afterEach(() => void vi.unstubAllGlobals());

const bundle = pack("bundle", bundleMetaOf());

describe("a widget", () => {
  it.each([
    ["a view of a larger buffer", new DataView(bundle.buffer)],
    ["bytes", bundle],
    ["a buffer", bundle.buffer],
    ["base64", Buffer.from(bundle).toString("base64")],
  ])("mounts once, from %s", async (_, bytes) => {
    const { el } = place();
    show(new Host(bytes), el, new AbortController().signal);
    await settled();
    expect(mounted).toHaveLength(1);
    expect(mounted[0].el).toBe(el);
    expect(mounted[0].tiles.meta.title).toBe("TinyModel");
    expect(mounted[0].state.get("map").status).toBe("error"); // nothing is stored: said, not hung
  });

  it("starts again when Python shows something else in it", async () => {
    const host = new Host(bundle);
    const { el } = place();
    show(host, el, new AbortController().signal);
    await settled();
    host.change("_bundle", pack("bundle", { ...bundleMetaOf(), title: "OtherModel" }));
    await settled();
    expect(mounted[0].signal.aborted).toBe(true);
    expect(mounted).toHaveLength(2);
    expect([mounted[1].tiles.meta.title, mounted[1].signal.aborted]).toEqual(["OtherModel", false]);
  });

  it("mounts only the last of two bundles that come at once", async () => {
    const host = new Host(bundle);
    show(host, place().el, new AbortController().signal);
    host.change("_bundle", pack("bundle", { ...bundleMetaOf(), title: "OtherModel" }));
    await settled();
    expect(mounted.map(({ tiles }) => tiles.meta.title)).toEqual(["OtherModel"]);
  });

  it("leaves nothing behind", async () => {
    const { el, kept } = place();
    const end = widget.render({ model: new Host(bundle), el } as unknown as Parameters<typeof widget.render>[0]) as () => void;
    await settled();
    kept.children.push(new Element());
    end();
    expect(mounted[0].signal.aborted).toBe(true);
    expect(kept.children).toEqual([]);
  });

  it.each([
    ["nothing", null, "There is nothing to show"],
    ["no bytes", new Uint8Array(0), "There is nothing to show"],
    ["something else", new TextEncoder().encode("GIF89a…"), "This is not attnwidget data"],
    ["half of it", bundle.slice(0, 40), "truncated"],
    ["the work of another version", Uint8Array.from(bundle, (byte, i) => (i === 4 ? 9 : byte)), "made by another version: format 9"],
  ])("that is given %s says so where the picture would be", async (_, bytes, words) => {
    const { el, kept } = place();
    show(new Host(bytes), el, new AbortController().signal);
    await settled();
    expect(mounted).toEqual([]);
    expect(kept.children.map(({ role, textContent }) => [role, textContent])).toEqual([["alert", expect.stringContaining(words)]]);
  });

  it("says it over the still picture that a page has there, which stays, and once only", () => {
    const { el, kept } = place();
    const still = Object.assign(new Element(), { still: true });
    kept.append(still);
    kept.append(new Element()); // other words
    complain(el, new Error("one"));
    complain(el, new Error("two"));
    expect(kept.children.map((child) => (child === still ? "the picture" : child.textContent))).toEqual(["attnwidget: two", "the picture"]);
  });

  it("never reads an error as markup", () => {
    const { el, kept } = place();
    complain(el, new Error("<b>bold</b>"));
    expect(kept.children[0].textContent).toBe("attnwidget: <b>bold</b>");
  });
});

describe("another sample", () => {
  const metaOf = (at: number): Record<string, unknown> => ({ ...bundleMetaOf(), title: `sample ${at}`, samples: { count: 3, at, noun: "text" } });
  /** Shows the first of three samples; the third lies in it. */
  const three = (at = 0): Uint8Array => {
    const third = pack("bundle", metaOf(2));
    return pack("bundle", metaOf(at), { "sample/2": { dtype: "u8", shape: [third.length], data: third } });
  };
  const begin = async (host = new Host(three())): Promise<{ host: Host; kept: Element }> => {
    const { el, kept } = place();
    show(host, el, new AbortController().signal);
    await settled();
    return { host, kept };
  };
  const titles = (): string[] => mounted.map(({ tiles }) => tiles.meta.title);
  const notice = (): unknown => mounted[0].state.get("notice");

  it("that is stored takes the place of the first once it is drawn, and the keyboard goes along", async () => {
    const { kept } = await begin();
    const [before] = kept.children;
    before.children[0].focus();
    mounted[0].state.set({ sample: 2 });
    await settled();
    expect(titles()).toEqual(["sample 0", "sample 2"]);
    expect([mounted[0].signal.aborted, mounted[1].state.get("sample")]).toEqual([true, 2]);
    const [, after] = kept.children;
    expect([kept.children[0] === before, after.style]).toEqual([true, expect.objectContaining({ opacity: "0" })]);
    expect(before.dataset).toEqual({}); // nobody takes it for the one that is ready
    expect(after.children[0].focused).toBe(true);
    after.heard.get("attn-drawn")?.();
    expect(kept.children).toEqual([after]);
    expect("opacity" in after.style).toBe(false);
    expect(notice()).toBeNull();
  });

  it("that overtakes one which was never drawn leaves nothing of it", async () => {
    const { kept } = await begin();
    const [before] = kept.children;
    mounted[0].state.set({ sample: 2 });
    await settled();
    mounted[0].state.set({ sample: 0 });
    await settled();
    expect(titles()).toEqual(["sample 0", "sample 2", "sample 0"]);
    expect([kept.children.length, kept.children[0] === before]).toEqual([2, true]);
    const overtaken = mounted[1];
    expect(overtaken.signal.aborted).toBe(true);
    await vi.waitFor(() => { expect(kept.children).toHaveLength(1); }); // shown though nothing says that it is drawn
    expect(kept.children[0] === before).toBe(false);
  });

  it("that is not stored, without a kernel, is said to be missing, until another one is chosen", async () => {
    const { host } = await begin();
    mounted[0].state.set({ sample: 1 });
    await settled();
    expect(notice()).toEqual({ missing: true, words: "Text 2 of 3 is not stored in this page. A larger budget would include it." });
    expect([titles(), mounted[0].signal.aborted, host.values["sample"]]).toEqual([["sample 0"], false, undefined]);
    mounted[0].state.set({ sample: 0 });
    await settled();
    expect([titles(), notice()]).toEqual([["sample 0"], null]);
  });

  it("that is not stored is waited for where there is a kernel, with the picture before, and comes as a new bundle", async () => {
    const host = Object.assign(new Host(three()), { send: () => undefined });
    await begin(host);
    mounted[0].state.set({ sample: 1 });
    await settled();
    expect([notice(), titles(), mounted[0].signal.aborted]).toEqual([null, ["sample 0"], false]); // a short wait is not mentioned
    await vi.waitFor(() => { expect(notice()).toEqual({ missing: false, words: "waiting for the kernel: text 2 of 3 …" }); });
    host.change("_bundle", three(1));
    await settled();
    expect([titles(), notice(), mounted[1].signal.aborted]).toEqual([["sample 0", "sample 1"], null, false]);
  });

  it("and a kernel that was never heard may be none: after some seconds that is said, until one is", async () => {
    vi.useFakeTimers();
    const host = Object.assign(new Host(three()), { send: () => undefined });
    const { el } = place();
    show(host, el, new AbortController().signal);
    await vi.advanceTimersByTimeAsync(5);
    mounted[0].state.set({ sample: 1, expanded: [2] });
    await vi.advanceTimersByTimeAsync(5000);
    expect(notice()).toMatchObject({ words: "waiting for the kernel: text 2 of 3 …" });
    await vi.advanceTimersByTimeAsync(1500);
    expect(notice()).toEqual({ missing: false, words: "No kernel has answered yet. If none is running, run the cell again." });
    host.change("_bundle", three(1));
    await vi.advanceTimersByTimeAsync(5);
    expect([titles(), notice(), mounted[1].state.get("expanded")]).toEqual([["sample 0", "sample 1"], null, []]);
    mounted[1].state.set({ sample: 0 });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(notice()).toMatchObject({ words: "waiting for the kernel: text 1 of 3 …" }); // one that was heard may be busy
    vi.useRealTimers();
  });

  it("is not waited for once the kernel is gone, and what is stored is still shown", async () => {
    const host = Object.assign(new Host(three()), { send: () => undefined });
    await begin(host);
    host.say("comm_live_update");
    expect(notice()).toEqual({ missing: false, words: "The kernel has stopped or was restarted. What is here still works; run the cell again for the rest." });
    mounted[0].state.set({ sample: 1 });
    await settled();
    expect(notice()).toEqual({ missing: true, words: "Text 2 of 3 is not stored here, and the kernel has stopped or was restarted. Run the cell again." });
    mounted[0].state.set({ sample: 2 });
    await settled();
    expect([titles(), notice()]).toEqual([["sample 0", "sample 2"], expect.objectContaining({ missing: false })]);
    await expect(mounted[1].tiles.get("map/decoder/0/0")).rejects.toThrow("there is no kernel to ask");
    expect(mounted[1].tiles.live).toBe(false);
  });

  it("is missing where messages cannot be sent, whatever the host offers", async () => {
    const host = Object.assign(new Host(three()), { send: () => { throw new Error("there is no comm"); } });
    await begin(host);
    mounted[0].state.set({ sample: 1 });
    await settled();
    expect(notice()).toMatchObject({ missing: true });
  });

  it("that does not come in time for the next choice is dropped", async () => {
    const host = Object.assign(new Host(three()), { send: () => undefined });
    await begin(host);
    mounted[0].state.set({ sample: 1 });
    mounted[0].state.set({ sample: 2 });
    await settled();
    host.change("_bundle", three(1)); // late
    await settled();
    expect(titles()).toEqual(["sample 0", "sample 2", "sample 2"]);
  });

  it("that does not exist is the one that is stored", async () => {
    const host = new Host(three());
    host.values["sample"] = 7;
    await begin(host);
    expect([titles(), mounted[0].state.get("sample"), notice()]).toEqual([["sample 0"], 0, null]);
  });
});

describe("an exported page", () => {
  class Div extends Element {}

  class Script extends Element {
    readonly before = vi.fn();

    constructor(text: string, previous: Element | null = null) {
      super();
      this.textContent = text;
      this.previousElementSibling = previous;
    }
  }

  const stored = JSON.stringify({ state: { layer: 0, head: 0 }, bundle: Buffer.from(bundle).toString("base64") });

  const open = async (...scripts: Script[]): Promise<void> => {
    vi.resetModules();
    vi.stubGlobal("HTMLDivElement", Div);
    vi.stubGlobal("document", {
      readyState: "complete",
      documentElement: new Element(),
      createElement: () => Object.assign(new Div(), { sheet: {} }),
      querySelectorAll: () => scripts.filter(({ dataset }) => dataset["attnShown"] === undefined),
    });
    await import("../src/page.ts");
    await settled();
  };

  it("shows every picture in the element before its data, or in a new one", async () => {
    const named = Object.assign(new Div(), { id: "attn-1" });
    const [one, two] = [new Script(stored, named), new Script(stored, new Div())];
    await open(one, two);
    expect(mounted).toHaveLength(2);
    expect(mounted[0].el).toBe(named);
    expect(two.before.mock.calls.map(([el]) => el === mounted[1].el)).toEqual([true]);
    expect(mounted[0].state.get("part")).toBe("decoder");
    expect(mounted[0].tiles.live).toBe(false);
  });

  it("shows no picture twice, though it may carry the code once for each", async () => {
    const script = new Script(stored, Object.assign(new Div(), { id: "attn-1" }));
    await open(script);
    await open(script);
    expect(mounted).toHaveLength(1);
  });

  it("with one damaged picture shows the others", async () => {
    const place = Object.assign(new Div(), { id: "attn-1" });
    await open(new Script("{", place), new Script(stored));
    expect(place.children[0].textContent).toContain("are damaged");
    expect(mounted).toHaveLength(1);
  });
});
