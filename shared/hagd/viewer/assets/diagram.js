/* The layered diagram: draws nodes and edges for the current state, and lets mouse and keyboard walk it.
   Node elements are reused between draws so that focus survives; edges are cheap and drawn anew. */

const OWN_EDGES = 40;

class Diagram {
  constructor(run, state, actions) {
    Object.assign(this, {
      run,
      state,
      actions,
      elements: new Map(),
      hovered: null,
      shown: [],
      places: new Map(),
      cursor: null,
    });
    this.graph = byId("graph");
    this.layers = {
      bands: svg("g"),
      edges: svg("g", { class: "edges" }),
      own: svg("g", { class: "own" }),
      nodes: svg("g", { class: "nodes" }),
    };
    this.graph.append(...Object.values(this.layers));
    this.camera = new Camera(this.graph, byId("layers"), byId("columns"), () => actions.hideTooltip());
    this.maxScore = Math.max(1e-12, ...run.nodes.map((n) => Math.abs(n.score)));
    this.strongest = Math.max(1e-12, ...run.edges.map(([, , weight]) => Math.abs(weight)));
    this.incident = this.indexEdges();
    this.graph.addEventListener("keydown", (event) => this.key(event));
    this.graph.addEventListener("click", (event) => {
      if (!this.camera.dragged && !event.target.closest(".node, .leaf")) actions.select(null);
    });
  }

  /** For every node the numbers of its edges, strongest first. */
  indexEdges() {
    const incident = new Map();
    for (const [i, [source, target]] of this.run.edges.entries()) {
      for (const end of [source, target]) {
        const { id } = this.actions.endpoint(end);
        if (!incident.has(id)) incident.set(id, []);
        incident.get(id).push(i);
      }
    }
    return incident;
  }

  /** Nodes that have a place: the circuit proper (or more, when the slider asks for more) and the logits. */
  placedNodes() {
    const count = Math.max(this.state.k, this.run.size);
    const nodes = this.run.nodes.slice(0, count).filter((n) => !this.state.hidden.has(n.kind));
    return this.state.hidden.has("logit") ? nodes : nodes.concat(this.run.logits);
  }

  /** Lay out anew; then fit the panel, or keep the scale with the node `anchor` where it was on the screen. */
  relayout(refit, anchor = null) {
    const before = this.places.get(anchor);
    const placed = this.placedNodes();
    this.layout = layoutCircuit(placed, this.run.roles, this.run.n_layers, this.state.expanded, this.camera.size);
    this.places = this.layout.places;
    this.draw();
    if (refit) this.camera.fit(this.layout);
    else this.camera.keep(this.layout, before, this.places.get(anchor));
  }

  draw() {
    this.drawBands();
    this.drawNodes();
    this.drawEdges();
    this.emphasise();
  }

  drawBands() {
    const { rows, columns, width, height } = this.layout;
    const bands = [];
    for (const row of rows) {
      if (row.part !== "mlp") continue;
      const attention = rows.find((r) => r.key === `${row.layer}.attention`);
      const band = { x: -6, y: row.y, width: width + 12, height: row.height + attention.height };
      bands.push(svg("rect", { ...band, class: row.layer % 2 ? "band odd" : "band" }));
    }
    const lines = columns.slice(1).map(({ x }) => svg("line", { x1: x, x2: x, y1: 0, y2: height, class: "column" }));
    this.layers.bands.replaceChildren(...bands, ...lines);
  }

  drawNodes() {
    const live = new Set();
    this.shown = [];
    for (const node of this.placedNodes()) {
      live.add(node.id);
      const element = this.elements.get(node.id) ?? this.create(node);
      this.update(node, element);
    }
    for (const [id, element] of this.elements) {
      if (live.has(id)) continue;
      element.remove();
      this.elements.delete(id);
    }
    if (!this.shown.some((item) => item.id === this.cursor)) this.cursor = this.shown[0]?.id ?? null;
    for (const item of this.shown) item.element.setAttribute("tabindex", item.id === this.cursor ? "0" : "-1");
  }

