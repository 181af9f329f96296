// The page: what is shown, what is asked, and the link that restores both.

import { el, fill, number, say, signed, table } from "./dom.js";
import { get, post, query } from "./api.js";
import { MapView } from "./map.js";
import { ExplanationPanel, picture } from "./explanation.js";
import { SelectionPanel } from "./selection.js";
import { SamplesPanel } from "./samples.js";
import { UploadPanel } from "./upload.js";
import { ComparePanel } from "./compare.js";

const byId = (id) => document.getElementById(id);

class App {
  constructor(run) {
    this.run = run;
    this.position = null;
    this.following = 0;
    this.marks = new Map();
    this.heading();
    this.tabs();
    const names = { explanation: ExplanationPanel, selection: SelectionPanel, samples: SamplesPanel, upload: UploadPanel, compare: ComparePanel };
    this.panels = Object.fromEntries(this.order.map((name) => [name, new names[name](byId(`panel-${name}`), this)]));
    this.map = new MapView(byId("map"), run.extent, { onpick: (x, y, r) => this.pick(x, y, r), onmove: () => this.remember() });
    this.toolbar();
  }

  async start() {
    const rows = await get("/api/landmarks");
    for (const row of rows) this.marks.set(row.id, row);
    this.map.landmarks(rows, (position) => position !== null && this.explain(position));
    let followed;
    do { // a link may be opened while another is followed
      followed = location.hash;
      await this.restore();
    } while (location.hash !== followed);
    // remembering what is seen changes the address without this event: it is a link that was opened here
    addEventListener("hashchange", () => this.restore());
    this.ready = true;
    document.documentElement.dataset.ready = "true";
    this.remember();
    this.wait();
  }

  // until a link is followed to its end the address stays as it is: a reload on the way loses none of it
  async restore() {
    this.following += 1;
    await this.follow().finally(() => (this.following -= 1));
    this.remember();
  }

  async follow() {
    const state = new URLSearchParams(location.hash.slice(1));
    const view = (state.get("v") || "").split("/").map(Number);
    if (view.length === 3 && view.every(Number.isFinite)) this.map.go({ z: view[0], x: view[1], y: view[2] });
    const colour = this.run.columns.some((c) => c.name === state.get("c") && c.kind !== "other") ? state.get("c") : "";
    if (colour !== this.map.colour) {
      byId("colour").value = colour;
      this.paint(colour);
    }
    this.panels.samples.restore(state.get("q"), state.get("w"));
    if (/^\d+$/.test(state.get("s") || "")) await this.explain(Number(state.get("s")), false);
    else if (state.get("q") || state.get("w")) {
      this.tab("samples");
      await this.panels.samples.list();
    }
  }

  // ------------------------------------------------------------ head
  heading() {
    const { run } = this;
    byId("subtitle").textContent = `${run.n.toLocaleString("en")} samples, ${run.m.toLocaleString("en")} landmarks, objective ${run.objective}`;
    byId("report").hidden = !run.report;
    if (run.problems.length) {
      byId("problems").hidden = false;
      byId("problems").append(el("strong", {}, "Not all of this run can be shown."), el("ul", {}, run.problems.map((p) => el("li", {}, p))));
    }
    const chip = byId("trust"), dialog = byId("trust-dialog"), { trust } = run;
    chip.hidden = false;
    chip.classList.add(trust ? trust.verdict : "red");
    chip.textContent = `trust: ${trust ? trust.verdict : "not known"}`;
    dialog.querySelector("div").append(
      el("p", {}, trust ? trust.sentence : "This run has no trust figures: nothing here is backed by any."),
      trust && table(["Figure", "Found", "Wanted", "Verdict"], trust.figures.map((f) => [f.name, f.display, f.threshold, el("span", { class: `chip ${f.verdict}` }, f.verdict)])) || "",
      run.findings.length ? el("h3", {}, "Findings") : "",
      el("ul", {}, run.findings.map((f) => el("li", {}, f))));
    chip.addEventListener("click", () => dialog.showModal());
    this.tellLive();
  }

