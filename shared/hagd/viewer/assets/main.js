/* One state, and the wiring between it, the page's controls and the views. Runs once, at the end of the page. */

const MODULE_COLOURS = 12;

function indexRun(run) {
  const owners = new Map();
  const nodes = new Map();
  run.nodes.forEach((node, rank) => Object.assign(node, { rank }));
  run.logits.forEach((node) => Object.assign(node, { rank: null, leaves: [], n_leaves: 1, module: null }));
  for (const node of run.nodes.concat(run.logits)) {
    nodes.set(node.id, node);
    owners.set(node.id, node.id);
    for (const leaf of node.leaves) if (!owners.has(leaf)) owners.set(leaf, node.id);
  }
  return { nodes, owners };
}

class Report {
  constructor(run) {
    this.run = run;
    Object.assign(this, indexRun(run));
    this.state = {
      k: run.size,
      edges: this.openingEdges(),
      hidden: new Set(),
      expanded: new Set(),
      selected: null,
      colour: "kind",
      matches: null,
    };
    this.inspector = new Inspector(run, this.actions());
    this.diagram = new Diagram(run, this.state, this.actions());
    this.curve = new FamilyCurve(run, (k) => this.resize(k));
  }

  /** Few enough edges to read at first sight; the slider shows the rest. */
  openingEdges() {
    const claimed = Math.min(this.run.n_edges, this.run.edges.length);
    return Math.min(claimed, Math.max(150, Math.round(this.run.size * 0.9)));
  }

  actions() {
    return {
      select: (id, reveal) => this.select(id, reveal),
      toggle: (id) => this.toggle(id),
      find: (id) => this.nodes.get(id) ?? null,
      owner: (id) => (id === null ? null : (this.owners.get(id) ?? null)),
      endpoint: (index) => this.run.nodes[index] ?? this.run.logits[index - this.run.nodes.length],
      indexOf: (node) => (node.rank === null ? this.run.nodes.length + this.run.logits.indexOf(node) : node.rank),
      colourOf: (node) => this.colourOf(node),
      tooltip: (node, element, pointer) => this.tooltip(node, element, pointer),
      hideTooltip: () => {
        byId("tooltip").hidden = true;
      },
    };
  }

  start() {
    const run = this.run;
    byId("title").textContent = run.title;
    byId("verdict").textContent = run.summary.badge;
    byId("verdict").classList.add(run.summary.tone);
    byId("sentence").textContent = run.summary.sentence;
    byId("figures").append(...figures(run));
    byId("curve").append(this.curve.root);
    byId("evidence-body").append(...evidencePanels(run));
    byId("controls-body").append(...controlPanels(run));
    byId("hierarchy-body").append(...hierarchyPanels(run));
    byId("provenance-body").append(...provenanceBody(run));
    this.legend();
    this.wire();
    this.inspector.show(null);
    this.stageHeight();
    this.resize(run.size);
    this.diagram.relayout(true);
    new ResizeObserver(() => this.diagram.relayout(true)).observe(byId("graph"));
  }

  /** Deep models get a taller panel, up to what a screen can show. */
  stageHeight() {
    const rows = new Set(this.run.nodes.map(rowOf)).size;
    byId("graph").style.setProperty("--rows", rows);
  }

