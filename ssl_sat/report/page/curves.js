// Curves of runs: one quantity at a time, a line a run, values under the pointer.
"use strict";

const LINES = ["#332288", "#cc6677", "#117733", "#e69f00", "#882255", "#44aa99", "#999933", "#88ccee", "#aa4499", "#555555"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3"];

class Curves {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.svg = root.querySelector("svg");
    this.hidden = new Set();
    this.groups = [...new Set(data.panels.flatMap((panel) => panel.series.map((line) => line.group)))];
    this.select = element("select");
    data.panels.forEach((panel, n) => this.select.append(new Option(panel.name, n)));
    const label = element("label", "", "Quantity "), log = element("label");
    this.log = element("input");
    this.log.type = "checkbox";
    log.append(this.log, " logarithmic");
    label.append(this.select);
    this.keys = element("div", "legend");
    this.read = element("output", "", "Move over the curves to read values.");
    const tools = element("div", "tabletop");
    tools.append(label, log, this.read);
    root.prepend(tools);
    root.append(this.keys);
    this.select.addEventListener("change", () => this.draw());
    this.log.addEventListener("change", () => this.draw());
    this.svg.addEventListener("pointermove", (event) => this.moved(event));
    this.draw();
  }

  node(name, attributes, text) {
    const made = document.createElementNS(this.svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  style(line) {
    const at = this.groups.indexOf(line.group);
    return { stroke: LINES[at % LINES.length], "stroke-dasharray": DASHES[Math.floor(at / LINES.length) % 4] };
  }

  draw() {
    const panel = this.data.panels[Number(this.select.value)];
    const log = this.log.checked;
    this.lines = panel.series.filter((line) => !this.hidden.has(line.group));
    const points = this.lines.flatMap((line) => line.ys.map((y, n) => [line.xs[n], y])).filter(([, y]) => !log || y > 0);
    const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
    const [x0, x1] = [Math.min(...xs, 0), Math.max(...xs, 1)];
    let [y0, y1] = ys.length ? [Math.min(...ys), Math.max(...ys)] : [log ? 0.1 : 0, 1];
    if (y0 === y1) { y0 -= Math.abs(y0) * 0.1 || 0.5; y1 += Math.abs(y1) * 0.1 || 0.5; }
    const turn = (y) => (log ? Math.log10(y) : y);
    this.x = (x) => 64 + (x - x0) / (x1 - x0 || 1) * 900;
    this.y = (y) => 318 - (turn(y) - turn(y0)) / (turn(y1) - turn(y0)) * 296;
    this.svg.replaceChildren();
    this.axes(x0, x1, y0, y1, log);
    for (const line of this.lines) {
      const good = line.xs.map((x, n) => [x, line.ys[n]]).filter(([, y]) => !log || y > 0);
      const path = good.map(([x, y], n) => `${n ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join("");
      this.svg.append(this.node("path", { d: path, ...this.style(line), opacity: 0.85 }));
    }
    this.legend(panel);
  }

  axes(x0, x1, y0, y1, log) {
    for (const y of log ? powers(y0, y1) : nice(y0, y1)) {
      this.svg.append(this.node("line", { class: "grid", x1: 64, x2: 964, y1: this.y(y), y2: this.y(y) }));
      this.svg.append(this.node("text", { x: 58, y: this.y(y) + 4, "text-anchor": "end" }, Number(y.toPrecision(4)).toString()));
    }
    for (const x of nice(x0, x1)) {
      this.svg.append(this.node("text", { x: this.x(x), y: 336, "text-anchor": "middle" }, String(Number(x.toPrecision(6)))));
    }
    this.svg.append(this.node("line", { class: "axis", x1: 64, x2: 964, y1: 318, y2: 318 }));
    this.svg.append(this.node("text", { x: 514, y: 354, "text-anchor": "middle" }, this.data.x));
  }

  legend(panel) {
    const there = this.groups.filter((group) => panel.series.some((line) => line.group === group));
    this.keys.replaceChildren(...there.map((group) => {
      const key = element("button", "key"), sample = this.node("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      sample.append(this.node("path", { d: "M1 5H25", ...this.style({ group }) }));
      key.type = "button";
      key.setAttribute("aria-pressed", String(!this.hidden.has(group)));
      const runs = panel.series.filter((line) => line.group === group).length;
      key.append(sample, element("span", "", runs > 1 ? `${group} (${runs} runs)` : group));
      key.addEventListener("click", () => {
        this.hidden.has(group) ? this.hidden.delete(group) : this.hidden.add(group);
        this.draw();
        [...this.keys.children].find((other) => other.textContent === key.textContent)?.focus();
      });
      return key;
    }));
  }

  moved(event) {
    const frame = this.svg.getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width * 980, (event.clientY - frame.top) / frame.height * 360];
    let best = null, least = 900;
    for (const line of this.lines) {
      line.xs.forEach((value, n) => {
        const far = (this.x(value) - x) ** 2 + (this.y(line.ys[n]) - y) ** 2;
        if (far < least) { least = far; best = [line, n]; }
      });
    }
    this.svg.querySelector(".dot")?.remove();
    if (!best) return;
    const [line, n] = best;
    this.svg.append(this.node("circle", { class: "dot", cx: this.x(line.xs[n]), cy: this.y(line.ys[n]), r: 4.5, fill: this.style(line).stroke }));
    const value = Number(line.ys[n].toPrecision(5));
    this.read.textContent = `${line.name}: ${value} at ${this.data.x} ${Number(line.xs[n].toPrecision(6))} (${line.fingerprint})`;
  }
}

function nice(low, high) {
  const rough = (high - low) / 6, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
    for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) found.push(m * 10 ** p);
  }
  return found.length ? found : [low, high];
}