  create(node) {
    const scale =
      node.kind === "feature" || node.kind === "head"
        ? 0.8 + 0.28 * Math.sqrt(Math.abs(node.score) / this.maxScore)
        : 1;
    const label = glyphText(node);
    const element = svg(
      "g",
      { class: `node kind-${node.kind}`, role: "button", "data-id": node.id },
      svg(
        "g",
        { class: "body" },
        svg("circle", { class: "ring", r: node.kind === "logit" ? 31 : 14.5 }),
        glyph(node.kind, scale),
        label === null
          ? null
          : svg("text", { class: "inside", "text-anchor": "middle", "dominant-baseline": "central" }, label),
      ),
      svg("g", { class: "leaves" }),
    );
    element.addEventListener("click", (event) => this.activate(event, node));
    element.addEventListener("pointerenter", () => this.hover(node.id));
    element.addEventListener("pointerleave", () => this.hover(null));
    element.addEventListener("focus", () => this.actions.tooltip(node, element, false));
    this.elements.set(node.id, element);
    this.layers.nodes.append(element);
    return element;
  }

  update(node, element) {
    const place = this.places.get(node.id);
    const ghost = node.rank !== null && node.rank >= this.state.k;
    const open = this.state.expanded.has(node.id);
    element.setAttribute("transform", `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`);
    element.classList.toggle("ghost", ghost);
    element.classList.toggle("open", open);
    element.setAttribute("aria-hidden", ghost ? "true" : "false");
    const label = nodeLabel(node, this.run);
    const score = isNumber(node.score) ? `score ${signed(node.score)}` : "";
    element.setAttribute("aria-label", [nodeName(node), label, score].filter(Boolean).join(", "));
    if (node.kind === "supernode") element.setAttribute("aria-expanded", String(open));
    element.style.setProperty("--fill", this.actions.colourOf(node));
    if (!ghost) this.shown.push({ id: node.id, x: place.x, y: place.y, element });
    this.drawLeaves(node, element, open ? place : null);
  }

  drawLeaves(node, element, place) {
    const holder = element.querySelector(".leaves");
    if (!place) {
      holder.replaceChildren();
      return;
    }
    if (holder.childElementCount) {
      for (const leaf of holder.querySelectorAll(".leaf")) this.showLeaf(leaf, place);
      return;
    }
    const { width, height } = place;
    const frame = svg("rect", { class: "capsule", x: -width / 2, y: -height / 2, width, height, rx: 8 });
    const hidden = node.n_leaves - place.leaves.length;
    const title = `${node.n_leaves} leaves` + (hidden > 0 ? ` (${place.leaves.length} drawn)` : "");
    const text = svg("text", { class: "capsule-title", y: -height / 2 + 9.5, "text-anchor": "middle" }, title);
    holder.replaceChildren(frame, text, ...place.leaves.map((leaf) => this.createLeaf(leaf)));
    for (const leaf of holder.querySelectorAll(".leaf")) this.showLeaf(leaf, place);
  }

