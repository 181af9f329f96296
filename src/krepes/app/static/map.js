// The map of all samples: the server's tiles under Leaflet, landmarks and what is explained on a canvas.
/* global L */

import { query } from "./api.js";

const SIDE = 256;
const dark = matchMedia("(prefers-color-scheme: dark)");

export class MapView {
  constructor(place, extent, { onpick, onmove }) {
    this.extent = extent;
    this.colour = "";
    this.selection = "";
    const scale = SIDE / (extent.x1 - extent.x0);
    const crs = L.extend({}, L.CRS.Simple, {
      transformation: new L.Transformation(scale, -scale * extent.x0, -scale, scale * extent.y1),
    });
    this.map = L.map(place, {
      crs, minZoom: -1, maxZoom: 20, zoomSnap: 0.25, zoomDelta: 1, attributionControl: false, preferCanvas: true, fadeAnimation: false,
      maxBoundsViscosity: 0.6, wheelPxPerZoomLevel: 90,
    });
    this.bounds = L.latLngBounds([extent.y0, extent.x0], [extent.y1, extent.x1]);
    this.map.setMaxBounds(this.bounds.pad(0.5));
    this.canvas = L.canvas({ padding: 0.3 });
    this.marks = L.layerGroup().addTo(this.map);
    this.shown = L.layerGroup().addTo(this.map);
    this.outline = L.layerGroup().addTo(this.map);
    this.map.on("click", (event) => this.lassoing || onpick(event.latlng.lng, event.latlng.lat, this.reach(8)));
    this.map.on("moveend", onmove);
    dark.addEventListener("change", () => this.redraw());
    this.whole();
    this.redraw();
  }

  get theme() {
    return dark.matches ? "dark" : "light";
  }

  // map units that so many pixels are
  reach(pixels) {
    return (pixels * (this.extent.x1 - this.extent.x0)) / (SIDE * 2 ** this.map.getZoom());
  }

  whole() {
    this.map.fitBounds(this.bounds, { animate: false });
  }

  go(view) {
    this.map.setView([view.y, view.x], view.z, { animate: false });
  }

  get view() {
    const { lat, lng } = this.map.getCenter();
    return { x: lng, y: lat, z: this.map.getZoom() };
  }

  get box() {
    const found = this.map.getBounds();
    return { x0: found.getWest(), y0: found.getSouth(), x1: found.getEast(), y1: found.getNorth() };
  }

  redraw() {
    const asked = query({ colour: this.colour, selection: this.selection, theme: this.theme });
    const next = L.tileLayer(`/tiles/{z}/{x}/{y}.png${asked.replace(/[{}]/g, encodeURIComponent)}`, {
      minZoom: -1, maxZoom: 20, minNativeZoom: 0, maxNativeZoom: 20, noWrap: true, keepBuffer: 3,
      bounds: this.bounds.pad(-1e-6), // rounding at the edge would ask for a row beyond it
      updateWhenZooming: false, className: "tiles",
    });
    const before = [...(this.fading || []), this.tiles].filter(Boolean);
    this.fading = before;
    this.tiles = next.addTo(this.map);
    next.once("load", () => {
      for (const layer of before) layer.remove();
      if (this.fading === before) this.fading = [];
    });
  }

  landmarks(rows, onpick) {
    this.marks.clearLayers();
    const most = Math.max(...rows.map((r) => r.influence || 0), 1e-30);
    for (const row of rows) {
      if (row.x === null || row.y === null) continue;
      const mark = L.circleMarker([row.y, row.x], {
        renderer: this.canvas, radius: 3 + 4 * Math.sqrt((row.influence || 0) / most), weight: 1,
        color: "#fff", fillOpacity: 0.9, fillColor: row.balance < 0 ? "#c2410c" : "#2f6fde",
      });
      mark.bindTooltip(document.createTextNode(`landmark ${row.id}, rank ${row.rank}`), { direction: "top" });
      mark.on("click", (event) => {
        L.DomEvent.stopPropagation(event);
        if (!this.lassoing) onpick(row.position);
      });
      this.marks.addLayer(mark);
    }
  }

  toggle(on) {
    if (on) this.marks.addTo(this.map);
    else this.marks.remove();
  }

  // a sample, and lines to the landmarks that hold it where it is
  explained(sample, lines) {
    this.shown.clearLayers();
    if (!sample || sample.x === null) return;
    const widest = Math.max(...lines.map((l) => Math.abs(l.contribution)), 1e-30);
    for (const line of lines) {
      this.shown.addLayer(L.polyline([[sample.y, sample.x], [line.y, line.x]], {
        renderer: this.canvas, weight: 0.5 + 3 * Math.abs(line.contribution) / widest, opacity: 0.7, interactive: false,
        color: line.contribution < 0 ? "#e0662f" : "#4f8df0", dashArray: line.contribution < 0 ? "5 4" : null,
      }));
    }
    for (const [radius, color, weight] of [[8, "#fff", 4], [8, "#111", 2]]) {
      this.shown.addLayer(L.circleMarker([sample.y, sample.x], { renderer: this.canvas, radius, color, weight, fill: false, interactive: false }));
    }
  }

