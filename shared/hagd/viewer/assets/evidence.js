/* The evidence as figures and tables: what the circuit does in the real model, and against which controls. */

const SETTING_NAMES = { counterfactual: "counterfactual", unpaired: "unpaired resample", mean: "mean", zero: "zero" };

function figures(run) {
  const v = run.verification;
  const matched = v.random_control?.matched;
  const n = v.circuit?.nodes ?? run.size;
  const leaves = v.circuit?.leaves;
  const entries = [
    ["Behavioural preservation", fixed(v.headline?.behavioural_preservation), interval(v.headline?.ci95)],
    ["Chance", fixed(v.headline?.chance), "empty circuit, same donors"],
    [
      "Matched random",
      fixed(matched?.mean),
      isNumber(matched?.p) ? `p ${probability(matched.p).replace(/^(?!<)/, "= ")}` : "",
    ],
    ["Faithfulness", fixed(v.headline?.faithfulness, 2), `KL ${fixed(v.headline?.kl_nats)} nats`],
    [
      "Nodes",
      whole(n),
      isNumber(leaves) ? `${whole(leaves)} leaves, ${whole(v.circuit.description_length_bits)} bits` : "",
    ],
    ["Held-out prompts", whole(v.headline?.n), `${whole(run.evaluations)} evaluations spent`],
  ];
  return entries.map(([name, value, note]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "hint" }, note)),
  );
}

function forestRows(v) {
  const random = (name, control) => ({ name, value: control?.mean, ci: [control?.mean, control?.q95], kind: "random" });
  return [
    { name: "Circuit", value: v.headline?.behavioural_preservation, ci: v.headline?.ci95, kind: "preservation" },
    { name: "Its edges only", value: v.edges_only?.behavioural_preservation, kind: "preservation hollow" },
    { name: "Random edges", value: v.edges_only?.random_mean, kind: "random" },
    random("Matched random", v.random_control?.matched),
    random("Uniform random", v.random_control?.uniform),
  ].filter((row) => isNumber(row.value));
}

function measures(v) {
  const describe = (entry, digits = 3) => {
    const { value, ci } = estimate(entry);
    return value === null ? NOT_MEASURED : `${signed(value, digits).replace("+", "")} ${interval(ci, digits)}`;
  };
  const rows = [
    [
      "Faithfulness",
      describe(v.headline?.faithfulness),
      "metric recovered between the empty circuit (0) and the model (1)",
    ],
    [
      "KL divergence",
      isNumber(v.headline?.kl_nats) ? `${fixed(v.headline.kl_nats, 4)} nats` : NOT_MEASURED,
      "model against circuit, answer positions",
    ],
    [
      "Feature-mediated share",
      describe(v.feature_mediated_share),
      "part of faithfulness lost when the circuit's features are corrupted",
    ],
    ["Error credit", describe(v.error_credit), "faithfulness gained when dictionary errors are kept live"],
    [
      "Necessity excess",
      describe(v.necessity_excess),
      "damage of removing the circuit, beyond removing random circuits",
    ],
    [
      "Equivalence (TOST)",
      isNumber(v.tost_p) ? `p ${probability(v.tost_p)}` : NOT_MEASURED,
      "faithfulness within 0.1 of the model's",
    ],
  ];
  const known = new Set([
    "verdict",
    "scope",
    "model",
    "circuit",
    "headline",
    "edges_only",
    "curve",
    "negative_controls",
    "random_control",
    "settings",
    "feature_mediated_share",
    "error_credit",
    "necessity_excess",
    "tost_p",
    "command",
  ]);
  for (const [name, value] of Object.entries(v)) {
    if (!known.has(name) && estimate(value).value !== null) rows.push([name.replaceAll("_", " "), describe(value), ""]);
  }
  return el(
    "dl",
    { class: "measures" },
    rows.map(([name, value, note]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value), el("dd", { class: "hint" }, note)),
    ),
  );
}

function settingsTable(settings) {
  const lowest = Math.min(...settings.map((s) => s.behavioural_preservation).filter(isNumber));
  const bar = (value) => {
    const filled = el("span", { class: "cell-bar" });
    filled.style.width = `${Math.max(0, Math.min(1, value ?? 0)) * 56}px`;
    return el("span", { class: value === lowest ? "with-bar lowest" : "with-bar" }, filled, fixed(value));
  };
  const numeric = (text) => ({ text, numeric: true });
  return table(
    ["Ablation", "Errors", "Attention", numeric("Preservation"), numeric("Faithfulness"), numeric("KL (nats)")],
    settings.map((s) => [
      SETTING_NAMES[s.ablation] ?? s.ablation,
      s.errors,
      s.attention,
      bar(s.behavioural_preservation),
      fixed(s.faithfulness, 2),
      fixed(s.kl_nats),
    ]),
    { caption: "Every setting, the smallest preservation in bold." },
  );
}

function evidencePanels(run) {
  const v = run.verification;
  const rows = forestRows(v);
  const parts = [
    panel(
      "Preservation beside its controls",
      rows.length ? forestPlot(rows, v.headline?.chance) : el("p", { class: "hint" }, "Not measured yet."),
      el(
        "p",
        { class: "hint" },
        "Whiskers: 95% interval of the circuit; mean to 95% quantile of random circuits. Dashed: chance.",
      ),
    ),
  ];
  parts.push(panel("Measures", measures(v)));
  if (v.settings?.length) {
    const settings = panel("Settings", el("div", { class: "scroll" }, settingsTable(v.settings)));
    settings.classList.add("wide");
    parts.push(settings);
  }
  return parts;
}

function randomPanel(title, note, control, value) {
  if (!control) return null;
  return panel(
    title,
    el("p", { class: "hint" }, note),
    randomPlot(control, value),
    el(
      "dl",
      { class: "facts" },
      [
        ["Mean", fixed(control.mean)],
        ["95% quantile", fixed(control.q95)],
        ["p", probability(control.p)],
        ...(isNumber(control.draws) ? [["Draws", whole(control.draws)]] : []),
      ].map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))),
    ),
  );
}

function controlPanels(run) {
  const v = run.verification;
  const value = v.headline?.behavioural_preservation;
  const parts = [
    randomPanel(
      "Matched random circuits",
      "Same tokens and heads, same count per kind, layer and role. This null decides.",
      v.random_control?.matched,
      value,
    ),
    randomPanel(
      "Uniform random circuits",
      "Same number of nodes, drawn from everything.",
      v.random_control?.uniform,
      value,
    ),
  ];
  if (v.negative_controls?.length) {
    const rows = v.negative_controls.map((c) => {
      const agrees = c.verdict === c.expected;
      return [
        c.name,
        c.expected,
        c.verdict,
        el("span", { class: agrees ? "tick-yes" : "tick-no" }, agrees ? "✓ as expected" : "✗ differs"),
      ];
    });
    parts.push(
      panel(
        "Negative controls",
        el("p", { class: "hint" }, "The same procedure where the right answer is known."),
        table(["Control", "Expected", "Verdict", "Outcome"], rows),
      ),
    );
  }
  const present = parts.filter(Boolean);
  return present.length ? present : [el("p", { class: "hint" }, "No controls have been run yet.")];
}
