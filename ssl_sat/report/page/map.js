// Maps of patches: one canvas a state, one view for all, the patch itself under the pointer.
"use strict";

const TOL = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#e69f00"];
const SHAPES = ["disc", "square", "triangle", "diamond", "ring"];
const CROSSES = ["x", "plus", "star", "bar", "dash"];
const DARKS = ["#000000", "#5a3d00", "#004d40", "#6a1b4d"];
const ID_COLOUR = "#4477aa", OOD_COLOUR = "#bb5566", UNKNOWN = "#9aa1a9";
const CIVIDIS = [[0, 34, 78], [66, 78, 108], [125, 124, 120], [188, 175, 111], [255, 234, 70]];
const REACH_PX = 14;

function decoded(text, Kind) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let n = 0; n < raw.length; n++) bytes[n] = raw.charCodeAt(n);
  return new Kind(bytes.buffer);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const mix = CIVIDIS[low].map((value, n) => Math.round(value + (CIVIDIS[low + 1][n] - value) * (at - low)));
  return `rgb(${mix.join(",")})`;
}

// A marker drawn once at the size it will have; drawing a point is then one copy.
function marker(shape, colour, radius) {
  const side = Math.ceil(2 * radius + 4), canvas = element("canvas"), middle = side / 2;
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d");
  pen.translate(middle, middle);
  pen.fillStyle = pen.strokeStyle = colour;
  pen.lineWidth = Math.max(1.2, radius * 0.42);
  const line = (...points) => { pen.beginPath(); points.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y))); };
  const strokes = (angles) => angles.forEach((angle) => {
    const [x, y] = [Math.cos(angle) * radius, Math.sin(angle) * radius];
    line([-x, -y], [x, y]); pen.stroke();
  });
  const r = radius, q = Math.PI / 4;
  const drawn = {
    disc() { pen.beginPath(); pen.arc(0, 0, r, 0, 7); pen.fill(); },
    square() { pen.fillRect(-r * 0.86, -r * 0.86, r * 1.72, r * 1.72); },
    triangle() { line([0, -r * 1.1], [r, r * 0.8], [-r, r * 0.8]); pen.fill(); },
    diamond() { line([0, -r * 1.2], [r, 0], [0, r * 1.2], [-r, 0]); pen.fill(); },
    ring() { pen.beginPath(); pen.arc(0, 0, r * 0.8, 0, 7); pen.stroke(); },
    x() { strokes([q, 3 * q]); }, plus() { strokes([0, 2 * q]); }, star() { strokes([0, q * 4 / 3, q * 8 / 3]); },
    bar() { strokes([2 * q]); }, dash() { strokes([0]); },
  };
  drawn[shape]();
  return canvas;
}

// Sheets of thumbnails: their text is decoded when the first of their patches is asked for, and not before.
const sheets = new Map();
function sheet(name) {
  if (!sheets.has(name)) {
    const image = new Image();
    image.src = `data:image/webp;base64,${document.getElementById(name).textContent}`;
    sheets.set(name, image.decode().then(() => image));
  }
  return sheets.get(name);
}