  createLeaf(leaf) {
    const described = describeLeaf(leaf.id);
    const element = svg(
      "g",
      {
        class: "leaf",
        role: "button",
        "data-id": leaf.id,
        "aria-label": nodeName(described),
        transform: `translate(${leaf.dx} ${leaf.dy})`,
      },
      svg("circle", { class: "ring", r: 7.4 }),
      svg("circle", { class: "shape", r: 4.8 }),
    );
    const known = { ...described, score: null, rank: null };
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      if (!this.camera.dragged) this.actions.select(leaf.id);
    });
    element.addEventListener("pointerenter", () => this.actions.tooltip(known, element, true));
    element.addEventListener("pointerleave", () => this.actions.hideTooltip());
    return element;
  }

  showLeaf(element, place) {
    const id = element.getAttribute("data-id");
    const leaf = place.leaves.find((entry) => entry.id === id);
    this.shown.push({ id, x: place.x + leaf.dx, y: place.y + leaf.dy, element });
  }

  /** The strongest edges between nodes of the first k. */
  drawEdges() {
    const paths = Array.from({ length: this.state.edges }, (_, i) => this.edge(i)).filter(Boolean);
    this.layers.edges.classList.toggle("dense", paths.length > 400);
    this.layers.edges.replaceChildren(...paths);
  }

  /** One edge as a curve, or null when an end has no place or is outside the first k. */
  edge(i) {
    const [source, target, weight] = this.run.edges[i];
    const inside = (index) => index >= this.run.nodes.length || index < this.state.k;
    const [from, to] = [this.actions.endpoint(source), this.actions.endpoint(target)];
    const [a, b] = [this.places.get(from.id), this.places.get(to.id)];
    if (!a || !b || !inside(source) || !inside(target)) return null;
    const width = Math.max(0.5, (5 * Math.abs(weight)) / this.strongest).toFixed(2);
    const claimed = i < this.run.n_edges ? "" : " unclaimed";
    return svg("path", {
      class: `edge ${weight >= 0 ? "positive" : "negative"}${claimed}`,
      d: edgePath(a, b),
      "stroke-width": width,
      "data-from": from.id,
      "data-to": to.id,
    });
  }

  hover(id) {
    this.hovered = id;
    this.emphasise();
    const node = id === null ? null : this.actions.find(id);
    if (node) this.actions.tooltip(node, this.elements.get(id), true);
    else this.actions.hideTooltip();
  }

  /** Dim what is unrelated to the hovered or selected node, or to the search. */
  emphasise() {
    const focus = this.hovered ?? this.actions.owner(this.state.selected);
    const near = this.drawOwnEdges(this.elements.has(focus) ? focus : null);
    for (const [id, element] of this.elements) {
      const unrelated = near.size > 0 && id !== focus && !near.has(id);
      const unfound = this.state.matches && !this.state.matches.has(id);
      element.classList.toggle("dim", Boolean(this.state.matches ? unfound : unrelated));
      element.classList.toggle("found", Boolean(this.state.matches && !unfound));
      element.classList.toggle("selected", id === this.state.selected);
      element.setAttribute("aria-current", id === this.state.selected ? "true" : "false");
    }
    for (const leaf of this.layers.nodes.querySelectorAll(".leaf")) {
      leaf.classList.toggle("selected", leaf.getAttribute("data-id") === this.state.selected);
    }
  }

  /** Draw the strongest edges of one node, however many the slider shows; give the nodes at their other ends. */
  drawOwnEdges(focus) {
    const paths = (this.incident.get(focus) ?? [])
      .slice(0, OWN_EDGES)
      .map((i) => this.edge(i))
      .filter(Boolean);
    this.layers.own.replaceChildren(...paths);
    this.layers.edges.classList.toggle("quiet", paths.length > 0);
    return new Set(paths.flatMap((path) => [path.getAttribute("data-from"), path.getAttribute("data-to")]));
  }

  activate(event, node) {
    event.stopPropagation();
    if (this.camera.dragged) return;
    this.cursor = node.id;
    if (node.kind === "supernode" && node.leaves.length) this.actions.toggle(node.id);
    this.actions.select(node.id);
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const item = this.shown.find((entry) => entry.element === document.activeElement);
    if (steps[event.key] && item) this.step(item, steps[event.key]);
    else if ((event.key === "Enter" || event.key === " ") && item) {
      this.camera.dragged = false;
      item.element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    } else if (event.key === "+" || event.key === "=") this.camera.zoom(1.3);
    else if (event.key === "-") this.camera.zoom(1 / 1.3);
    else if (event.key === "0") this.camera.fit(this.layout);
    else if (event.key === "Escape") this.actions.select(null);
    else return;
    event.preventDefault();
  }

  /** Move to the nearest node in a direction, preferring those straight ahead. */
  step(from, [dx, dy]) {
    let best = null;
    for (const item of this.shown) {
      const [x, y] = [item.x - from.x, item.y - from.y];
      const ahead = x * dx + y * dy;
      if (ahead < 1) continue;
      const aside = Math.abs(x * dy) + Math.abs(y * dx);
      const cost = ahead + 2.5 * aside;
      if (!best || cost < best.cost) best = { item, cost };
    }
    if (best) this.focus(best.item.id);
  }

  focus(id) {
    const item = this.shown.find((entry) => entry.id === id);
    if (!item) return;
    for (const entry of this.shown) entry.element.setAttribute("tabindex", entry === item ? "0" : "-1");
    this.cursor = id;
    this.camera.reveal(item);
    item.element.focus({ preventScroll: true });
  }
}
