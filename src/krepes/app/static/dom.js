// Elements and numbers. Everything that the server tells becomes text, never markup.

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "width") made.style.width = value;
    else if (name === "colour") made.style.background = value;
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name, value);
  }
  return fill(made, ...children);
}

// the children alone; null, undefined and false are none
export function fill(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false).map(text));
  return place;
}

const text = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

// three significant digits; whole numbers up to a million whole
export const number = (value) => {
  if (value === null || value === undefined) return "–";
  const rounded = Number(Number(value).toPrecision(3)), size = Math.abs(rounded);
  const shown = size >= 100 && size < 1e6 ? Math.round(value).toLocaleString("en") : String(rounded);
  return shown.replace(/-/g, "−");
};

export const signed = (value, digits = 3) => {
  if (value === null || value === undefined) return "–";
  const shown = Math.abs(value).toFixed(digits);
  return (Number(shown) === 0 ? "" : value < 0 ? "−" : "+") + shown;
};

export const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);

export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

export const interval = (low, high) => (low === null || low === undefined ? "" : ` [${signed(low)}, ${signed(high)}]`);

export const cell = (value) => {
  if (value === null || value === undefined) return "missing";
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)).toString() : String(value);
};

let silence;
export function say(sentence) {
  const place = document.getElementById("said");
  place.textContent = sentence;
  place.classList.add("shown");
  clearTimeout(silence);
  silence = setTimeout(() => place.classList.remove("shown"), 6000);
}

export function table(heads, rows, caption) {
  return el("div", { class: "scroll", tabIndex: 0 }, el("table", {},
    caption && el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((c, i) => (i ? el("td", {}, c) : el("th", { scope: "row" }, c))))))));
}

export function failed(place, error) {
  fill(place, el("p", { class: "verdict amber", role: "alert" }, error.message));
}