  tellLive() {
    const { live } = this.run;
    byId("live").textContent = live.state === "loading" ? "loading the model …" : live.state === "ready" ? "model ready" : "stored results only";
    byId("why").textContent = live.state === "loading" || !live.reason ? "" : live.reason;
    byId("why").hidden = !byId("why").textContent;
  }

  async wait() {
    while (this.run.live.state === "loading") {
      await new Promise((go) => setTimeout(go, 700));
      this.run.live = (await get("/api/run").catch(() => this.run)).live;
    }
    this.tellLive();
    // what is explained is told again, with all landmarks; the reader stays where they are
    if (this.run.live.state !== "ready" || this.position === null) return;
    const found = await this.panels.explanation.show(this.position);
    if (found) this.draw(found, false);
  }

  // ------------------------------------------------------------ tabs
  tabs() {
    this.order = ["explanation", "selection", "samples", "upload", ...(this.run.compare ? ["compare"] : [])];
    const words = { explanation: "Explanation", selection: "Selection", samples: "Samples", upload: "Your own", compare: "Compare" };
    for (const name of this.order) {
      byId("tabs").append(el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, onclick: () => this.tab(name) }, words[name]));
      byId("panels").append(el("div", { role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, tabIndex: 0 }));
    }
    byId("tabs").addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const at = this.order.indexOf(this.open);
      this.tab(this.order[(at + step + this.order.length) % this.order.length]);
      byId(`tab-${this.open}`).focus();
    });
    this.tab("explanation");
  }

  tab(name) {
    this.open = name;
    for (const other of this.order) {
      const on = other === name, handle = byId(`tab-${other}`);
      handle.setAttribute("aria-selected", String(on));
      handle.tabIndex = on ? 0 : -1;
      byId(`panel-${other}`).hidden = !on;
    }
    if (name === "samples" && this.panels && !this.panels.samples.listed) this.panels.samples.list();
    if (name === "compare") this.panels?.compare.open();
  }

  // ------------------------------------------------------------ map
  toolbar() {
    const colour = byId("colour");
    for (const column of this.run.columns) if (column.kind !== "other") colour.append(el("option", { value: column.name }, column.name));
    colour.parentElement.hidden = colour.options.length === 1;
    colour.addEventListener("change", () => this.paint(colour.value));
    byId("marks").addEventListener("change", (event) => this.map.toggle(event.target.checked));
    byId("lasso").addEventListener("click", () => this.lasso());
    byId("in-view").addEventListener("click", () => {
      const { x0, y0, x1, y1 } = this.map.box;
      this.select({ polygon: [[x0, y0], [x1, y0], [x1, y1], [x0, y1]] }).catch((error) => say(error.message));
    });
    byId("whole").addEventListener("click", () => this.map.whole());
    byId("png").addEventListener("click", () => this.png());
    byId("link").addEventListener("click", () => this.link());
  }

  paint(name) {
    this.map.colour = name;
    this.map.redraw();
    const column = this.run.columns.find((c) => c.name === name), { colours } = this.run, { theme } = this.map;
    const entry = (c, words) => el("span", { class: "entry" }, el("span", { class: "swatch", colour: c }), words);
    fill(byId("legend"), ...(!column ? [] : column.kind === "number"
      ? [entry(colours.ramp[0], number(column.low)), el("span", { class: "ramp", colour: `linear-gradient(90deg, ${colours.ramp.join(", ")})` }), el("span", {}, number(column.high)), entry(colours.missing[theme], "missing")]
      : [...(column.values || []).map((v, i) => entry(colours.palette[i], String(v))), column.more && entry(colours.other[theme], "others"), entry(colours.missing[theme], "missing")].filter(Boolean)));
    this.remember();
  }

  async lasso() {
    const button = byId("lasso");
    if (this.map.giveUp) return this.map.giveUp();
    button.setAttribute("aria-pressed", "true");
    say("Draw around samples; Escape ends.");
    const polygon = await this.map.lasso();
    button.setAttribute("aria-pressed", "false");
    if (polygon) await this.select({ polygon: thinned(polygon) }, true).catch((error) => say(error.message));
    return null;
  }

  async pick(x, y, r) {
    const found = await get("/api/nearest", { x, y, r }).catch((error) => say(error.message));
    if (found) this.explain(found.position);
  }

  // ------------------------------------------------------------ questions
  async explain(position, focus = true) {
    this.position = position;
    this.tab("explanation");
    const found = await this.panels.explanation.show(position);
    if (!found) return;
    this.draw(found);
    this.remember();
    if (focus) byId("panel-explanation").querySelector("h2")?.focus({ preventScroll: true });
    say(`${found.sample.id}: ${found.attract.length} attracting and ${found.repel.length} repelling landmarks`);
  }

  draw(found, move = true) {
    const lines = [...found.attract, ...found.repel].map((i) => ({ ...this.marks.get(i.landmark), contribution: i.contribution })).filter((l) => Number.isFinite(l.x));
    this.map.explained(found.sample, lines);
    if (move && Number.isFinite(found.sample.x)) this.map.into(found.sample.x, found.sample.y);
  }

  uploaded(found) {
    this.position = null;
    this.panels.explanation.told(found);
    this.draw(found);
    this.tab("explanation");
  }

  async select(asked, keepOutline = false) {
    const found = await post("/api/select", asked);
    if (!keepOutline) this.map.outline.clearLayers();
    this.map.selection = found.selection;
    this.map.redraw();
    this.panels.selection.show(found);
    this.tab("selection");
    say(`${found.n.toLocaleString("en")} samples selected`);
  }

  selectNear(sample) {
    const r = this.map.reach(40), corners = Array.from({ length: 24 }, (_, i) => (i * Math.PI) / 12);
    return this.select({ polygon: corners.map((a) => [sample.x + r * Math.cos(a), sample.y + r * Math.sin(a)]) }).catch((error) => say(error.message));
  }

  list(found) {
    this.tab("samples");
    return this.panels.samples.of(found);
  }

  clear() {
    this.map.selection = "";
    this.map.outline.clearLayers();
    this.map.redraw();
    this.panels.selection.empty();
  }

  bar(name, position, value, widest) {
    return el("li", {}, picture(this.run, position, name) || el("span", { class: "dot", colour: value < 0 ? "var(--minus)" : "var(--plus)" }),
      el("button", { type: "button", class: "name", onclick: () => position !== null && this.explain(position) }, name),
      el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: value < 0 ? "minus" : "plus", width: `${(100 * Math.abs(value)) / widest}%` })),
      el("span", { class: "value" }, signed(value)));
  }

  // ------------------------------------------------------------ what leaves
  remember() {
    if (!this.ready || this.following) return;
    const { x, y, z } = this.map.view, { q, where } = this.panels.samples.asked;
    const state = query({ v: [z, x.toPrecision(8), y.toPrecision(8)].join("/"), c: this.map.colour, s: this.position, q, w: where });
    history.replaceState(null, "", `#${state.slice(1)}`);
  }

  async link() {
    this.remember();
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied; it opens for whoever has started this app here.");
    } catch {
      say("The address bar holds the link.");
    }
  }

  async png() {
    try {
      const picture = await this.map.picture();
      const way = el("a", { href: URL.createObjectURL(picture), download: "map.png" });
      document.body.append(way);
      way.click();
      way.remove();
      setTimeout(() => URL.revokeObjectURL(way.href), 10_000);
    } catch (error) {
      say(error.message);
    }
  }
}

// what the server takes at most, evenly thinned
function thinned(polygon, most = 2000) {
  const step = Math.ceil(polygon.length / most);
  return polygon.filter((_, i) => i % step === 0);
}

get("/api/run").then((run) => {
  const app = new App(run);
  globalThis.krepes = app;
  return app.start();
}).catch((error) => {
  const place = byId("problems");
  place.hidden = false;
  place.append(el("strong", {}, error.message));
});
