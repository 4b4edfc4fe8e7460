/* Building blocks: elements, SVG shapes, and numbers and tokens as text.
   Strings only ever become text nodes or plain attributes, so nothing in a run can become markup. */

const SVG_NS = "http://www.w3.org/2000/svg";
const NOT_MEASURED = "not measured";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** An HTML element; attribute values that are functions become event listeners. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG_NS, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** A number with a true minus sign, or a dash when there is none. */
function fixed(value, digits = 3) {
  return isNumber(value)
    ? value
        .toFixed(digits)
        .replace(/^-(0\.?0*)$/, "$1")
        .replace("-", "−")
    : "–";
}

function signed(value, digits = 3) {
  if (!isNumber(value)) return "–";
  const small = value !== 0 && Math.abs(value) < 10 ** -digits;
  const text = small ? value.toExponential(1).replace("-", "−").replace("e-", "e−") : fixed(value, digits);
  return value > 0 ? "+" + text : text;
}

function whole(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en-GB") : "–";
}

/** A p value; very small ones are given as a bound. */
function probability(value) {
  if (!isNumber(value)) return "–";
  return value < 0.0001 ? "< 0.0001" : value.toFixed(value < 0.01 ? 4 : 3);
}

function interval(pair, digits = 3) {
  return Array.isArray(pair) && pair.every(isNumber) ? `[${fixed(pair[0], digits)}, ${fixed(pair[1], digits)}]` : "";
}

/** A measurement may come as a bare number or as {value, ci95}. */
function estimate(entry) {
  if (isNumber(entry)) return { value: entry, ci: null };
  if (entry && typeof entry === "object") {
    const value = [entry.value, entry.excess, entry.mean].find(isNumber);
    return { value: value ?? null, ci: Array.isArray(entry.ci95) ? entry.ci95 : null };
  }
  return { value: null, ci: null };
}

/** Token text with its white space made visible. */
function visibleToken(text) {
  return String(text).replace(/\r?\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "\u00a0");
}

function shorten(text, length) {
  const letters = [...String(text)];
  return letters.length <= length ? letters.join("") : letters.slice(0, Math.max(1, length - 1)).join("") + "…";
}

function table(headings, rows, options = {}) {
  const head = headings.map((h) => el("th", { scope: "col", class: h.numeric ? "num" : null }, h.text ?? h));
  const body = rows.map((cells) =>
    el(
      "tr",
      {},
      cells.map((cell, i) => el("td", { class: headings[i].numeric ? "num" : null }, cell)),
    ),
  );
  return el(
    "table",
    { class: options.class ?? null },
    options.caption ? el("caption", {}, options.caption) : null,
    el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, body),
  );
}

function panel(title, ...children) {
  return el("div", { class: "panel" }, el("h3", {}, title), children);
}
