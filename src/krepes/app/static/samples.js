// Samples as a list: by id, by a query on the table, or those that are selected.

import { cell, count, el, failed, fill } from "./dom.js";
import { get } from "./api.js";
import { picture } from "./explanation.js";

const PAGE = 50;

export class SamplesPanel {
  constructor(place, app) {
    Object.assign(this, { place, app, offset: 0, selection: null });
    const example = exampleOf(app.run.columns);
    this.text = el("input", { type: "search", id: "by-id", autocomplete: "off", spellcheck: false });
    this.where = el("input", { type: "text", id: "by-query", autocomplete: "off", spellcheck: false, placeholder: example || "" });
    this.only = el("p", { class: "muted" });
    this.rows = el("div", { "aria-live": "polite" });
    place.append(
      el("form", { class: "filter", onsubmit: (event) => { event.preventDefault(); this.offset = 0; this.list(); } },
        el("label", { htmlFor: "by-id" }, "Id contains"), this.text,
        app.run.columns.length ? [el("label", { htmlFor: "by-query" }, "Query on the table"), this.where,
          el("p", { class: "muted" }, `such as ${example}; and, or, not, in [..], isna(column)`)] : null,
        el("p", { class: "row" }, el("button", { class: "primary" }, "Search"),
          el("button", { type: "button", onclick: () => this.select() }, "Select on the map"),
          el("button", { type: "button", onclick: () => this.reset() }, "All samples"))),
      this.only, this.rows);
  }

  get asked() {
    return { q: this.text.value.trim(), where: this.where.value.trim(), selection: this.selection?.selection };
  }

  restore(q, where) {
    this.text.value = q || "";
    this.where.value = where || "";
  }

  of(found) {
    this.selection = found;
    this.offset = 0;
    return this.list();
  }

  reset() {
    this.restore("", "");
    return this.of(null);
  }

  async list() {
    this.app.remember();
    this.listed = true;
    this.asking?.abort(); // an answer that comes late would show another list
    this.asking = new AbortController();
    fill(this.only, this.selection ? `Among the ${count(this.selection.n, "sample")} of ${this.selection.selection}. ` : "");
    try {
      const found = await get("/api/samples", { ...this.asked, offset: this.offset, limit: PAGE }, this.asking.signal);
      this.show(found);
    } catch (error) {
      if (error.name !== "AbortError") failed(this.rows, error);
    }
  }

  show({ total, rows }) {
    const { run } = this.app;
    const columns = rows.length ? Object.keys(rows[0].cells) : [];
    const last = this.offset + rows.length;
    const page = (step) => () => { this.offset += step; this.list(); };
    fill(this.rows,
      el("p", { class: "row" }, el("strong", {}, total ? `${this.offset + 1}–${last} of ${count(total, "sample")}` : "No sample"),
        this.offset > 0 && el("button", { type: "button", onclick: page(-PAGE) }, "Before"),
        last < total && el("button", { type: "button", onclick: page(PAGE) }, "Next")),
      columns.length
        ? el("div", { class: "scroll", tabIndex: 0 }, el("table", { class: "compare" },
            el("thead", {}, el("tr", {}, ["Sample", ...columns].map((c) => el("th", { scope: "col" }, c)))),
            el("tbody", {}, rows.map((r) => el("tr", {}, el("th", { scope: "row" }, picture(run, r.position, r.id), this.opener(r)), columns.map((c) => el("td", {}, cell(r.cells[c]))))))))
        : el("ul", { class: "gallery" }, rows.map((r) => el("li", {}, picture(run, r.position, r.id), this.opener(r)))));
  }

  opener(row) {
    return el("button", { type: "button", class: "name", onclick: () => this.app.explain(row.position) }, row.id);
  }

  async select() {
    const { q, where, selection } = this.asked;
    if (selection) return this.app.tab("selection");
    if (Boolean(q) === Boolean(where)) return failed(this.rows, new Error("Give an id or a query, one of them, to select on the map."));
    return this.app.select(q ? { q } : { where }).catch((error) => failed(this.rows, error));
  }
}

function exampleOf(columns) {
  const name = (c) => (/^[A-Za-z_]\w*$/.test(c.name) ? c.name : `\`${c.name}\``);
  const category = columns.find((c) => c.kind === "category" && c.values?.length);
  const numeric = columns.find((c) => c.kind === "number");
  const parts = [];
  if (numeric) parts.push(`${name(numeric)} > ${Number(((numeric.low + numeric.high) / 2).toPrecision(2))}`);
  if (category) parts.push(`${name(category)} == ${JSON.stringify(String(category.values[0]))}`);
  return parts.join(" and ");
}
