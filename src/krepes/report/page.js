// The report reads without this: a label for the map's landmarks, and everything opened for print.
(() => {
  const chart = document.getElementById("map-chart"), tip = document.getElementById("tip");
  if (chart && tip) {
    const show = (link) => {
      const row = document.querySelector(link.getAttribute("href") || link.getAttribute("xlink:href"));
      if (!row) return;
      const picture = row.querySelector("use"), cells = [...row.children].map((c) => c.textContent.trim());
      tip.querySelector(".pic").toggleAttribute("hidden", !picture);
      if (picture) tip.querySelector("use").setAttribute("href", picture.getAttribute("href"));
      tip.querySelector("span").textContent = `${cells[1]}, rank ${cells[0]}, influence ${cells[3]}, balance ${cells[4]}`;
      const box = chart.getBoundingClientRect(), at = link.getBoundingClientRect();
      tip.hidden = false;
      tip.style.left = `${Math.min(at.left - box.left + 14, box.width - tip.offsetWidth)}px`;
      tip.style.top = `${at.top - box.top + 14}px`;
    };
    for (const link of chart.querySelectorAll("a")) {
      link.setAttribute("tabindex", "-1");
      link.addEventListener("pointerenter", () => show(link));
      link.addEventListener("pointerleave", () => { tip.hidden = true; });
      link.addEventListener("click", () => { document.getElementById("every").open = true; });
    }
  }
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const d of opened) d.open = true;
  });
  addEventListener("afterprint", () => { for (const d of opened) d.open = false; });
})();
