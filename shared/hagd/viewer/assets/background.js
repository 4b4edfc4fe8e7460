/* Where the circuit comes from: the hierarchy that it was searched in, and how to run it again. */

function hierarchyPanels(run) {
  const tree = run.hierarchy;
  if (!tree) return [el("p", { class: "hint" }, "This run has no hierarchy.")];
  const largest = Math.max(1, ...tree.levels.map((level) => level.n_groups));
  const numeric = (text) => ({ text, numeric: true });
  const rows = tree.levels.map((level, i) => {
    const bar = el("span", { class: "level-bar" });
    bar.style.width = `${(100 * Math.log1p(level.n_groups)) / Math.log1p(largest)}%`;
    return [
      i,
      el("span", { class: "level-track" }, bar),
      whole(level.n_groups),
      whole(level.largest),
      fixed(level.normalised_cut),
      fixed(level.intra_weight),
      fixed(level.cyclic_weight),
      level.residual?.toExponential(1) ?? "–",
    ];
  });
  const levels = panel(
    "Execution tree",
    el(
      "p",
      { class: "hint" },
      `Groups of at most ${tree.branching} inside one block of kind, layer and role, so every level is acyclic. `,
      "Bars are on a log scale.",
    ),
    el(
      "div",
      { class: "scroll" },
      table(
        [
          numeric("Level"),
          "",
          numeric("Groups"),
          numeric("Largest"),
          numeric("Cut"),
          numeric("Weight inside"),
          numeric("Weight in cycles"),
          numeric("Residual"),
        ],
        rows,
      ),
    ),
  );
  levels.classList.add("wide");
  const kinds = Object.entries(run.verification.circuit?.by_kind ?? {});
  const parts = [levels];
  if (kinds.length) {
    parts.push(
      panel(
        "Frontier of the circuit",
        table(
          ["Kind", numeric("Nodes")],
          kinds.map(([kind, count]) => [KIND_PLURALS[kind] ?? kind, whole(count)]),
        ),
      ),
    );
  }
  const module = tree.module_report;
  if (module) {
    parts.push(
      panel(
        "Module view",
        el("p", { class: "hint" }, "Unconstrained clusters, as labels for readers; choose Colour: module above."),
        el(
          "dl",
          { class: "facts" },
          [
            ["Modules", whole(module.n_groups)],
            ["Largest", whole(module.largest)],
            ["Weight inside", fixed(module.intra_weight)],
            ["Weight in cycles", fixed(module.cyclic_weight)],
          ].map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))),
        ),
      ),
    );
  }
  return parts;
}

function flatten(value, prefix = "") {
  if (value === null || typeof value !== "object") return [[prefix, value]];
  return Object.entries(value).flatMap(([name, inner]) => flatten(inner, prefix ? `${prefix} · ${name}` : name));
}

function provenanceBody(run) {
  const v = run.verification;
  const facts = flatten({ ...(v.model ? { model: v.model } : {}), seed: v.headline?.seed, ...run.provenance }).filter(
    ([name, value]) => name !== "command" && value !== null && value !== undefined,
  );
  const command = run.provenance.command ?? v.command;
  const copy = el(
    "button",
    {
      type: "button",
      class: "quiet",
      click: () => {
        navigator.clipboard?.writeText(command).then(
          () => {
            copy.textContent = "Copied";
          },
          () => {
            copy.textContent = "Select and copy";
          },
        );
      },
    },
    "Copy",
  );
  return [
    command ? el("div", { class: "command" }, el("pre", {}, el("code", {}, command)), copy) : null,
    el(
      "dl",
      { class: "provenance" },
      facts.map(([name, value]) =>
        el("div", {}, el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, el("bdi", {}, String(value)))),
      ),
    ),
  ].filter(Boolean);
}
