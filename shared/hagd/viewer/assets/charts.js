/* Small figures: the curve of the nested family, the forest plot of the evidence, a histogram of random circuits. */

const CURVE = { width: 340, height: 170, left: 34, right: 12, top: 10, bottom: 24 };

function ticks(maximum) {
  const rough = Math.max(1, maximum / 4);
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-9)));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  return Array.from({ length: Math.floor(maximum / step) + 1 }, (_, i) => i * step);
}

/** Preservation and faithfulness against size; `marker` is moved by the slider under it. */
class FamilyCurve {
  constructor(run, onPick) {
    this.run = run;
    // The evidence goes on to the whole universe; the figure shows the family that the slider walks through.
    this.points = (run.verification.curve ?? [])
      .filter((point) => point.nodes <= run.nodes.length)
      .sort((a, b) => a.nodes - b.nodes);
    this.marker = svg("line", { class: "marker", y1: CURVE.top, y2: CURVE.height - CURVE.bottom });
    this.dots = svg("g");
    this.root = svg("svg", {
      viewBox: `0 0 ${CURVE.width} ${CURVE.height}`,
      class: "chart",
      role: "img",
      "aria-label": "Behavioural preservation and faithfulness against circuit size",
    });
    this.root.append(...this.axes(), ...this.lines(), this.marker, this.dots);
    this.root.addEventListener("click", (event) => {
      const box = this.root.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * CURVE.width;
      onPick(Math.round(1 + ((x - CURVE.left) / this.span) * (run.nodes.length - 1)));
    });
  }

  get span() {
    return CURVE.width - CURVE.left - CURVE.right;
  }

  x(nodes) {
    return CURVE.left + ((nodes - 1) / Math.max(1, this.run.nodes.length - 1)) * this.span;
  }

  y(share) {
    const clipped = Math.min(1.1, Math.max(-0.1, share));
    return CURVE.top + ((1.1 - clipped) / 1.2) * (CURVE.height - CURVE.top - CURVE.bottom);
  }

  axes() {
    const marks = [];
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const y = this.y(share);
      marks.push(svg("line", { class: "gridline", x1: CURVE.left, x2: CURVE.width - CURVE.right, y1: y, y2: y }));
      marks.push(svg("text", { class: "tick", x: CURVE.left - 6, y: y + 3.5, "text-anchor": "end" }, fixed(share, 2)));
    }
    for (const nodes of ticks(this.run.nodes.length)) {
      const x = this.x(Math.max(1, nodes));
      marks.push(svg("text", { class: "tick", x, y: CURVE.height - 8, "text-anchor": "middle" }, Math.max(1, nodes)));
    }
    const chosen = this.x(this.run.size);
    marks.push(
      svg(
        "line",
        { class: "chosen", x1: chosen, x2: chosen, y1: CURVE.top, y2: CURVE.height - CURVE.bottom },
        svg("title", {}, `chosen on D_select: ${this.run.size} nodes`),
      ),
    );
    return marks;
  }

  lines() {
    const path = (name) =>
      this.points
        .filter((p) => isNumber(p[name]))
        .map((p, i) => `${i ? "L" : "M"}${this.x(p.nodes).toFixed(1)} ${this.y(p[name]).toFixed(1)}`)
        .join("");
    const chance = this.run.verification.headline?.chance;
    const lines = [
      svg("path", { class: "line faithfulness", d: path("faithfulness") }),
      svg("path", { class: "line preservation", d: path("behavioural_preservation") }),
    ];
    if (isNumber(chance)) {
      lines.unshift(
        svg(
          "line",
          { class: "chance", x1: CURVE.left, x2: CURVE.width - CURVE.right, y1: this.y(chance), y2: this.y(chance) },
          svg("title", {}, `chance ${fixed(chance)}`),
        ),
      );
    }
    return lines;
  }

  /** Read a curve at k by straight lines between measured sizes. */
  at(k, name) {
    const points = this.points.filter((p) => isNumber(p[name]));
    const after = points.findIndex((p) => p.nodes >= k);
    if (!points.length || after < 0) return null;
    const b = points[after];
    if (b.nodes === k || after === 0) return b.nodes === k ? { value: b[name], measured: true } : null;
    const a = points[after - 1];
    const t = (k - a.nodes) / (b.nodes - a.nodes);
    return { value: a[name] + t * (b[name] - a[name]), measured: false };
  }

  update(k) {
    const x = this.x(k);
    this.marker.setAttribute("x1", x);
    this.marker.setAttribute("x2", x);
    const reading = { bp: this.at(k, "behavioural_preservation"), f: this.at(k, "faithfulness") };
    const dot = (entry, kind) =>
      entry ? [svg("circle", { class: `dot ${kind}`, cx: x, cy: this.y(entry.value), r: 4 })] : [];
    this.dots.replaceChildren(...dot(reading.f, "faithfulness"), ...dot(reading.bp, "preservation"));
    return reading;
  }
}

