/* The shape of each kind of node and the words for it. Shape tells the kind, so that colour is free. */

const KIND_NAMES = {
  token: "Token",
  head: "Attention head",
  feature: "Feature",
  supernode: "Supernode",
  mlp: "MLP block",
  error: "Error",
  skip: "Skip path",
  logit: "Logit",
};
const KIND_PLURALS = {
  token: "tokens",
  head: "heads",
  feature: "features",
  supernode: "supernodes",
  mlp: "MLP blocks",
  error: "errors",
  skip: "skip paths",
  logit: "logits",
};

function glyph(kind, scale = 1) {
  const shape = "shape";
  switch (kind) {
    case "token":
      return [svg("rect", { class: shape, x: -13, y: -7, width: 26, height: 14, rx: 7 })];
    case "head":
      return [
        svg("rect", { class: shape, x: -8 * scale, y: -8 * scale, width: 16 * scale, height: 16 * scale, rx: 3.5 }),
      ];
    case "mlp":
      return [
        svg("rect", { class: shape, x: -12, y: -7.5, width: 24, height: 15, rx: 2 }),
        svg("path", { class: "hatch", d: "M-9 6L-1 -6M-3 6L5 -6M3 6L11 -6" }),
      ];
    case "supernode":
      return [svg("circle", { class: "halo", r: 12.2 }), svg("circle", { class: shape, r: 9.6 })];
    case "error":
      return [svg("path", { class: shape, d: "M0 -8L8 0L0 8L-8 0Z" })];
    case "skip":
      return [svg("path", { class: shape, d: "M0 -7.5L8 6.5L-8 6.5Z" })];
    case "logit":
      return [svg("rect", { class: shape, x: -27, y: -10.5, width: 54, height: 21, rx: 10.5 })];
    default:
      return [svg("circle", { class: shape, r: 7.8 * scale })];
  }
}

function glyphText(node) {
  if (node.kind === "logit") return "logit";
  if (node.kind === "supernode") return node.n_leaves > 999 ? `${Math.round(node.n_leaves / 1000)}k` : node.n_leaves;
  return node.kind === "head" || node.kind === "feature" ? node.index : null;
}

/** What a person calls this node: its card's label if it has one, else kind, place and number. */
function nodeName(node) {
  const where = node.layer >= 0 && node.kind !== "logit" ? ` ${node.layer}` : "";
  const number = node.kind === "head" || node.kind === "feature" ? `.${node.index}` : "";
  const leaves = node.kind === "supernode" ? `, ${node.n_leaves} leaves` : "";
  return `${KIND_NAMES[node.kind] ?? node.kind}${where}${number} @ ${node.role}${leaves}`;
}

function nodeLabel(node, run) {
  return run.cards[node.id]?.label || "";
}

/** Split a leaf's id (`feature.2.17@eq`) into the parts a reader wants. */
function describeLeaf(id) {
  const [name, ...role] = id.split("@");
  const [kind, layer, index] = name.split(".");
  return { id, kind, layer: Number(layer ?? -1), index: Number(index ?? 0), role: role.join("@") };
}