  wire() {
    const { run, state } = this;
    const size = byId("size");
    size.max = run.nodes.length;
    size.addEventListener("input", () => this.resize(Number(size.value)));
    const edges = byId("edges");
    edges.max = run.edges.length;
    edges.value = state.edges;
    edges.addEventListener("input", () => this.showEdges(Number(edges.value)));
    this.showEdges(state.edges);
    const colour = byId("colour");
    const modes = run.nodes.some((n) => n.module !== null)
      ? ["kind", "score", "layer", "module"]
      : ["kind", "score", "layer"];
    colour.append(...modes.map((mode) => el("option", { value: mode }, mode)));
    colour.addEventListener("change", () => {
      state.colour = colour.value;
      this.diagram.draw();
    });
    byId("search").addEventListener("input", () => this.search());
    byId("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.nextMatch();
    });
    byId("zoom-in").addEventListener("click", () => this.diagram.camera.zoom(1.4));
    byId("zoom-out").addEventListener("click", () => this.diagram.camera.zoom(1 / 1.4));
    byId("zoom-fit").addEventListener("click", () => this.diagram.camera.fit(this.diagram.layout));
    byId("enlarge").addEventListener("click", () => this.enlarge());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.body.classList.contains("enlarged")) this.enlarge();
    });
    byId("node-list").addEventListener("toggle", () => {
      const holder = byId("node-table");
      if (!holder.childElementCount) holder.append(nodeTable(run, (id) => this.select(id, true)));
    });
    this.theme();
  }

  theme() {
    const button = byId("theme");
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
    const name = () => {
      button.textContent = dark() ? "Light" : "Dark";
    };
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = dark() ? "light" : "dark";
      name();
    });
    system.addEventListener("change", name);
    name();
  }

  enlarge() {
    const large = document.body.classList.toggle("enlarged");
    byId("enlarge").setAttribute("aria-pressed", String(large));
    byId("enlarge").textContent = large ? "Close" : "Enlarge";
    this.diagram.camera.alwaysWheel = large;
    byId("graph").classList.toggle("grabs-touch", large);
  }

  legend() {
    const kinds = KIND_ORDER.filter((kind) => kind !== "logit" && this.run.nodes.some((n) => n.kind === kind));
    byId("legend").replaceChildren(...kinds.map((kind) => this.kindChip(kind)), ...this.signs());
  }

  kindChip(kind) {
    const icon = svg(
      "svg",
      { viewBox: "-15 -13 30 26", class: `icon kind-${kind}`, "aria-hidden": "true" },
      glyph(kind),
    );
    const count = el("span", { class: "hint", "data-kind": kind });
    const chip = el(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-pressed": "true",
        "data-kind": kind,
        click: () => {
          const hide = !this.state.hidden.has(kind);
          if (hide) this.state.hidden.add(kind);
          else this.state.hidden.delete(kind);
          chip.setAttribute("aria-pressed", String(!hide));
          this.diagram.relayout(true);
        },
      },
      icon,
      KIND_PLURALS[kind],
      count,
    );
    return chip;
  }

  signs() {
    const sample = (sign, text) =>
      el(
        "span",
        { class: "sign" },
        svg(
          "svg",
          { viewBox: "0 0 22 10", class: "icon-line", "aria-hidden": "true" },
          svg("path", { class: `edge ${sign}`, d: "M1 5H21", "stroke-width": 3 }),
        ),
        text,
      );
    return [sample("positive", "positive"), sample("negative", "negative")];
  }

  resize(k) {
    const run = this.run;
    const before = Math.max(this.state.k, run.size);
    this.state.k = Math.max(1, Math.min(run.nodes.length, k));
    byId("size").value = this.state.k;
    byId("size-shown").textContent = `${this.state.k} of ${run.nodes.length} nodes`;
    byId("size").setAttribute("aria-valuetext", `${this.state.k} nodes`);
    const { bp, f } = this.curve.update(this.state.k);
    const about = bp && !bp.measured ? "≈ " : "";
    byId("size-reading").replaceChildren(
      el("span", { class: "key preservation" }, `preservation ${bp ? about + fixed(bp.value) : "–"}`),
      el("span", { class: "key faithfulness" }, `faithfulness ${f ? about + fixed(f.value, 2) : "–"}`),
      this.state.k === run.size
        ? el("span", { class: "hint" }, "chosen size")
        : el("button", { type: "button", class: "link", click: () => this.resize(run.size) }, `chosen: ${run.size}`),
    );
    this.counts();
    if (!this.diagram.layout) return;
    if (Math.max(this.state.k, run.size) !== before) this.diagram.relayout(true);
    else this.diagram.draw();
  }

  counts() {
    for (const holder of byId("legend").querySelectorAll(".hint")) {
      const kind = holder.dataset.kind;
      holder.textContent = ` ${this.run.nodes.slice(0, this.state.k).filter((n) => n.kind === kind).length}`;
    }
    byId("diagram-note").textContent = this.note();
  }

  note() {
    const { run, state } = this;
    const left = run.edges_left_out ? ` ${whole(run.edges_left_out)} weaker edges are not in this file.` : "";
    const beyond =
      state.k < run.size
        ? ` Pale nodes join at larger sizes.`
        : state.k > run.size
          ? ` Edges are known among the first ${run.size} nodes.`
          : "";
    return (
      "Information flows upwards. Drag to move, Ctrl + scroll or + and − to zoom, arrow keys to walk." + beyond + left
    );
  }

  showEdges(count) {
    this.state.edges = count;
    const claimed = Math.min(this.run.n_edges, this.run.edges.length);
    byId("edges-shown").textContent =
      count <= claimed
        ? `${whole(count)} of ${whole(claimed)} claimed`
        : `${whole(claimed)} claimed + ${whole(count - claimed)} more`;
    if (!this.diagram.layout) return;
    this.diagram.drawEdges();
    this.diagram.emphasise();
  }

  toggle(id) {
    if (!this.state.expanded.delete(id)) this.state.expanded.add(id);
    this.diagram.relayout(this.diagram.camera.fitted, id);
  }

  select(id, reveal = false) {
    const owner = id === null ? null : (this.owners.get(id) ?? null);
    if (owner !== null && reveal) this.uncover(this.nodes.get(owner), id);
    this.state.selected = id;
    this.inspector.show(id);
    this.diagram.emphasise();
    if (reveal && owner !== null) this.diagram.focus(id);
  }

  /** Make sure that a node chosen from a list can be seen. */
  uncover(node, id) {
    if (node.rank !== null && node.rank >= this.state.k) this.resize(node.rank + 1);
    if (this.state.hidden.has(node.kind)) byId("legend").querySelector(`button[data-kind="${node.kind}"]`)?.click();
    if (id !== node.id && !this.state.expanded.has(node.id)) this.toggle(node.id);
  }

  search() {
    const query = byId("search").value.trim().toLowerCase();
    const holds = (node) =>
      [
        node.id,
        node.kind,
        nodeName(node),
        nodeLabel(node, this.run),
        ...node.leaves,
        ...node.leaves.map((leaf) => this.run.cards[leaf]?.label ?? ""),
      ].some((text) => String(text).toLowerCase().includes(query));
    const found = query
      ? this.run.nodes
          .slice(0, this.state.k)
          .filter(holds)
          .map((n) => n.id)
      : null;
    this.state.matches = found && new Set(found);
    this.matchAt = -1;
    byId("matches").textContent = found ? `${found.length} found` : "";
    this.diagram.emphasise();
  }

  nextMatch() {
    const found = [...(this.state.matches ?? [])];
    if (!found.length) return;
    this.matchAt = (this.matchAt + 1) % found.length;
    this.state.selected = found[this.matchAt];
    this.inspector.show(this.state.selected);
    this.diagram.emphasise();
    const place = this.diagram.places.get(this.state.selected);
    if (place) this.diagram.camera.reveal(place);
  }

  colourOf(node) {
    switch (this.state.colour) {
      case "score": {
        const share = Math.round(100 * Math.sqrt(Math.abs(node.score) / this.diagram.maxScore));
        const sign = node.score >= 0 ? "positive" : "negative";
        return `color-mix(in oklab, var(--${sign}) ${share}%, var(--neutral-node))`;
      }
      case "layer": {
        const share = Math.round((100 * Math.max(0, node.layer)) / Math.max(1, this.run.n_layers - 1));
        return `color-mix(in oklab, var(--late) ${share}%, var(--early))`;
      }
      case "module":
        return node.module === null ? "var(--neutral-node)" : `var(--module-${node.module % MODULE_COLOURS})`;
      default:
        return `var(--kind-${node.kind})`;
    }
  }

  tooltip(node, element, pointer) {
    const tip = byId("tooltip");
    if (!pointer && !element.matches(":focus-visible")) return;
    const label = this.run.cards[node.id]?.label;
    const facts = [
      isNumber(node.rank) ? `rank ${node.rank + 1}` : null,
      isNumber(node.score) ? `score ${signed(node.score)}` : null,
      node.n_leaves > 1 ? `${whole(node.n_leaves)} leaves` : null,
    ]
      .filter(Boolean)
      .join(" · ");
    tip.replaceChildren(
      el("strong", {}, el("bdi", {}, nodeName(node))),
      label ? el("bdi", {}, shorten(label, 60)) : "",
      facts ? el("span", { class: "hint" }, facts) : "",
    );
    tip.hidden = false;
    const box = element.getBoundingClientRect();
    const top = box.top - tip.offsetHeight - 8;
    const rightmost = window.innerWidth - tip.offsetWidth - 8;
    const left = box.left + box.width / 2 - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(8, Math.min(rightmost, left))}px`;
    tip.style.top = `${top > 8 ? top : box.bottom + 8}px`;
  }
}

new Report(JSON.parse(byId("hagd-data").textContent)).start();