class PatchMap {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.count = data.ids.length;
    this.group = decoded(data.group, Uint16Array);
    this.right = decoded(data.right, Int8Array);
    this.states = data.states.map((state) => ({
      ...state, xy: decoded(state.xy, Uint16Array), kept: decoded(state.kept, Uint8Array), near: decoded(state.near, Uint16Array),
    }));
    this.listed = this.states[0].near.length / this.count;
    this.hidden = new Set();
    this.colouring = "class";
    this.lines = true;
    this.view = { scale: 1, x: 0.5, y: 0.5 };
    this.hovered = this.pinned = this.wanted = null;
    this.order = this.shuffled();
    this.styles = this.styled();
    this.build();
    new ResizeObserver(() => this.resized()).observe(this.panels[0].plot);
  }

  // Points are drawn in a mixed order, always the same, so that no class lies on top of all others.
  shuffled() {
    const order = Uint32Array.from({ length: this.count }, (_, n) => n);
    let state = 12345;
    for (let n = this.count - 1; n > 0; n--) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const other = state % (n + 1);
      [order[n], order[other]] = [order[other], order[n]];
    }
    return order;
  }

  styled() {
    let inside = 0, outside = 0;
    return this.data.groups.map((group) => {
      if (group.ood) {
        const at = outside++;
        return { colour: DARKS[Math.floor(at / CROSSES.length) % DARKS.length], shape: CROSSES[at % CROSSES.length] };
      }
      if (group.class === null) return { colour: UNKNOWN, shape: "disc" };
      const at = inside++;
      return { colour: TOL[at % TOL.length], shape: SHAPES[(at + Math.floor(at / TOL.length)) % SHAPES.length] };
    });
  }

  build() {
    this.root.append(this.tools());
    const row = element("div", "panels");
    this.panels = this.states.map((state, at) => this.panel(state, at));
    row.append(...this.panels.map((panel) => panel.box));
    this.legends = element("div", "legends");
    this.root.append(row, this.legends, element("p", "hint",
      "Pointer: the patch, ringed in every panel, with lines to its true nearest neighbours in the features. Click pins. " +
      "A class pointed at in the legend stands out, a click hides it, a double click shows it alone. Drag moves, Ctrl + wheel or + and − zoom, 0 resets; all panels move together. " +
      "Keyboard: Tab to a map, arrows go from patch to patch, Enter pins, Escape lets go."));
    this.live = element("div", "visually-hidden");
    this.live.setAttribute("aria-live", "polite");
    this.card = this.patchCard();
    this.root.append(this.live);
    document.body.append(this.card);
    this.legend();
  }

  tools() {
    const box = element("div", "tools"), set = element("fieldset");
    set.append(element("legend", "", "Colour by"));
    for (const [value, text] of [["class", "class"], ["data", "data set"], ["kept", "neighbours kept"]]) {
      const label = element("label"), input = element("input");
      Object.assign(input, { type: "radio", name: `colour-${this.root.id}`, value, checked: value === "class" });
      input.addEventListener("change", () => { this.colouring = value; this.legend(); this.draw(); });
      label.append(input, ` ${text}`);
      set.append(label);
    }
    const label = element("label"), lines = element("input");
    Object.assign(lines, { type: "checkbox", checked: true });
    lines.addEventListener("change", () => { this.lines = lines.checked; this.drawOver(); });
    label.append(lines, " lines to true neighbours");
    box.append(set, label);
    for (const [text, name, act] of [["+", "Zoom in", () => this.zoom(1.4)], ["−", "Zoom out", () => this.zoom(1 / 1.4)],
      ["reset", "Reset the view", () => this.reset()]]) {
      const button = element("button", "tool", text);
      button.type = "button";
      button.setAttribute("aria-label", name);
      button.addEventListener("click", act);
      box.append(button);
    }
    return box;
  }

  panel(state, at) {
    const box = element("div", "panel"), plot = element("div", "plot");
    const base = element("canvas"), over = element("canvas", "over");
    over.tabIndex = 0;
    over.setAttribute("role", "application");
    over.setAttribute("aria-label", `Map ${state.label}: ${this.count} patches. Arrow keys go from patch to patch.`);
    plot.append(base, over);
    box.append(element("h4", "", state.label), plot, this.trust(state));
    over.addEventListener("pointermove", (event) => this.moved(event, at));
    over.addEventListener("pointerdown", (event) => this.pressed(event, at));
    over.addEventListener("pointerup", (event) => this.released(event, at));
    over.addEventListener("pointerleave", () => { if (!this.drag) this.hover(null); });
    over.addEventListener("wheel", (event) => this.wheeled(event, at), { passive: false });
    over.addEventListener("keydown", (event) => this.key(event, at));
    over.addEventListener("blur", () => { if (this.pinned === null) this.hover(null); });
    return { box, plot, base, over };
  }

  trust(state) {
    const list = element("dl", "trust");
    const chance = state.neighbours / (this.count - 1);
    const rows = [
      ["trustworthiness", state.trustworthiness, "1: no false neighbours on the map; 0.5: a map at random", 0.5],
      ["continuity", state.continuity, "1: no true neighbours torn apart; 0.5: a map at random", 0.5],
      [`of ${state.neighbours} neighbours kept`, state.share, `a map at random keeps ${(100 * chance).toFixed(1)} %`, chance],
    ];
    for (const [name, value, title, random] of rows) {
      const term = element("dt", "", name), bar = element("div", "bar"), fill = element("i"), text = element("dd");
      const tick = element("s");
      term.title = bar.title = title;
      fill.style.width = `${100 * value}%`;
      tick.style.left = `${100 * random}%`;
      text.textContent = name.startsWith("of") ? `${(100 * value).toFixed(0)} %` : value.toFixed(3);
      bar.append(fill, tick);
      list.append(term, bar, text);
    }
    return list;
  }

  legend() {
    this.legends.replaceChildren();
    if (this.colouring === "kept") this.legends.append(this.rampKey());
    for (const name of this.data.data) {
      const own = this.data.groups.map((group, n) => [group, n]).filter(([group]) => group.data === name);
      if (!own.length) continue;
      const line = element("div", "legend");
      const numbers = own.map(([, n]) => n);
      const whole = this.key_(`${name} (all)`, null, numbers, own.reduce((sum, [group]) => sum + group.count, 0));
      line.append(whole);
      for (const [group, n] of own) line.append(this.key_(group.class ?? "no single class", n, [n], group.count));
      this.legends.append(line);
    }
  }

  key_(name, style, numbers, count) {
    const button = element("button", "key"), shown = numbers.some((n) => !this.hidden.has(n));
    button.type = "button";
    button.setAttribute("aria-pressed", String(shown));
    if (style !== null || this.colouring === "data") button.append(this.mark(style ?? numbers[0]));
    const text = element("span", "", name);
    if (style === null) text.style.fontWeight = "600";
    button.append(text, element("span", "", `(${count.toLocaleString("en")})`));
    button.addEventListener("click", () => {
      numbers.forEach((n) => (shown ? this.hidden.add(n) : this.hidden.delete(n)));
      this.refreshed(button);
    });
    for (const [event, act] of [["pointerenter", () => this.want(numbers)], ["focus", () => this.want(numbers)],
      ["pointerleave", () => this.want(null)], ["blur", () => this.want(null)]]) button.addEventListener(event, act);
    button.addEventListener("dblclick", () => {
      this.hidden = new Set(this.data.groups.map((_, n) => n).filter((n) => !numbers.includes(n)));
      this.refreshed(button);
    });
    return button;
  }

  refreshed(button) {
    this.wanted = null;
    const at = [...this.legends.querySelectorAll("button")].indexOf(button);
    this.legend();
    if (at >= 0) this.legends.querySelectorAll("button")[at].focus({ preventScroll: true });
    this.wanted = null;
    if (this.hovered !== null && this.hidden.has(this.group[this.hovered])) this.hover(null);
    this.draw();
  }

  mark(n) {
    const canvas = element("canvas"), [shape, colour] = this.look(n, 1);
    canvas.width = canvas.height = 28;
    const made = marker(shape, this.colouring === "kept" ? "#57606a" : colour, 8);
    canvas.getContext("2d").drawImage(made, 14 - made.width / 2, 14 - made.height / 2);
    return canvas;
  }

  rampKey() {
    const box = element("div", "ramp"), canvas = element("canvas");
    canvas.width = 140; canvas.height = 12;
    const pen = canvas.getContext("2d");
    for (let x = 0; x < 140; x++) { pen.fillStyle = ramp(x / 139); pen.fillRect(x, 0, 1, 12); }
    box.append("share of a patch's nearest neighbours that the map kept: 0 %", canvas, "100 %");
    return box;
  }

  look(group, share) {
    const ood = this.data.groups[group].ood;
    if (this.colouring === "data") return ood ? ["x", OOD_COLOUR] : ["disc", ID_COLOUR];
    const { shape, colour } = this.styles[group];
    return [shape, this.colouring === "kept" ? ramp(share) : colour];
  }

  resized() {
    const ratio = window.devicePixelRatio || 1;
    for (const panel of this.panels) {
      const { width, height } = panel.base.getBoundingClientRect();
      panel.width = width; panel.height = height;
      for (const canvas of [panel.base, panel.over]) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
      }
    }
    this.draw();
  }

  // Pixel within a panel of patch n in state `at`.
  place(n, at) {
    const { xy } = this.states[at], panel = this.panels[at], side = Math.min(panel.width, panel.height);
    const x = xy[2 * n] / 65535, y = 1 - xy[2 * n + 1] / 65535;
    const scale = side * 0.94 * this.view.scale;
    return [panel.width / 2 + (x - this.view.x) * scale, panel.height / 2 + (y - this.view.y) * scale];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.panels.forEach((_, at) => this.drawPanel(at));
      this.drawOver();
    });
  }

  drawPanel(at) {
    const panel = this.panels[at], pen = panel.base.getContext("2d"), ratio = window.devicePixelRatio || 1;
    const radius = Math.min(5.5, Math.max(1.7, 130 / Math.sqrt(this.count))) * Math.min(2, Math.sqrt(this.view.scale));
    const made = new Map();
    pen.clearRect(0, 0, panel.width, panel.height);
    const { kept, neighbours } = this.states[at];
    for (const n of this.order) {
      const group = this.group[n];
      if (this.hidden.has(group)) continue;
      const share = kept[n] / neighbours;
      const key = this.colouring === "kept" ? group * 32 + Math.round(share * 20) : group;
      if (!made.has(key)) made.set(key, this.stamp(group, share, radius * ratio));
      pen.globalAlpha = this.wanted && !this.wanted.includes(group) ? 0.07 : 0.85;
      const [x, y] = this.place(n, at), stamp = made.get(key), side = stamp.width / ratio;
      if (x > -side && y > -side && x < panel.width + side && y < panel.height + side) {
        pen.drawImage(stamp, x - side / 2, y - side / 2, side, side);
      }
    }
    pen.globalAlpha = 1;
  }

  // Few crosses among many discs are drawn larger; a class that is pointed at in the legend larger still.
  stamp(group, share, radius) {
    const larger = (this.data.groups[group].ood ? 1.6 : 1) * (this.wanted?.includes(group) ? 1.35 : 1);
    return marker(...this.look(group, share), radius * larger);
  }

  want(numbers) {
    this.wanted = numbers?.some((n) => !this.hidden.has(n)) ? numbers : null;
    this.draw();
  }

  drawOver() {
    this.panels.forEach((panel, at) => {
      const pen = panel.over.getContext("2d");
      pen.clearRect(0, 0, panel.width, panel.height);
      const n = this.hovered;
      if (n === null) return;
      const [x, y] = this.place(n, at);
      if (this.lines) {
        for (let k = 0; k < this.listed; k++) {
          const [u, v] = this.place(this.states[at].near[n * this.listed + k], at);
          pen.strokeStyle = "rgba(255,255,255,.9)"; pen.lineWidth = 3.5;
          pen.beginPath(); pen.moveTo(x, y); pen.lineTo(u, v); pen.stroke();
          pen.strokeStyle = "#1b1f24"; pen.lineWidth = 1.2;
          pen.beginPath(); pen.moveTo(x, y); pen.lineTo(u, v); pen.stroke();
          pen.beginPath(); pen.arc(u, v, 5, 0, 7); pen.stroke();
        }
      }
      for (const [colour, width] of [["#fff", 5], [this.pinned === n ? "#f0a202" : "#000", 2.4]]) {
        pen.strokeStyle = colour; pen.lineWidth = width;
        pen.beginPath(); pen.arc(x, y, 9, 0, 7); pen.stroke();
      }
    });
  }

  nearest(x, y, at) {
    let best = null, least = REACH_PX * REACH_PX;
    for (let n = 0; n < this.count; n++) {
      if (this.hidden.has(this.group[n])) continue;
      const [u, v] = this.place(n, at), far = (u - x) ** 2 + (v - y) ** 2;
      if (far < least) { least = far; best = n; }
    }
    return best;
  }

  moved(event, at) {
    if (this.drag) {
      const side = Math.min(this.panels[at].width, this.panels[at].height) * 0.94 * this.view.scale;
      this.view.x = this.drag.view.x - (event.clientX - this.drag.x) / side;
      this.view.y = this.drag.view.y - (event.clientY - this.drag.y) / side;
      this.drag.far ||= Math.hypot(event.clientX - this.drag.x, event.clientY - this.drag.y) > 4;
      if (this.drag.far) { this.panels[at].over.classList.add("dragging"); this.draw(); }
      return;
    }
    if (this.pinned === null) this.hover(this.nearest(event.offsetX, event.offsetY, at), at);
  }

  pressed(event, at) {
    this.drag = { x: event.clientX, y: event.clientY, view: { ...this.view }, far: false };
    this.panels[at].over.setPointerCapture(event.pointerId);
  }

  released(event, at) {
    const { far } = this.drag ?? { far: true };
    this.drag = null;
    this.panels[at].over.classList.remove("dragging");
    if (far) return;
    const found = this.nearest(event.offsetX, event.offsetY, at);
    this.pinned = found === null || found === this.pinned ? null : found;
    this.hover(found, at);
  }

  wheeled(event, at) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * 0.002), event.offsetX, event.offsetY, at);
  }

  zoom(factor, x, y, at = 0) {
    const panel = this.panels[at], side = Math.min(panel.width, panel.height) * 0.94;
    const [dx, dy] = x === undefined ? [0, 0] : [x - panel.width / 2, y - panel.height / 2];
    const scale = Math.min(60, Math.max(0.5, this.view.scale * factor));
    this.view.x += dx / side * (1 / this.view.scale - 1 / scale);
    this.view.y += dy / side * (1 / this.view.scale - 1 / scale);
    this.view.scale = scale;
    this.draw();
  }

  reset() {
    this.view = { scale: 1, x: 0.5, y: 0.5 };
    this.draw();
  }

  key(event, at) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const acts = {
      "+": () => this.zoom(1.4), "=": () => this.zoom(1.4), "-": () => this.zoom(1 / 1.4), 0: () => this.reset(),
      Escape: () => { this.pinned = null; this.hover(null); },
      Enter: () => { this.pinned = this.pinned === this.hovered ? null : this.hovered; this.hover(this.hovered, at); },
    };
    if (ways[event.key]) this.step(ways[event.key], at);
    else if (acts[event.key]) acts[event.key]();
    else return;
    event.preventDefault();
  }

  // The nearest patch within 45 degrees of a direction, or the one nearest to the middle to begin with.
  step([dx, dy], at) {
    const panel = this.panels[at];
    const from = this.hovered === null ? [panel.width / 2, panel.height / 2] : this.place(this.hovered, at);
    let best = null, least = Infinity;
    for (let n = 0; n < this.count; n++) {
      if (n === this.hovered || this.hidden.has(this.group[n])) continue;
      const [u, v] = this.place(n, at), x = u - from[0], y = v - from[1];
      const along = x * dx + y * dy, across = Math.abs(x * dy - y * dx);
      const far = Math.hypot(x, y);
      if (this.hovered !== null && (along <= 0.5 || across > along)) continue;
      if (far < least) { least = far; best = n; }
    }
    if (best === null) return;
    this.pinned = null;
    this.hover(best, at);
  }

  hover(n, at = 0) {
    this.hovered = n;
    this.drawOver();
    this.card.classList.toggle("shown", n !== null);
    this.card.classList.toggle("pinned", n !== null && n === this.pinned);
    if (n === null) { this.said = null; return; }
    this.fill(n, at);
    this.put(n, at);
  }

  patchCard() {
    const card = element("div", "patch");
    this.big = element("canvas", "big");
    this.facts = element("dl");
    this.near = element("div", "near");
    card.setAttribute("role", "status");
    card.append(this.big, this.facts, this.near);
    return card;
  }

  fill(n, at) {
    if (this.said === `${n}/${at}`) return;
    this.said = `${n}/${at}`;
    const state = this.states[at], group = this.data.groups[this.group[n]];
    const label = this.data.labels[n] ?? group.class ?? "unknown";
    const verdict = { 1: " (right)", 0: " (wrong)", "-1": "" }[this.right[n]];
    const kept = `${state.kept[n]} of ${state.neighbours}`;
    const facts = [["class", label], ["data set", group.data + (group.ood ? " (OOD)" : "")], ["patch", this.data.ids[n]],
      ["model said", this.data.names[this.data.said[n]] + verdict], ["kept", `${kept} neighbours`]];
    this.facts.replaceChildren(...facts.flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]));
    this.near.replaceChildren(element("p", "", `nearest in the features, ${state.label}:`));
    this.paint(this.big, n);
    for (let k = 0; k < this.listed; k++) {
      const other = state.near[n * this.listed + k], canvas = element("canvas");
      const same = this.group[other] === this.group[n];
      canvas.style.borderColor = same ? "#1a7f37" : this.data.groups[this.group[other]].ood === group.ood ? "#d4a72c" : OOD_COLOUR;
      canvas.title = this.data.groups[this.group[other]].class ?? "";
      this.paint(canvas, other);
      this.near.append(canvas);
    }
    this.near.append(element("p", "", "border: green same class, yellow another class, red the other data set"));
    this.live.textContent = `${label}, ${group.data}, patch ${this.data.ids[n]}, ${kept} neighbours kept`;
  }

  paint(canvas, n) {
    const { cell_px: cell, columns, sheets: names } = this.data.thumbnails, on = columns * columns;
    canvas.width = canvas.height = cell;
    canvas.dataset.patch = n;
    sheet(names[Math.floor(n / on)]).then((image) => {
      if (canvas.dataset.patch !== String(n)) return;
      const at = n % on;
      canvas.getContext("2d").drawImage(image, at % columns * cell, Math.floor(at / columns) * cell, cell, cell, 0, 0, cell, cell);
      canvas.dataset.painted = n;
    });
  }

  put(n, at) {
    const frame = this.panels[at].over.getBoundingClientRect(), [x, y] = this.place(n, at);
    const { offsetWidth: width, offsetHeight: height } = this.card;
    const left = frame.left + x + 24 + width < window.innerWidth ? frame.left + x + 24 : frame.left + x - width - 24;
    const top = Math.min(Math.max(8, frame.top + y - height / 2), window.innerHeight - height - 8);
    this.card.style.left = `${Math.max(8, left)}px`;
    this.card.style.top = `${top}px`;
  }
}
