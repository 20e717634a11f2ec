// Draw two digits: their L2 and W2 distances, and the ink on its way from one to the other.

// Entropic transport of measures a, b (side x side) for the squared distance, by Sinkhorn's
// iteration in the log domain: potentials f, g and the optimum <a, f> + <b, g>.
wdtr.sinkhorn = (a, b, epsilon, tolerance = 1e-6, most = 3000) => {
  const side = wdtr.SIDE, tiny = Number.MIN_VALUE * 2 ** 52, same = a === b;
  const logA = a.map((mass) => Math.log(mass + tiny)), logB = b.map((mass) => Math.log(mass + tiny));
  const line = new Float64Array(side);

  // For each row, log sum_c exp(v_c - (c - k)^2 / epsilon) for every k, into row k of the result:
  // twice is the sum over rows and columns.
  const contract = (v, kernel, rate) => {
    const out = new Float64Array(side * side);
    for (let r = 0; r < side; r++) {
      let top = -Infinity;
      for (let c = 0; c < side; c++) top = Math.max(top, v[r * side + c]);
      for (let c = 0; c < side; c++) line[c] = Math.exp(v[r * side + c] - top);
      for (let k = 0; k < side; k++) {
        let total = 0;
        for (let c = 0; c < side; c++) total += line[c] * kernel[Math.abs(c - k)];
        out[k * side + r] = total > 1e-290 ? Math.log(total) + top : exactly(v, r, k, rate);
      }
    }
    return out;
  };
  const exactly = (v, r, k, rate) => {
    let top = -Infinity, total = 0;
    const term = (c) => v[r * side + c] - rate * (c - k) ** 2;
    for (let c = 0; c < side; c++) top = Math.max(top, term(c));
    for (let c = 0; c < side; c++) total += Math.exp(term(c) - top);
    return Math.log(total) + top;
  };
  const solver = (epsilon) => {
    const kernel = Float64Array.from({ length: side }, (_, k) => Math.exp((-k * k) / epsilon));
    const half = (potential, logMass) => {
      const v = logMass.map((value, k) => value + potential[k] / epsilon);
      return contract(contract(v, kernel, 1 / epsilon), kernel, 1 / epsilon).map((sum) => -epsilon * sum);
    };
    const sweep = (g) => {
      const f = half(g, logB);
      return same ? g.map((value, k) => (value + f[k]) / 2) : half(f, logA);
    };
    return { half, sweep };
  };

  let g = new Float64Array(side * side);
  for (let coarse = 2 * (side - 1) ** 2; coarse > epsilon; coarse /= 2) g = solver(coarse).sweep(g);
  const { half, sweep } = solver(epsilon);
  for (let k = 0; k < most; k++) {
    const last = g;
    g = sweep(g);
    const rate = (same ? 2 : 1) / epsilon;
    const error = b.reduce((sum, mass, j) => sum + mass * Math.abs(Math.expm1(rate * (last[j] - g[j]))), 0);
    if (error <= tolerance) break;
  }
  const f = half(g, logB);
  const optimum = a.reduce((sum, mass, k) => sum + mass * f[k] + b[k] * g[k], 0);
  return { f, g, optimum };
};

wdtr.measure = (ink) => {
  const total = ink.reduce((sum, value) => sum + value, 0);
  return ink.map((value) => value / total);
};

wdtr.l2 = (a, b) => Math.sqrt(a.reduce((sum, value, k) => sum + (value - b[k]) ** 2, 0));

// The Sinkhorn divergence's root, and the plan as [from, to, mass].
wdtr.transport = (a, b, epsilon) => {
  const { f, g, optimum } = wdtr.sinkhorn(a, b, epsilon);
  const own = (wdtr.sinkhorn(a, a, epsilon).optimum + wdtr.sinkhorn(b, b, epsilon).optimum) / 2;
  const side = wdtr.SIDE, plan = [];
  a.forEach((here, i) => here && b.forEach((there, j) => {
    if (!there) return;
    const cost = (Math.floor(i / side) - Math.floor(j / side)) ** 2 + ((i % side) - (j % side)) ** 2;
    const mass = here * there * Math.exp((f[i] + g[j] - cost) / epsilon);
    if (mass > 1e-9) plan.push([i, j, mass]);
  }));
  return { distance: Math.sqrt(Math.max(0, optimum - own)), plan };
};

// The measure after a share t of the way: the ink of each pair of the plan, put between pixels.
wdtr.between = (plan, t) => {
  const side = wdtr.SIDE, out = new Float64Array(side * side);
  for (const [i, j, mass] of plan) {
    const row = (1 - t) * Math.floor(i / side) + t * Math.floor(j / side);
    const column = (1 - t) * (i % side) + t * (j % side);
    const r = Math.min(side - 2, Math.floor(row)), c = Math.min(side - 2, Math.floor(column));
    const down = row - r, right = column - c;
    out[r * side + c] += mass * (1 - down) * (1 - right);
    out[r * side + c + 1] += mass * (1 - down) * right;
    out[(r + 1) * side + c] += mass * down * (1 - right);
    out[(r + 1) * side + c + 1] += mass * down * right;
  }
  return out;
};

wdtr.widgets.transport = (box, { images, names, first, epsilon }) => {
  const digits = images.map(wdtr.image);
  const row = wdtr.element(box, "div", { className: "wdtr-row wdtr-four" });
  const changed = wdtr.later(() => { compute(); });
  const from = wdtr.drawing(row, "from", digits, names, first[0], changed);
  const to = wdtr.drawing(row, "to", digits, names, first[1], changed);
  const moving = wdtr.picture(row, "the ink moved (W2)"), fading = wdtr.picture(row, "faded (L2)");
  const controls = wdtr.element(box, "div", { className: "wdtr-controls" });
  const t = wdtr.slider(controls, "share of the way", { min: 0, max: 1, step: 0.02, value: 0.5 }, () => draw());
  wdtr.button(controls, "play", () => play());
  const said = wdtr.element(box, "p", { className: "wdtr-said" });
  said.setAttribute("aria-live", "polite");
  let found = null;

  const draw = () => {
    if (!found) return;
    const { a, b, plan } = found, most = Math.max(...a, ...b);
    wdtr.paintInk(moving, wdtr.between(plan, t.value), most);
    wdtr.paintInk(fading, a.map((mass, k) => (1 - t.value) * mass + t.value * b[k]), most);
  };
  const compute = () => {
    found = null;
    if (![from, to].every((ink) => ink.some((value) => value > 0))) {
      said.textContent = "Both need ink.";
      return;
    }
    const a = wdtr.measure(from), b = wdtr.measure(to);
    const { distance, plan } = wdtr.transport(a, b, epsilon);
    found = { a, b, plan };
    said.textContent = `L2 ${wdtr.l2(a, b).toFixed(3)}. W2 ${distance.toFixed(2)} pixels.`;
    draw();
  };
  const play = (step = 0) => {
    t.value = step / 50;
    draw();
    if (step < 50) requestAnimationFrame(() => play(step + 1));
  };
  compute();
};
