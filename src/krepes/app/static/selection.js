// A group of samples: what it shares, a concept of two groups, the audit without it.

import { cell, count, el, failed, fill, interval, number, percent, signed, table } from "./dom.js";
import { job, query } from "./api.js";
import { picture } from "./explanation.js";

export class SelectionPanel {
  constructor(place, app) {
    Object.assign(this, { place, app, sides: { positive: null, negative: null } });
    this.empty();
  }

  empty() {
    this.found = null;
    fill(this.place, el("p", { class: "muted" },
      "Draw around samples with Lasso, take all in view with Select view, or filter under Samples: what the group shares appears here."));
  }

  show(found) {
    this.found = found;
    const { app } = this;
    this.outcome = el("div", { class: "outcome", "aria-live": "polite" });
    this.conceptPlace = el("div", {});
    fill(this.place,
      el("h2", { tabIndex: -1 }, `${count(found.n, "sample")} selected`),
      el("p", { class: "row" },
        el("button", { type: "button", onclick: () => app.list(found) }, "List them"),
        el("a", { class: "button", href: `/export/selection.csv${query({ selection: found.selection })}`, download: "selection.csv" }, "Save as CSV"),
        el("button", { type: "button", onclick: () => app.clear() }, "Clear")),
      el("h3", {}, "Landmarks that its samples have in common"),
      found.landmarks.length
        ? el("ul", { class: "bars" }, found.landmarks.map((l) => el("li", {}, picture(app.run, l.position, l.id) || el("span", { class: "dot" }),
            el("button", { type: "button", class: "name", onclick: () => l.position !== null && app.explain(l.position) }, l.id),
            el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "plus", width: percent(l.share).replace(" ", "") })),
            el("span", { class: "value" }, `${percent(l.share)}, ${number(l.lift)}×`))))
        : el("p", { class: "muted" }, "none is told by this run"),
      el("p", { class: "muted" }, "Share of the group that has the landmark among its strongest ten, and how many times that of all samples."),
      found.features.length ? [el("h3", {}, "How it differs from all samples"), table(
        ["Column", "Here", "All", "Difference"],
        found.features.map((f) => [f.column, f.kind === "category" ? `${cell(f.value)}: ${percent(f.group)}` : number(f.group),
          f.kind === "category" ? percent(f.all) : number(f.all), number(f.difference)]),
        "Means, or the share of the value that differs most; the difference runs from 0 to 1 (total variation, Kolmogorov–Smirnov)")] : null,
      el("h3", {}, "A concept of two groups"),
      this.conceptPlace,
      el("h3", {}, "What if these samples were not there?"),
      el("p", {}, el("button", { type: "button", onclick: () => this.counterfactual() }, "Solve again without them")),
      this.outcome);
    this.conceptForm();
  }

  conceptForm(result) {
    const use = (side) => () => { this.sides[side] = { name: this.found.selection, n: this.found.n }; this.conceptForm(); };
    const told = (side) => (this.sides[side] ? `${this.sides[side].name}, ${count(this.sides[side].n, "sample")}` : side === "negative" ? "all others" : "none yet");
    fill(this.conceptPlace,
      el("p", { class: "row" }, el("button", { type: "button", onclick: use("positive") }, "Use as positive side"),
        el("button", { type: "button", onclick: use("negative") }, "Use as negative side"),
        this.sides.negative && el("button", { type: "button", onclick: () => { this.sides.negative = null; this.conceptForm(); } }, "Negative: all others")),
      el("p", { class: "muted" }, `Positive: ${told("positive")}. Negative: ${told("negative")}.`),
      this.sides.positive && el("p", {}, el("button", { type: "button", class: "primary", onclick: () => this.concept() }, "Score this concept")),
      result);
  }

  async concept() {
    const place = el("div", { class: "outcome", "aria-live": "polite" });
    this.conceptForm(place);
    const asked = { positive: this.sides.positive.name, negative: this.sides.negative?.name ?? null };
    try {
      const c = await job("/api/concept", asked, (words) => fill(place, el("p", { class: "muted" }, words)));
      fill(place,
        el("p", { class: `verdict ${c.usable ? "green" : "amber"}` }, el("strong", {}, c.usable ? "Usable" : "Not usable"), c.usable ? "" : c.verdict),
        table(["Figure", "Found"], [
          ["accuracy (random concepts)", `${number(c.accuracy)} (${number(c.accuracy_null)}), p = ${number(c.p)}`],
          ["stability", number(c.stability)],
          ["push of the step along it", signed(c.push.estimate) + interval(c.push.low, c.push.high)],
          ["push along random directions", `[${signed(c.push.null_low)}, ${signed(c.push.null_high)}], p = ${number(c.push.p)}`],
          ["samples", `${c.n_positive} positive, ${c.n_negative} negative`]]),
        el("h4", {}, "Landmarks that push samples along it (+) or against it (−)"),
        el("ul", { class: "bars" }, c.landmarks.map((l) => this.app.bar(l.id, l.position, l.weight, Math.max(...c.landmarks.map((o) => Math.abs(o.weight)), 1e-30)))));
    } catch (error) {
      failed(place, error);
    }
  }

  async counterfactual() {
    const place = this.outcome;
    const asked = { remove: this.found.selection, positions: this.app.position === null ? [] : [this.app.position] };
    try {
      const c = await job("/api/counterfactual", asked, (words) => fill(place, el("p", { class: "muted" }, words)));
      fill(place,
        el("p", {}, `Without ${count(c.removed, "sample")}${c.landmarks_among_them ? `, ${count(c.landmarks_among_them, "landmark")} among them` : ""}:`),
        table(["Figure", "Without them [95 %]", "Without as many at random"],
          c.summary.map((r) => [r.figure, number(r.estimate) + (r.low === null ? "" : ` [${number(r.low)}, ${number(r.high)}]`), number(r.random)])),
        c.samples.length ? table(["Sample", "Shift", "Cosine", "Neighbours that stay"],
          c.samples.map((s) => [s.id + (s.removed ? " (removed)" : ""), number(s.shift), number(s.cosine), percent(s.neighbours)])) : null,
        el("p", { class: "muted" }, "Shift is ‖f′ − f‖/‖f‖; the last column is one random draw of as many samples. It is the audit that was solved again, not the network trained again."));
    } catch (error) {
      failed(place, error);
    }
  }
}