/** Rows of {name, value, ci | to, kind, text} on a common axis from 0 to 1. */
function forestPlot(rows, chance) {
  const [left, right, pitch, top, width] = [150, 560, 27, 8, 640];
  const height = top + rows.length * pitch + 26;
  const x = (share) => left + Math.min(1.05, Math.max(-0.05, share)) * (right - left);
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "chart",
    role: "img",
    "aria-label": "Behavioural preservation of the circuit and of its controls",
  });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    root.append(
      svg("line", { class: "gridline", x1: x(share), x2: x(share), y1: top, y2: height - 24 }),
      svg("text", { class: "tick", x: x(share), y: height - 8, "text-anchor": "middle" }, fixed(share, 2)),
    );
  }
  if (isNumber(chance)) {
    root.append(svg("line", { class: "chance", x1: x(chance), x2: x(chance), y1: top, y2: height - 24 }));
  }
  rows.forEach((row, i) => {
    const y = top + (i + 0.5) * pitch;
    root.append(svg("text", { class: "row-name", x: left - 14, y: y + 4, "text-anchor": "end" }, row.name));
    if (Array.isArray(row.ci) && row.ci.every(isNumber)) {
      root.append(svg("line", { class: `whisker ${row.kind}`, x1: x(row.ci[0]), x2: x(row.ci[1]), y1: y, y2: y }));
    }
    root.append(
      svg("circle", { class: `dot ${row.kind}`, cx: x(row.value), cy: y, r: 5 }),
      svg("text", { class: "row-value", x: right + 16, y: y + 4 }, fixed(row.value)),
    );
  });
  return root;
}

/** Random circuits on the 0..1 axis: bars when draws are given, else mean and 95% quantile; the circuit as a line. */
function randomPlot(control, value) {
  const [width, height, base, left, right] = [460, 84, 58, 10, 450];
  const x = (share) => left + Math.min(1, Math.max(0, share)) * (right - left);
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "chart",
    role: "img",
    "aria-label": "Random circuits of the same size against the circuit",
  });
  root.append(svg("line", { class: "axis", x1: left, x2: right, y1: base, y2: base }));
  for (const share of [0, 0.5, 1]) {
    root.append(svg("text", { class: "tick", x: x(share), y: base + 16, "text-anchor": "middle" }, fixed(share, 1)));
  }
  const draws = (control.samples ?? []).filter(isNumber);
  if (draws.length) {
    const bins = new Array(44).fill(0);
    for (const draw of draws) bins[Math.min(43, Math.max(0, Math.floor(draw * 44)))] += 1;
    const tallest = Math.max(...bins);
    bins.forEach((count, i) => {
      const h = (count / tallest) * 44;
      if (count)
        root.append(
          svg("rect", { class: "bar", x: x(i / 44) + 0.5, y: base - h, width: (right - left) / 44 - 1, height: h }),
        );
    });
  } else if (isNumber(control.mean) && isNumber(control.q95)) {
    root.append(
      svg("rect", {
        class: "bar",
        x: x(control.mean),
        y: base - 12,
        height: 8,
        width: Math.max(1, x(control.q95) - x(control.mean)),
      }),
      svg("circle", { class: "dot random", cx: x(control.mean), cy: base - 8, r: 5 }),
    );
  }
  if (isNumber(control.q95))
    root.append(svg("line", { class: "quantile", x1: x(control.q95), x2: x(control.q95), y1: 10, y2: base }));
  if (isNumber(value)) {
    root.append(
      svg("line", { class: "circuit-value", x1: x(value), x2: x(value), y1: 10, y2: base }),
      svg("text", { class: "row-name strong", x: x(value) - 6, y: 17, "text-anchor": "end" }, "circuit"),
    );
  }
  return root;
}
