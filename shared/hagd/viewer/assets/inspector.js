/* The card of what is selected: numbers, promoted and suppressed tokens, top examples, strongest edges. */

class Inspector {
  constructor(run, actions) {
    Object.assign(this, { run, actions, root: byId("card") });
  }

  show(id) {
    const node = id === null ? null : this.actions.find(id);
    if (id === null) this.root.replaceChildren(...this.overview());
    else this.root.replaceChildren(...(node ? this.nodeCard(node) : this.leafCard(id)).filter(Boolean));
  }

  overview() {
    const top = this.run.nodes.slice(0, 20);
    return [
      el("h3", {}, "Nodes by rank"),
      el("p", { class: "hint" }, "Select a node to read its card. A supernode opens when selected."),
      el(
        "ol",
        { class: "ranking" },
        top.map((node) => el("li", {}, this.link(node.id), this.weight(node.score))),
      ),
    ];
  }

  link(id, text = null) {
    const node = this.actions.find(id);
    const name = text ?? (node ? nodeName(node) : nodeName(describeLeaf(id)));
    const label = this.run.cards[id]?.label;
    return el(
      "button",
      { class: "link", type: "button", click: () => this.actions.select(id, true) },
      el("bdi", {}, name),
      label ? el("bdi", { class: "faint" }, ` ${shorten(label, 40)}`) : null,
    );
  }

  weight(value) {
    return el("span", { class: `num ${value >= 0 ? "positive" : "negative"}` }, signed(value));
  }

  heading(id, name) {
    const label = this.run.cards[id]?.label;
    return [
      el(
        "p",
        { class: "eyebrow" },
        el("bdi", {}, name),
        el(
          "button",
          { class: "close", type: "button", "aria-label": "Close the card", click: () => this.actions.select(null) },
          "×",
        ),
      ),
      el("h3", { class: "card-title" }, el("bdi", {}, label || name)),
    ];
  }

  nodeCard(node) {
    const facts =
      node.rank === null
        ? []
        : [
            ["Rank", `${node.rank + 1} of ${this.run.nodes.length}`],
            ["Score", signed(node.score)],
          ];
    if (node.n_leaves > 1) facts.push(["Leaves", whole(node.n_leaves)]);
    if (node.module !== null) facts.push(["Module", node.module]);
    const card = this.run.cards[node.id];
    if (isNumber(card?.frequency)) facts.push(["Active on", `${fixed(100 * card.frequency, 1)}%`]);
    const note = node.unexplained
      ? el("p", { class: "notice" }, "A whole block: it is kept live, and what it computes inside is not explained.")
      : null;
    return [
      ...this.heading(node.id, nodeName(node)),
      el("code", { class: "id" }, node.id),
      this.facts(facts),
      note,
      this.leaves(node),
      ...this.cardBody(card),
      ...this.edges(node),
    ];
  }

  leafCard(id) {
    const owner = this.actions.owner(id);
    const card = this.run.cards[id];
    const facts = isNumber(card?.frequency) ? [["Active on", `${fixed(100 * card.frequency, 1)}%`]] : [];
    return [
      ...this.heading(id, nodeName(describeLeaf(id))),
      el("code", { class: "id" }, id),
      this.facts(facts),
      owner ? el("p", { class: "hint" }, "Part of ", this.link(owner)) : null,
      ...this.cardBody(card),
    ];
  }

  facts(rows) {
    return el(
      "dl",
      { class: "facts" },
      rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
  }

  leaves(node) {
    if (node.leaves.length < 2) return null;
    const shown = node.leaves.slice(0, 60);
    const more = node.n_leaves - shown.length;
    return el(
      "details",
      { class: "leaf-list" },
      el("summary", {}, `${whole(node.n_leaves)} leaves`),
      el(
        "ul",
        { class: "plain" },
        shown.map((id) => el("li", {}, this.link(id))),
      ),
      more > 0 ? el("p", { class: "hint" }, `and ${whole(more)} more`) : null,
    );
  }

  cardBody(card) {
    if (!card) return [];
    const parts = [];
    if (card.promoted?.length || card.suppressed?.length) {
      parts.push(
        el("h4", {}, "Logits"),
        el(
          "div",
          { class: "two" },
          this.logits("Promotes", card.promoted ?? []),
          this.logits("Suppresses", card.suppressed ?? []),
        ),
      );
    }
    if (card.examples?.length) {
      const maximum = Math.max(1e-12, ...card.examples.flatMap((e) => e.activations.map(Math.abs)));
      parts.push(
        el("h4", {}, "Top examples"),
        el(
          "ol",
          { class: "examples" },
          card.examples.map((example) => this.example(example, maximum)),
        ),
      );
    }
    return parts;
  }

  logits(title, pairs) {
    const strongest = Math.max(1e-12, ...pairs.map(([, w]) => Math.abs(w)));
    return el(
      "div",
      {},
      el("p", { class: "hint" }, title),
      el(
        "ul",
        { class: "logits" },
        pairs.slice(0, 8).map(([token, w]) => {
          const bar = el("span", { class: `logit-bar ${w >= 0 ? "positive" : "negative"}` });
          bar.style.width = `${((100 * Math.abs(w)) / strongest).toFixed(1)}%`;
          return el(
            "li",
            {},
            bar,
            el("bdi", { class: "token" }, visibleToken(token)),
            el("span", { class: "num" }, signed(w, 2)),
          );
        }),
      ),
    );
  }

  /** A strip of tokens; shading is activation over the card's largest, the reading position is underlined. */
  example(example, maximum) {
    const strip = el(
      "span",
      { class: "strip" },
      example.tokens.map((token, i) => {
        const activation = example.activations[i] ?? 0;
        const span = el(
          "bdi",
          { class: i === example.position ? "token at" : "token", title: `activation ${signed(activation)}` },
          visibleToken(token),
        );
        span.style.setProperty("--heat", `${(100 * Math.min(1, Math.abs(activation) / maximum)).toFixed(1)}%`);
        return span;
      }),
    );
    const prediction =
      example.prediction === undefined || example.prediction === null
        ? null
        : el("span", { class: "prediction" }, " → ", el("bdi", {}, visibleToken(example.prediction)));
    return el("li", {}, strip, prediction);
  }

  edges(node) {
    const index = this.actions.indexOf(node);
    const incoming = this.run.edges.filter(([, target]) => target === index).slice(0, 8);
    const outgoing = this.run.edges.filter(([source]) => source === index).slice(0, 8);
    const list = (title, edges, side) =>
      edges.length
        ? el(
            "div",
            {},
            el("p", { class: "hint" }, title),
            el(
              "ul",
              { class: "plain edges-list" },
              edges.map((edge) => el("li", {}, this.link(this.actions.endpoint(edge[side]).id), this.weight(edge[2]))),
            ),
          )
        : null;
    if (!incoming.length && !outgoing.length) return [];
    return [el("h4", {}, "Strongest edges"), list("From", incoming, 0), list("To", outgoing, 1)];
  }
}

/** The table of all nodes, built when it is first opened. */
function nodeTable(run, select) {
  const rows = run.nodes.map((node) => [
    node.rank + 1,
    el("button", { class: "link", type: "button", click: () => select(node.id, true) }, el("bdi", {}, nodeName(node))),
    el("bdi", {}, nodeLabel(node, run)),
    signed(node.score),
    whole(node.n_leaves),
    node.rank < run.size ? "yes" : "no",
  ]);
  const numeric = (text) => ({ text, numeric: true });
  return table([numeric("Rank"), "Node", "Label", numeric("Score"), numeric("Leaves"), "In circuit"], rows);
}
