// Draw a digit and ask three classifiers: small_cnn's forward and backward pass, and L(x).

// Weights as in the page, 8 bits and a scale for each output, as numbers.
wdtr.network = ({ layers, mean, std }) => ({
  mean,
  std,
  layers: layers.map(({ shape, weights, scales, bias }) => {
    const whole = new Int8Array(wdtr.bytes(weights).buffer), inputs = whole.length / shape[0];
    return { shape, bias, weight: Float64Array.from(whole, (value, k) => value * scales[Math.floor(k / inputs)]) };
  }),
});

wdtr.softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
wdtr.sigmoid = (z) => 1 / (1 + Math.exp(-z));

// Each term w * in of a 3 x 3 convolution of stride 2 and padding 1, as (output, input, weight).
wdtr.terms = ([outputs, inputs], side, term) => {
  const half = side / 2;
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      for (let dr = 0; dr < 3; dr++)
        for (let dc = 0; dc < 3; dc++)
          for (let r = 0; r < half; r++) {
            const row = 2 * r + dr - 1;
            if (row < 0 || row >= side) continue;
            for (let c = 0; c < half; c++) {
              const column = 2 * c + dc - 1;
              if (column >= 0 && column < side)
                term((o * half + r) * half + c, (i * side + row) * side + column, ((o * inputs + i) * 3 + dr) * 3 + dc);
            }
          }
};
wdtr.convolve = ({ shape, weight, bias }, x, side) => {
  const out = new Float64Array((shape[0] * side * side) / 4).map((_, k) => bias[Math.floor((4 * k) / side ** 2)]);
  wdtr.terms(shape, side, (to, from, w) => { out[to] += weight[w] * x[from]; });
  return out;
};
wdtr.convolveBack = ({ shape, weight }, slope, side) => {
  const back = new Float64Array(shape[1] * side * side);
  wdtr.terms(shape, side, (to, from, w) => { back[from] += weight[w] * slope[to]; });
  return back;
};
wdtr.linear = ({ shape: [outputs, inputs], weight, bias }, x) =>
  Float64Array.from({ length: outputs }, (_, o) => {
    let sum = bias[o];
    for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
    return sum;
  });
wdtr.linearBack = ({ shape: [outputs, inputs], weight }, slope) =>
  Float64Array.from({ length: inputs }, (_, i) => {
    let sum = 0;
    for (let o = 0; o < outputs; o++) sum += weight[o * inputs + i] * slope[o];
    return sum;
  });

wdtr.forward = ({ layers: [first, second, third, last], mean, std }, x) => {
  const a = wdtr.convolve(first, x.map((value) => (value - mean) / std), 28);
  const b = wdtr.convolve(second, a.map(wdtr.softplus), 14);
  const c = wdtr.linear(third, b.map(wdtr.softplus));
  return { a, b, c, logits: wdtr.linear(last, c.map(wdtr.softplus)) };
};

wdtr.softmax = (logits) => {
  const top = Math.max(...logits), shares = logits.map((z) => Math.exp(z - top));
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map((share) => share / total);
};

// The gradient in the image of log sum_{j != label} exp(z_j) - z_label.
wdtr.gradient = (network, x, label) => {
  const [first, second, third, last] = network.layers;
  const { a, b, c, logits } = wdtr.forward(network, x);
  const slope = wdtr.softmax(logits.map((z, j) => (j === label ? -Infinity : z)));
  slope[label] = -1;
  const through = (back, z) => back.map((value, k) => value * wdtr.sigmoid(z[k]));
  const atC = through(wdtr.linearBack(last, slope), c);
  const atB = through(wdtr.linearBack(third, atC), b);
  const atA = through(wdtr.convolveBack(second, atB, 14), a);
  return wdtr.convolveBack(first, atA, 28).map((value) => value / network.std);
};

// L(x) v on the graph of pixels within `radius`, in both directions, of weight 1.
wdtr.laplacian = (x, v, radius) => {
  const side = wdtr.SIDE;
  const near = (k) => Math.min(side - 1, k + radius) - Math.max(0, k - radius) + 1;
  const degree = Float64Array.from(x, (_, k) => near(Math.floor(k / side)) * near(k % side) - 1);
  const total = degree.reduce((sum, d) => sum + d, 0);
  const u = x.map((value, k) => (value * total) / degree[k]);
  const out = new Float64Array(x.length);
  for (let r = 0; r < side; r++)
    for (let c = 0; c < side; c++)
      for (let s = Math.max(0, r - radius); s <= Math.min(side - 1, r + radius); s++)
        for (let d = Math.max(0, c - radius); d <= Math.min(side - 1, c + radius); d++) {
          const i = r * side + c, j = s * side + d;
          out[i] += (0.5 * (u[i] + u[j])) * (v[i] - v[j]);
        }
  return out;
};

