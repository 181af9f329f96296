// This run beside another one.

import { el, failed, fill, interval, number, signed, table } from "./dom.js";
import { get } from "./api.js";

export class ComparePanel {
  constructor(place) {
    Object.assign(this, { place, asked: false });
  }

  async open() {
    if (this.asked) return;
    this.asked = true;
    fill(this.place, el("p", { class: "muted" }, "comparing"));
    try {
      const c = await get("/api/compare");
      const changed = (what) => c.landmarks.filter((l) => l.change === what);
      const sides = (rows) => rows.map((r) => [r.name ?? r.figure, number(r.a), number(r.b), signed(r.difference) + interval(r.low, r.high)]);
      const heads = ["", "This run", "Other", "Other − this [95 %]"];
      fill(this.place,
        el("h2", {}, "This run beside the other"),
        ...c.notes.map((n) => el("p", {}, n)),
        el("p", {}, `Landmarks: ${c.kept} in both, ${changed("lost").length} in this run alone, ${changed("gained").length} in the other alone.`),
        c.gaps.length ? [el("h3", {}, "Alignment gaps"), table(heads, sides(c.gaps))] : null,
        c.concepts.length ? [el("h3", {}, "Concepts"), table(heads, sides(c.concepts))] : null,
        el("h3", {}, "Figures"), table(heads, sides(c.figures)),
        c.landmarks.length ? [el("h3", {}, "Landmarks of one run alone"), table(["Landmark", "In", "Share of influence"],
          c.landmarks.slice(0, 30).map((l) => [l.landmark, l.change === "lost" ? "this run" : "the other", number(l.share)]))] : null);
    } catch (error) {
      this.asked = false;
      failed(this.place, error);
    }
  }
}
