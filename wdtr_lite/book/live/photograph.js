// Move a photograph: the stored answers of networks at every shift.

// Pixels (3, side, side) moved, what comes in given by `border`.
wdtr.shifted = (pixels, side, right, down, border) => {
  const source = {
    zeros: (k) => (k < 0 || k >= side ? -1 : k),
    edge: (k) => Math.min(side - 1, Math.max(0, k)),
    reflect: (k) => side - 1 - Math.abs(side - 1 - Math.abs(k)),
  }[border];
  const out = new Uint8Array(pixels.length);
  for (let channel = 0; channel < 3; channel++)
    for (let r = 0; r < side; r++)
      for (let c = 0; c < side; c++) {
        const row = source(r - down), column = source(c - right);
        if (row >= 0 && column >= 0)
          out[(channel * side + r) * side + c] = pixels[(channel * side + row) * side + column];
      }
  return out;
};

wdtr.widgets.photograph = (box, { images, classes, networks, borders, reach, side }) => {
  const pixels = images.map((image) => wdtr.bytes(image.pixels)), places = 2 * reach + 1;
  const row = wdtr.element(box, "div", { className: "wdtr-row" });
  const photo = wdtr.picture(row, "drag it", side);
  const controls = wdtr.element(row, "div", { className: "wdtr-controls wdtr-column" });
  const named = images.map((image, k) => `${k + 1}: ${classes[image.label]}`);
  const image = wdtr.menu(controls, "photograph", named, () => show());
  const border = wdtr.menu(controls, "what comes in", borders.map((each) => each.title), () => show());
  const range = { min: -reach, max: reach, step: 1, value: 0, unit: " px" };
  const right = wdtr.slider(controls, "to the right", range, () => show());
  const down = wdtr.slider(controls, "down", range, () => show());
  const maps = wdtr.element(box, "div", { className: "wdtr-row" });
  const panels = networks.map((network) => {
    const map = wdtr.picture(maps, network.name, places * 4);
    map.className = "wdtr-drag";
    map.addEventListener("pointerdown", (event) => {
      const [r, c] = wdtr.place(map, event).map((at) => Math.floor(at / 4) - reach);
      down.value = r;
      right.value = c;
      show();
    });
    return { network, map, said: map.nextSibling };
  });

  const show = () => {
    const k = Number(image.value), { name } = borders[border.value], { label } = images[k];
    const moved = wdtr.shifted(pixels[k], side, right.value, down.value, name);
    wdtr.paint(photo, (at) => [0, 1, 2].map((channel) => moved[channel * side * side + at]));
    const here = (down.value + reach) * places + right.value + reach;
    for (const { network, map, said } of panels) {
      const answers = network.answers[name][k];
      wdtr.paint(map, (at) => {
        const r = Math.floor(at / map.width), c = at % map.width;
        const place = Math.floor(r / 4) * places + Math.floor(c / 4);
        const edge = place === here && (r % 4 === 0 || c % 4 === 0 || r % 4 === 3 || c % 4 === 3);
        if (edge) return [0, 0, 0];
        if (answers[place] === label) return [156, 203, 234];
        return (r + c) % 4 ? [242, 185, 138] : [180, 90, 20]; // hatched, for eyes that see no hue
      });
      const kept = answers.filter((answer) => answer === label).length;
      said.textContent = `${network.name}: ${classes[answers[here]]}. Right at ${kept} of ${answers.length} places.`;
      map.setAttribute("aria-label", said.textContent);
    }
  };

  wdtr.drag(photo, () => [down.value, right.value], (row, column) => {
    down.value = Math.round(row);
    right.value = Math.round(column);
    show();
  });
  show();
};