  // what is seen as a PNG file of twice as many pixels: the server's map, and what lies over it here
  async picture() {
    const { x: width, y: height } = this.map.getSize();
    const factor = Math.min(2, 8000 / Math.max(width, height), Math.sqrt(15e6 / (width * height)));
    const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(width * factor), height: Math.round(height * factor) });
    const asked = { ...this.box, width: canvas.width, height: canvas.height, colour: this.colour, selection: this.selection, theme: this.theme };
    const ground = new Image();
    ground.src = `/export/map.png${query(asked)}`;
    await ground.decode().catch(() => { throw new Error("The map could not be drawn; is krepes serve still running?"); });
    const pen = canvas.getContext("2d");
    pen.drawImage(ground, 0, 0, canvas.width, canvas.height);
    pen.scale(factor, factor);
    for (const group of [this.outline, this.marks, this.shown]) {
      if (this.map.hasLayer(group)) group.eachLayer((layer) => this.stroke(pen, layer));
    }
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  stroke(pen, layer) {
    const at = (place) => this.map.latLngToContainerPoint(place);
    const { color, weight, opacity = 1, fill, fillColor, fillOpacity = 0.2, dashArray } = layer.options;
    pen.beginPath();
    if (layer instanceof L.CircleMarker) {
      const { x, y } = at(layer.getLatLng());
      pen.arc(x, y, layer.getRadius(), 0, 2 * Math.PI);
    } else {
      for (const place of layer.getLatLngs().flat()) pen.lineTo(at(place).x, at(place).y);
      if (layer instanceof L.Polygon) pen.closePath();
    }
    if (fill !== false && !(layer instanceof L.Polyline && !(layer instanceof L.Polygon))) {
      pen.globalAlpha = fillOpacity;
      pen.fillStyle = fillColor || color;
      pen.fill();
    }
    pen.globalAlpha = opacity;
    pen.strokeStyle = color;
    pen.lineWidth = weight;
    pen.setLineDash(dashArray ? dashArray.split(" ").map(Number) : []);
    pen.stroke();
  }

  into(x, y) {
    if (!this.map.getBounds().contains([y, x])) this.map.panTo([y, x]);
  }

  // free-hand; resolves to a polygon [[x, y], …], or null when it is given up
  lasso() {
    return new Promise((done) => {
      const place = this.map.getContainer();
      let points = null;
      this.lassoing = true;
      this.map.dragging.disable();
      place.classList.add("lassoing");
      const line = L.polygon([], { color: "#d1351b", weight: 1.5, fillOpacity: 0.08, interactive: false, renderer: this.canvas });
      this.outline.clearLayers();
      this.outline.addLayer(line);
      const end = (found) => {
        for (const [name, listener] of Object.entries(listeners)) place.removeEventListener(name, listener, true);
        document.removeEventListener("keydown", escape);
        place.classList.remove("lassoing");
        this.map.dragging.enable();
        if (!found) this.outline.clearLayers();
        this.giveUp = null;
        this.lassoing = false;
        done(found);
      };
      const escape = (event) => event.key === "Escape" && end(null);
      const add = (event) => {
        const at = this.map.mouseEventToContainerPoint(event);
        if (points.length && at.distanceTo(points[points.length - 1]) < 3) return;
        points.push(at);
        line.addLatLng(this.map.containerPointToLatLng(at));
      };
      const listeners = {
        pointerdown: (event) => {
          if (event.button !== 0 || event.target.closest(".leaflet-control")) return;
          points = [];
          place.setPointerCapture(event.pointerId);
          add(event);
          event.stopPropagation();
          event.preventDefault();
        },
        pointermove: (event) => points && add(event),
        pointerup: () => {
          if (!points) return;
          const found = points.map((p) => this.map.containerPointToLatLng(p)).map((p) => [p.lng, p.lat]);
          end(found.length > 2 ? found : null);
          this.lassoing = true; // the click that this pointerup makes picks nothing
          setTimeout(() => { this.lassoing = false; }, 0);
        },
        pointercancel: () => end(null),
      };
      for (const [name, listener] of Object.entries(listeners)) place.addEventListener(name, listener, true);
      document.addEventListener("keydown", escape);
      this.giveUp = () => end(null);
    });
  }
}
