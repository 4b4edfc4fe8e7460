/* Pan and zoom by the SVG's viewBox, and the two rulers (layers, roles) that stay readable at every scale. */

class Camera {
  constructor(graph, layerRuler, columnRuler, onChange) {
    Object.assign(this, { graph, layerRuler, columnRuler, onChange, x: 0, y: 0, scale: 1, layout: null });
    this.alwaysWheel = false;
    this.dragged = false;
    this.fitted = true;
    graph.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    graph.addEventListener("pointerdown", (event) => this.press(event));
  }

  get size() {
    return { width: Math.max(200, this.graph.clientWidth), height: Math.max(200, this.graph.clientHeight) };
  }

  fit(layout) {
    this.layout = layout;
    const { width, height } = this.size;
    this.scale = Math.min(width / (layout.width + 12), height / (layout.height + 8));
    this.x = (layout.width - width / this.scale) / 2;
    this.y = (layout.height - height / this.scale) / 2;
    this.fitted = true;
    this.apply();
  }

  keep(layout, before, after) {
    this.layout = layout;
    if (before && after) {
      this.x += after.x - before.x;
      this.y += after.y - before.y;
    }
    this.apply();
  }

  zoom(factor, at = null) {
    const { width, height } = this.size;
    const point = at ?? { x: width / 2, y: height / 2 };
    const scale = Math.min(12, Math.max(0.08, this.scale * factor));
    this.x += point.x / this.scale - point.x / scale;
    this.y += point.y / this.scale - point.y / scale;
    this.scale = scale;
    this.fitted = false;
    this.apply();
  }

  wheel(event) {
    if (!(event.ctrlKey || event.metaKey || this.alwaysWheel)) return;
    event.preventDefault();
    const box = this.graph.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY * 0.0022), { x: event.clientX - box.left, y: event.clientY - box.top });
  }

  press(event) {
    if (event.button !== 0 || (event.pointerType === "touch" && !this.alwaysWheel)) return;
    const start = { x: event.clientX, y: event.clientY, left: this.x, top: this.y };
    this.dragged = false;
    const move = (next) => {
      const [dx, dy] = [next.clientX - start.x, next.clientY - start.y];
      if (!this.dragged && Math.hypot(dx, dy) < 5) return;
      this.dragged = true;
      this.fitted = false;
      this.graph.classList.add("dragging");
      this.x = start.left - dx / this.scale;
      this.y = start.top - dy / this.scale;
      this.apply();
    };
    const release = () => {
      this.graph.classList.remove("dragging");
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", release);
      window.removeEventListener("pointercancel", release);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", release);
    window.addEventListener("pointercancel", release);
  }

  /** Bring a place into view without changing the scale. */
  reveal(place) {
    const { width, height } = this.size;
    const [w, h] = [width / this.scale, height / this.scale];
    const margin = 30 / this.scale;
    if (place.x < this.x + margin || place.x > this.x + w - margin) this.x = place.x - w / 2;
    if (place.y < this.y + margin || place.y > this.y + h - margin) this.y = place.y - h / 2;
    this.apply();
  }

  apply() {
    const { width, height } = this.size;
    this.graph.setAttribute("viewBox", `${this.x} ${this.y} ${width / this.scale} ${height / this.scale}`);
    this.graph.classList.toggle("near", this.scale > 1.25);
    this.graph.classList.toggle("far", this.scale < 0.7);
    if (!this.layout) return;
    this.drawLayers(height);
    this.drawColumns(width);
    this.onChange();
  }

  /** One label per layer, with its two halves where there is room; labels that would touch are left out. */
  drawLayers(height) {
    const marks = [];
    let free = Infinity;
    const toScreen = (y) => (y - this.y) * this.scale;
    const put = (y, text, kind) => {
      if (y < 6 || y > height - 4 || free - y < 13) return;
      marks.push(svg("text", { x: 52, y: y + 4, "text-anchor": "end", class: kind }, text));
      free = y;
    };
    const middle = (row) => toScreen(row.y + row.height / 2);
    for (const row of [...this.layout.rows].reverse()) {
      if (row.part === "token") put(middle(row), "tokens", "part");
      else if (row.part === "logit") put(middle(row), "logits", "part");
      else if (row.part === "mlp") continue;
      else this.layerMarks(row, middle, toScreen, put);
    }
    this.layerRuler.replaceChildren(...marks);
  }

  layerMarks(attention, middle, toScreen, put) {
    const mlp = this.layout.rows.find((row) => row.key === `${attention.layer}.mlp`);
    const pixels = (attention.height + mlp.height) * this.scale;
    const name = `L${attention.layer}`;
    if (pixels < 46 || attention.height < 12 || mlp.height < 12) {
      put(toScreen(mlp.y + (mlp.height + attention.height) / 2), name, "layer");
      return;
    }
    put(middle(attention), `${name} attn`, "part");
    put(middle(mlp), `${name} MLP`, "part");
  }

  /** Role names under their columns, on two lines when one is too narrow. */
  drawColumns(width) {
    const columns = this.layout.columns.map(({ role, x, width: w }) => ({
      role,
      middle: (x + w / 2 - this.x) * this.scale,
      room: w * this.scale,
    }));
    const letter = 6.3;
    const tight = columns.some(({ role, room }) => role.length * letter > room - 4);
    const marks = columns
      .filter(({ middle }) => middle > 0 && middle < width)
      .map(({ role, middle, room }, i) => {
        const letters = Math.max(3, Math.floor((tight ? room * 2 - 6 : room - 4) / letter));
        return svg(
          "text",
          { x: middle, y: tight && i % 2 ? 30 : 15, "text-anchor": "middle", class: "role" },
          shorten(role, letters),
          svg("title", {}, role),
        );
      });
    this.columnRuler.replaceChildren(...marks);
  }
}
