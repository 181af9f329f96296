// Why is this sample here? A sample with what attracts and repels it.

import { cell, count, el, failed, fill, number, signed } from "./dom.js";
import { get } from "./api.js";

export function picture(run, position, name, size = "") {
  if (run.kind !== "image" || !run.thumbnails || position === null || position === undefined) return null;
  if (run.live.state !== "ready" && !run.pictured.includes(name)) return null; // of others none is stored
  const image = el("img", { class: `pic ${size}`, alt: `sample ${name}`, loading: "lazy" });
  image.addEventListener("error", () => image.remove());
  image.src = `/picture/${position}`;
  return image;
}

export class ExplanationPanel {
  constructor(place, app) {
    Object.assign(this, { place, app });
    place.append(el("p", { class: "muted" },
      "Click a sample or a landmark on the map, or choose one under Samples: its attracting and repelling landmarks appear here."));
  }

  async show(position) {
    this.asking?.abort();
    this.asking = new AbortController();
    try {
      const found = await get(`/api/explain/${position}`, {}, this.asking.signal);
      this.told(found);
      return found;
    } catch (error) {
      if (error.name !== "AbortError") failed(this.place, error);
      return null;
    }
  }

  told(found) {
    const { run } = this.app;
    const { sample } = found;
    const name = sample.id === null ? "Your sample" : sample.id;
    fill(this.place,
      el("div", { class: "head" }, picture(run, sample.position, name, "large"), el("div", {},
        el("h2", { tabIndex: -1 }, name, sample.is_landmark && el("span", { class: "tag" }, "landmark")),
        sums(found))),
      !found.complete && el("p", { class: "muted" },
        run.live.state === "loading"
          ? "The strongest stored landmarks: the model is being loaded, and all of them will be told when it is there."
          : "The strongest stored landmarks alone; they need not add up to the sample's total."),
      this.side("Attracting landmarks (+)", found.attract, found),
      this.side("Repelling landmarks (−)", found.repel, found),
      rows(sample, found, name),
      ...(found.notes || []).map((note) => el("p", { class: "muted" }, note)),
      found.nearest && this.nearest(found.nearest),
      sample.position !== null && el("p", { class: "row" },
        el("button", { type: "button", onclick: () => this.app.selectNear(sample) }, "Select what lies around it")),
    );
  }

  side(title, items, found) {
    const widest = Math.max(...[...found.attract, ...found.repel].map((i) => Math.abs(i.contribution)), 1e-30);
    return el("section", {}, el("h3", {}, title),
      items.length ? el("ul", { class: "bars" }, items.map((i) => this.bar(i, widest))) : el("p", { class: "muted" }, "none"));
  }

  bar(item, widest) {
    const open = item.position === null ? null : () => this.app.explain(item.position);
    return el("li", {},
      picture(this.app.run, item.position, item.landmark) || el("span", { class: "dot", colour: item.contribution < 0 ? "var(--minus)" : "var(--plus)" }),
      open ? el("button", { type: "button", class: "name", onclick: open }, item.landmark) : el("span", { class: "name" }, item.landmark),
      el("span", { class: "track", "aria-hidden": "true" },
        el("span", { class: item.contribution < 0 ? "minus" : "plus", width: `${(100 * Math.abs(item.contribution)) / widest}%` })),
      el("span", { class: "value" }, signed(item.contribution, 4)));
  }

  nearest(found) {
    return el("section", {}, el("h3", {}, "Nearest samples in representation space"),
      el("ul", { class: "bars" }, found.map((n) => el("li", {}, picture(this.app.run, n.position, n.id) || el("span", { class: "dot" }),
        el("button", { type: "button", class: "name", onclick: () => this.app.explain(n.position) }, n.id), el("span", {}),
        el("span", { class: "value" }, `cosine ${number(n.cosine)}`)))));
  }
}

function sums(found) {
  const add = (items) => items.reduce((total, i) => total + i.contribution, 0);
  const parts = [];
  if (found.attract.length) parts.push([add(found.attract), count(found.attract.length, "attracting landmark")]);
  if (found.repel.length) parts.push([add(found.repel), count(found.repel.length, "repelling landmark")]);
  if (found.complete) parts.push([found.rest, count(found.others, "other")]);
  return el("p", { class: "sum" }, parts.map(([value, words]) => el("span", {}, el("b", {}, signed(value)), " ", words)),
    found.complete && el("span", { class: "total" }, el("b", {}, `= ${signed(found.total)}`), " total contribution"));
}

// raw rows: columns in which the landmarks agree with the sample come first
function rows(sample, found, name) {
  const items = [...found.attract, ...found.repel].filter((i) => Object.keys(i.cells).length);
  const columns = Object.keys(sample.cells);
  if (!columns.length || !items.length) return null;
  const agreeing = (c) => items.filter((i) => i.agrees.includes(c)).length;
  columns.sort((a, b) => agreeing(b) - agreeing(a));
  return el("section", {}, el("h3", {}, "In raw units"), el("div", { class: "scroll", tabIndex: 0 }, el("table", { class: "compare" },
    el("caption", {}, "+ and − landmarks; cells equal to the sample's are marked ="),
    el("thead", {}, el("tr", {}, ["Row", ...columns].map((c) => el("th", { scope: "col" }, c)))),
    el("tbody", {}, el("tr", { class: "self" }, el("th", { scope: "row" }, name), columns.map((c) => el("td", {}, cell(sample.cells[c])))),
      items.map((i) => el("tr", {}, el("th", { scope: "row" }, `${i.contribution < 0 ? "−" : "+"} ${i.landmark}`),
        columns.map((c) => {
          const same = i.agrees.includes(c);
          return el("td", { class: same ? "same" : "" }, same ? "= " : "", cell(i.cells[c]));
        })))))));
}
