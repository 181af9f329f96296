// One's own sample, explained by the saved encoder.

import { el, failed, fill } from "./dom.js";
import { send } from "./api.js";

const LIMIT = 10 * 2 ** 20;

export class UploadPanel {
  constructor(place, app) {
    Object.assign(this, { place, app });
    const image = app.run.kind === "image";
    this.told = el("div", { "aria-live": "polite" });
    this.file = el("input", { type: "file", id: "own-file", accept: image ? "image/png,image/jpeg,image/webp,image/bmp" : ".csv,.json" });
    this.text = image ? null : el("textarea", { id: "own-row", rows: 6, spellcheck: false });
    fill(place,
      el("p", {}, "A sample that the run has never seen is prepared as its samples were, embedded by the saved encoder, and explained. It is not kept."),
      el("label", { htmlFor: "own-file" }, image ? "An image file" : "A CSV file with a header and one row, or a JSON file"), this.file,
      this.text && [el("label", { htmlFor: "own-row" }, app.run.kind === "table" ? "or a row as JSON, column: value" : "or its numbers as JSON"), this.text],
      el("p", {}, el("button", { type: "button", class: "primary", onclick: () => this.explain() }, "Explain it")),
      this.told);
    if (this.text && app.run.kind === "table") {
      const row = Object.fromEntries(app.run.columns.map((c) => [c.name, c.kind === "number" ? c.low : c.values?.[0] ?? null]));
      this.text.value = JSON.stringify(row, null, 1);
    }
  }

  async explain() {
    const file = this.file.files[0];
    fill(this.told, el("p", { class: "muted" }, "computing"));
    try {
      if (file && file.size > LIMIT) throw new Error("The file holds more than 10 MiB.");
      const type = file ? file.type || (file.name.endsWith(".json") ? "application/json" : "text/csv") : "application/json";
      const found = await send("/api/upload", file || this.text?.value || "", type);
      fill(this.told, el("p", { class: "muted" }, "Explained; see Explanation."));
      this.app.uploaded(found);
    } catch (error) {
      failed(this.told, error);
    }
  }
}