// Turned about the middle by degrees, then moved, white coming in; bilinear.
wdtr.moved = (x, right, down, degrees) => {
  const side = wdtr.SIDE, middle = (side - 1) / 2, angle = (degrees * Math.PI) / 180;
  const cos = Math.cos(angle), sin = Math.sin(angle);
  const at = (r, c) => (r < 0 || c < 0 || r >= side || c >= side ? 0 : x[r * side + c]);
  return x.map((_, k) => {
    const dr = Math.floor(k / side) - middle - down, dc = (k % side) - middle - right;
    const row = middle + cos * dr - sin * dc, column = middle + sin * dr + cos * dc;
    const r = Math.floor(row), c = Math.floor(column), p = row - r, q = column - c;
    return (1 - p) * ((1 - q) * at(r, c) + q * at(r, c + 1)) + p * ((1 - q) * at(r + 1, c) + q * at(r + 1, c + 1));
  });
};

// Convolved with a Gaussian of standard deviation sigma pixels.
wdtr.blurred = (x, sigma) => {
  if (!sigma) return x;
  const side = wdtr.SIDE, reach = Math.ceil(4 * sigma);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, k) => Math.exp(-((k - reach) ** 2) / (2 * sigma ** 2)));
  const total = kernel.reduce((sum, value) => sum + value, 0);
  const along = (image, step, place) => image.map((_, k) => {
    let sum = 0;
    for (let d = -reach; d <= reach; d++)
      if (place(k) + d >= 0 && place(k) + d < side) sum += kernel[d + reach] * image[k + d * step];
    return sum / total;
  });
  return along(along(x, 1, (k) => k % side), side, (k) => Math.floor(k / side));
};

wdtr.attacked = (x, gradient, epsilon) =>
  x.map((value, k) => Math.min(1, Math.max(0, value + epsilon * Math.sign(gradient[k]))));

wdtr.widgets.classifiers = (box, { images, names, first, networks, radius }) => {
  const digits = images.map(wdtr.image);
  const changed = wdtr.later(() => ask());
  const row = wdtr.element(box, "div", { className: "wdtr-row" });
  const ink = wdtr.drawing(row, "draw here", digits, names, first, changed);
  const varied = wdtr.picture(row, "moved, turned, blurred: drag it");
  const sliders = wdtr.element(row, "div", { className: "wdtr-controls wdtr-column" });
  const slider = (name, range) => wdtr.slider(sliders, name, range, changed);
  const right = slider("to the right", { min: -8, max: 8, step: 0.5, value: 0, unit: " px" });
  const down = slider("down", { min: -8, max: 8, step: 0.5, value: 0, unit: " px" });
  const turn = slider("turn", { min: -90, max: 90, step: 1, value: 0, unit: "°" });
  const blur = slider("blur", { min: 0, max: 3, step: 0.1, value: 0, unit: " px" });
  const epsilon = slider("attack ε", { min: 0, max: 0.4, step: 0.01, value: 0 });
  const rows = wdtr.element(box, "div", { className: "wdtr-asked" });
  const panels = networks.map(({ name, color, ...weights }) => {
    const panel = wdtr.element(rows, "div", { className: "wdtr-network" });
    const said = wdtr.element(panel, "p", { className: "wdtr-said" });
    const bars = wdtr.element(panel, "div", { className: "wdtr-bars" });
    const columns = Array.from({ length: 10 }, (_, k) => {
      const column = wdtr.element(bars, "span");
      const bar = wdtr.element(column, "i");
      bar.style.background = color === "black" ? "currentColor" : color; // seen in dark mode too
      wdtr.element(column, "b", {}, String(k));
      return bar;
    });
    const pictures = wdtr.element(panel, "div", { className: "wdtr-row" });
    const shown = ["what it sees", "gradient g", "L(x) g"].map((title) => wdtr.picture(pictures, title));
    return { name, network: wdtr.network(weights), said, columns, shown };
  });

  const ask = () => {
    const x = wdtr.blurred(wdtr.moved(ink, right.value, down.value, turn.value), blur.value);
    wdtr.paintInk(varied, x);
    for (const { name, network, said, columns, shown } of panels) {
      const before = wdtr.forward(network, x).logits;
      const label = before.indexOf(Math.max(...before));
      const gradient = wdtr.gradient(network, x, label);
      const seen = epsilon.value ? wdtr.attacked(x, gradient, epsilon.value) : x;
      const shares = wdtr.softmax(wdtr.forward(network, seen).logits);
      const answer = shares.indexOf(Math.max(...shares));
      said.textContent = `${name}: ${answer} (${(100 * shares[answer]).toFixed(0)} %)`;
      shares.forEach((share, k) => { columns[k].style.height = `calc(${share} * (100% - 1.1rem))`; });
      wdtr.paintInk(shown[0], seen);
      wdtr.paintSigned(shown[1], gradient);
      wdtr.paintSigned(shown[2], wdtr.laplacian(x, gradient, radius));
    }
  };

  wdtr.drag(varied, () => [down.value, right.value], (row, column) => {
    down.value = row;
    right.value = column;
    changed();
  });
  ask();
};
