/* Where everything stands: columns are roles in reading order, rows are tokens, then attention and MLP of each
   layer, then the logits. Pure functions of nodes and sizes; nothing here touches the page.
   The width of a cell is chosen so that the whole diagram fills the panel at the largest scale. */

const LEAF_PITCH = 15;
const MAX_LEAVES_DRAWN = 240;
const LARGEST_SCALE = 1.5;
const SIZES = {
  token: [32, 22],
  head: [21, 21],
  feature: [20, 20],
  supernode: [29, 28],
  mlp: [28, 21],
  error: [20, 20],
  skip: [20, 20],
  logit: [62, 28],
};
const KIND_ORDER = ["token", "head", "mlp", "supernode", "feature", "error", "skip", "logit"];

function rowOf(node) {
  return node.row === "token" || node.row === "logit" ? node.row : `${node.layer}.${node.row}`;
}

function expandedGrid(node) {
  const n = Math.min(node.leaves.length, MAX_LEAVES_DRAWN);
  const columns = Math.max(2, Math.ceil(Math.sqrt(1.8 * n)));
  return { n, columns, width: columns * LEAF_PITCH + 12, height: Math.ceil(n / columns) * LEAF_PITCH + 24 };
}

function sizeOf(node, expanded) {
  if (!expanded.has(node.id)) return SIZES[node.kind] ?? SIZES.feature;
  const grid = expandedGrid(node);
  return [grid.width, grid.height];
}

/** Put items on shelves no wider than `maxWidth`; offsets are relative to the centre of the cell. */
function packCell(nodes, expanded, maxWidth) {
  const shelves = [];
  let shelf = null;
  for (const node of nodes) {
    const [width, height] = sizeOf(node, expanded);
    if (!shelf || shelf.width + width > maxWidth) {
      shelf = { width: 0, height: 0, items: [] };
      shelves.push(shelf);
    }
    shelf.items.push({ node, width, height, left: shelf.width });
    shelf.width += width;
    shelf.height = Math.max(shelf.height, height);
  }
  const width = Math.max(...shelves.map((s) => s.width));
  const height = shelves.reduce((sum, s) => sum + s.height, 0);
  const items = [];
  let top = -height / 2;
  for (const s of shelves) {
    for (const item of s.items) {
      items.push({ ...item, dx: item.left + item.width / 2 - s.width / 2, dy: top + s.height / 2 });
    }
    top += s.height;
  }
  return { width, height, items };
}

function rowsOf(nLayers) {
  const rows = [{ key: "logit", layer: nLayers, part: "logit" }];
  for (let layer = nLayers - 1; layer >= 0; layer--) {
    rows.push({ key: `${layer}.mlp`, layer, part: "mlp" }, { key: `${layer}.attention`, layer, part: "attention" });
  }
  rows.push({ key: "token", layer: -1, part: "token" });
  return rows;
}

function arrange(cells, roles, nLayers, expanded, maxWidth) {
  const packed = new Map();
  for (const [key, nodes] of cells) packed.set(key, packCell(nodes, expanded, maxWidth));
  const columns = roles.map((role) => ({ role, width: 26 }));
  const rows = rowsOf(nLayers).map((row) => ({ ...row, height: 5 }));
  for (const row of rows) {
    for (const column of columns) {
      const cell = packed.get(`${row.key}|${column.role}`);
      if (!cell) continue;
      column.width = Math.max(column.width, cell.width + 14);
      row.height = Math.max(row.height, cell.height + 4);
    }
  }
  const sum = (list, name) => list.reduce((total, entry) => total + entry[name], 0);
  return { packed, columns, rows, width: sum(columns, "width"), height: sum(rows, "height") };
}

function cellsOf(nodes) {
  const cells = new Map();
  for (const node of nodes) {
    const key = `${rowOf(node)}|${node.role}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  const order = (a, b) =>
    KIND_ORDER.indexOf(a.kind) - KIND_ORDER.indexOf(b.kind) ||
    (a.kind === "head" ? a.index - b.index : (a.module ?? 1e9) - (b.module ?? 1e9)) ||
    a.rank - b.rank;
  for (const list of cells.values()) list.sort(order);
  return cells;
}

/** Give {places: Map(id -> {x, y, width, height, leaves}), rows, columns, width, height} in user units. */
function layoutCircuit(nodes, roles, nLayers, expanded, space) {
  const cells = cellsOf(nodes);
  let best = null;
  for (const maxWidth of [44, 66, 88, 110, 132, 176, 220, 286, 374, 484, 660, 900]) {
    const grid = arrange(cells, roles, nLayers, expanded, maxWidth);
    const scale = Math.min(space.width / grid.width, space.height / grid.height);
    if (!best || scale > best.scale * 1.001) best = { grid, scale };
  }
  return place(best.grid, expanded, space, Math.min(best.scale, LARGEST_SCALE));
}

/** Stretch both directions to fill the panel at this scale, and give every node its place. */
function place(grid, expanded, space, scale) {
  const stretchX = Math.max(1, space.width / scale / grid.width);
  const stretchY = Math.max(1, space.height / scale / grid.height);
  let x = 0;
  const columns = grid.columns.map(({ role, width }) => {
    const column = { role, x, width: width * stretchX };
    x += column.width;
    return column;
  });
  let y = 0;
  const rows = grid.rows.map((row) => {
    const placed = { ...row, y, height: row.height * stretchY };
    y += placed.height;
    return placed;
  });
  const places = new Map();
  const spreadX = Math.min(stretchX, 1.6);
  const spreadY = Math.min(stretchY, 1.6);
  for (const row of rows) {
    for (const column of columns) {
      for (const item of grid.packed.get(`${row.key}|${column.role}`)?.items ?? []) {
        const centre = {
          x: column.x + column.width / 2 + item.dx * spreadX,
          y: row.y + row.height / 2 + item.dy * spreadY,
        };
        places.set(item.node.id, placeItem(item, centre, expanded));
      }
    }
  }
  return { places, rows, columns, width: x, height: y };
}

function placeItem(item, centre, expanded) {
  const placed = { ...centre, width: item.width - 4, height: item.height - 4, leaves: [] };
  if (!expanded.has(item.node.id)) return placed;
  const grid = expandedGrid(item.node);
  placed.leaves = item.node.leaves.slice(0, grid.n).map((id, i) => ({
    id,
    dx: ((i % grid.columns) - (grid.columns - 1) / 2) * LEAF_PITCH,
    dy: -item.height / 2 + 21 + Math.floor(i / grid.columns) * LEAF_PITCH,
  }));
  return placed;
}

/** A curve that leaves a node at its top and enters the next at its bottom; long ones in a column bow aside. */
function edgePath(from, to) {
  const y0 = from.y - from.height / 2;
  const y1 = to.y + to.height / 2;
  const rise = Math.max(12, (y0 - y1) * 0.45);
  const bow = Math.abs(from.x - to.x) < 12 && y0 - y1 > 60 ? 10 + (y0 - y1) * 0.05 : 0;
  return (
    `M${from.x.toFixed(1)} ${y0.toFixed(1)}C${(from.x + bow).toFixed(1)} ${(y0 - rise).toFixed(1)} ` +
    `${(to.x + bow).toFixed(1)} ${(y1 + rise).toFixed(1)} ${to.x.toFixed(1)} ${y1.toFixed(1)}`
  );
}
