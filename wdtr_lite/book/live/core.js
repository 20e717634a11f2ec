// What the widgets share that compute in the reader's browser: pictures, a pad to draw on, controls.

var wdtr = window.wdtr || {};

wdtr.widgets = wdtr.widgets || {};

wdtr.SIDE = 28;

wdtr.bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

wdtr.image = (base64) => Float64Array.from(wdtr.bytes(base64), (value) => value / 255);

// An element in `parent`, with its properties; `text` may be left out.
wdtr.element = (parent, tag, properties = {}, text = "") => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(text);
  parent.append(made);
  return made;
};

// A canvas of side x side pixels with a name below it.
wdtr.picture = (parent, name, side = wdtr.SIDE) => {
  const figure = wdtr.element(parent, "figure");
  const canvas = wdtr.element(figure, "canvas", { width: side, height: side });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  wdtr.element(figure, "figcaption", {}, name);
  return canvas;
};

wdtr.paint = (canvas, color) => {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const picture = context.createImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) picture.data.set([...color(pixel), 255], 4 * pixel);
  context.putImageData(picture, 0, 0);
};

// Ink: white at 0, black at `most`.
wdtr.paintInk = (canvas, ink, most = 1) =>
  wdtr.paint(canvas, (k) => Array(3).fill(255 * (1 - Math.min(1, Math.max(0, ink[k] / most)))));

// Signs: white at 0, red at the largest value, blue at its negative.
wdtr.paintSigned = (canvas, values) => {
  const most = values.reduce((found, value) => Math.max(found, Math.abs(value)), 1e-300);
  wdtr.paint(canvas, (k) => {
    const share = values[k] / most;
    const end = share > 0 ? [178, 24, 43] : [33, 102, 172];
    return end.map((value) => 255 + Math.abs(share) * (value - 255));
  });
};

// A slider or, of texts, a menu; `changed` is called with its value.
wdtr.slider = (parent, name, { min, max, step, value, unit = "" }, changed) => {
  const label = wdtr.element(parent, "label", {}, name + " ");
  const input = wdtr.element(label, "input", { type: "range", min, max, step, value });
  const output = wdtr.element(label, "output");
  const show = () => {
    output.textContent = ` ${input.value}${unit}`;
    input.setAttribute("aria-valuetext", input.value + unit);
  };
  input.addEventListener("input", () => { show(); changed(); });
  show();
  return { get value() { return Number(input.value); }, set value(at) { input.value = at; show(); } };
};

wdtr.menu = (parent, name, options, changed) => {
  const label = wdtr.element(parent, "label", {}, name + " ");
  const select = wdtr.element(label, "select");
  options.forEach((option, k) => wdtr.element(select, "option", { value: k }, option));
  select.addEventListener("change", changed);
  return select;
};

wdtr.button = (parent, name, pressed) =>
  wdtr.element(parent, "button", { type: "button", onclick: pressed }, name);

// Call `work` once the browser has a moment, however often it is asked before.
wdtr.later = (work) => {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => { waiting = false; work(); }, 0);
  };
};

// Where on a canvas a pointer is, in its pixels.
wdtr.place = (canvas, event) => {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientY - box.top) / box.height) * canvas.height,
    ((event.clientX - box.left) / box.width) * canvas.width,
  ];
};

// A canvas that is dragged: `moved` is called with how far down and to the right, from `start()`.
wdtr.drag = (canvas, start, moved) => {
  let held = null;
  canvas.className = "wdtr-drag";
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const from = start();
    held = wdtr.place(canvas, event).map((at, axis) => at - from[axis]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held) moved(...wdtr.place(canvas, event).map((at, axis) => at - held[axis]));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
};

// A canvas on which mouse, finger or keys put ink into `ink`.
wdtr.pad = (parent, name, ink, changed) => {
  const canvas = wdtr.picture(parent, name);
  const side = wdtr.SIDE;
  let brush = null; // where the keys are; null while the pointer draws
  let last = null;
  canvas.tabIndex = 0;
  canvas.className = "wdtr-pad";
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `${name}. Arrow keys move the brush, space puts ink, Delete clears.`);
  const repaint = () => {
    wdtr.paintInk(canvas, ink);
    if (!brush) return;
    const context = canvas.getContext("2d");
    context.fillStyle = "#D55E00";
    context.fillRect(brush[1], brush[0], 1, 1);
  };
  const dab = ([row, column]) => {
    for (let r = 0; r < side; r++)
      for (let c = 0; c < side; c++) {
        const distance = Math.hypot(r + 0.5 - row, c + 0.5 - column);
        ink[r * side + c] = Math.max(ink[r * side + c], Math.min(1, 1.9 - distance));
      }
  };
  const stroke = (from, to) => {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let k = 0; k <= steps; k++)
      dab([0, 1].map((axis) => from[axis] + (k / steps) * (to[axis] - from[axis])));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    brush = null;
    last = wdtr.place(canvas, event);
    dab(last);
    repaint();
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const at = wdtr.place(canvas, event);
    stroke(last, at);
    last = at;
    repaint();
    changed();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves) && ![" ", "Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    brush = brush || [side / 2, side / 2];
    if (event.key in moves)
      brush = brush.map((at, axis) => Math.min(side - 1, Math.max(0, at + moves[event.key][axis])));
    else if (event.key === " ") dab(brush.map((at) => at + 0.5));
    else ink.fill(0);
    repaint();
    if (!(event.key in moves)) changed();
  });
  canvas.addEventListener("blur", () => { brush = null; repaint(); });
  return { canvas, repaint };
};

// A pad with a menu of images to start from and a button that clears it.
wdtr.drawing = (parent, name, images, names, first, changed) => {
  const box = wdtr.element(parent, "div", { className: "wdtr-drawing" });
  const ink = new Float64Array(wdtr.SIDE ** 2);
  const { repaint } = wdtr.pad(box, name, ink, changed);
  const put = (image) => { ink.set(image); repaint(); changed(); };
  const menu = wdtr.menu(box, "start from", names, () => put(images[menu.value]));
  wdtr.button(box, "clear", () => put(new Float64Array(ink.length)));
  menu.value = first;
  ink.set(images[first]);
  repaint();
  return ink;
};
