"use strict";
// Sorting, highlighting and the attention of a chosen example. Text from the data only ever becomes text (textContent).

const byId = (id) => document.getElementById(id);

function make(name, text = "", attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

/** Text whose direction is its own: a right-to-left token must not reorder what stands beside it. */
const isolated = (text) => make("bdi", text);

const options = (select, names) => names.forEach((name, place) => select.append(make("option", name, { value: place })));

// Tables: a button in each column's head sorts by it; missing values come last in both directions.

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", head.textContent, { type: "button" });
    button.addEventListener("click", () => {
      const upward = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", upward ? "ascending" : "descending");
      sortRows(table.tBodies[0], column, upward ? 1 : -1);
    });
    head.replaceChildren(button);
  });
}

function sortRows(body, column, sign) {
  const collator = new Intl.Collator("en", { numeric: true });
  const missing = (cell) => cell.textContent.trim() === "–";
  const compare = (a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (a.dataset.value && b.dataset.value) return sign * (a.dataset.value - b.dataset.value);
    return sign * collator.compare(a.textContent.trim(), b.textContent.trim());
  };
  body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column])));
}

/** Shade a cell by its share in per cent. Up to 64 dark on light has the contrast to be read, from there the other way. */
function shade(cell) {
  cell.style.setProperty("--share", cell.dataset.share);
  cell.classList.toggle("strong", cell.dataset.share > 64);
}

// The circuit: of the chosen cell only its own paths stay strong.

function highlight(name) {
  const touched = new Set([name]);
  for (const edge of document.querySelectorAll("#diagram .edge")) {
    const own = edge.dataset.from === name || edge.dataset.to === name;
    edge.classList.toggle("faded", name !== "" && !own);
    if (own) touched.add(edge.dataset.from).add(edge.dataset.to);
  }
  for (const node of document.querySelectorAll("#diagram .node")) {
    node.classList.toggle("faded", name !== "" && !touched.has(node.dataset.name));
  }
}

// Attention: one head on one example.

const data = JSON.parse(byId("attention-data").textContent);

function drawAttention() {
  const number = byId("example-choice").value;
  const head = data.heads[byId("head-choice").value];
  const [example, pattern, targets] = [data.examples[number], head.patterns[number], head.targets[number]];
  drawQuestion(example);
  drawMap(`${head.head} on example ${+number + 1}`, example.tokens, pattern, targets);
  drawRows(example, pattern, targets);
  byId("attention-summary").textContent = summary(head, pattern, targets);
}

function summary(head, pattern, targets) {
  const name = [head.head, head.labels.join(", ")].filter(Boolean).join(", ");
  const shares = targets.flatMap((sources, row) => (sources.length ? [onTarget(pattern[row], sources)] : []));
  if (!shares.length) return `${name}: no label names a source in this example.`;
  const mean = Math.round(shares.reduce((sum, share) => sum + share, 0) / shares.length);
  return `${name}: ${mean} % of attention is where the label says, on average over ${shares.length} ${shares.length > 1 ? "rows" : "row"}.`;
}

const onTarget = (line, sources) => sources.reduce((sum, source) => sum + line[source], 0);

function drawQuestion(example) {
  const place = example.slots.lastIndexOf("query");
  const parts = place < 0 ? [] : ["Asked: ", isolated(example.tokens[place]), ". "];
  for (const { hop, right, given } of example.answers) {
    parts.push(`Hop ${hop}: `, isolated(right), right === given ? " ✓ " : " ✗, the model says ");
    if (right !== given) parts.push(isolated(given), " ");
  }
  byId("question").replaceChildren(...parts);
}

function tokenHead(token, place, scope) {
  const head = make("th", "", { scope });
  head.append(isolated(token), make("small", place + 1));
  return head;
}

function drawMap(caption, tokens, pattern, targets) {
  const top = make("tr");
  top.append(make("td", "row \\ column"), ...tokens.map((token, place) => tokenHead(token, place, "col")));
  const [head, body] = [make("thead"), make("tbody")];
  head.append(top);
  pattern.forEach((line, row) => {
    const marked = new Set(targets[row]);
    const tr = make("tr", "", { class: marked.size ? "labelled" : "" });
    tr.append(tokenHead(tokens[row], row, "row"));
    line.forEach((share, column) => {
      const cell = make("td", share || "", { "data-share": share });
      cell.classList.toggle("target", marked.has(column));
      shade(cell);
      tr.append(cell);
    });
    body.append(tr);
  });
  byId("map").replaceChildren(make("caption", caption), head, body);
}

function drawRows(example, pattern, targets) {
  const named = (place) => [isolated(example.tokens[place]), ` at ${place + 1}`];
  const items = pattern.map((line, row) => {
    const most = line.indexOf(Math.max(...line));
    const item = make("li");
    item.append(isolated(example.tokens[row]), ` (${example.slots[row]}) looks most at `, ...named(most), `, ${line[most]} %`);
    if (targets[row].length) {
      item.append("; the label names ");
      targets[row].forEach((source, count) => item.append(count ? ", " : "", ...named(source)));
      item.append(`, ${onTarget(line, targets[row])} %`);
    }
    return item;
  });
  byId("rows").replaceChildren(...items);
}

document.querySelectorAll("[data-needs-script]").forEach((node) => (node.hidden = false));
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("td[data-share]").forEach(shade);

for (const box of document.querySelectorAll("#labels input")) {
  const apply = () => byId("label-table").classList.toggle(box.id, box.checked);
  box.addEventListener("change", apply);
  apply();
}
byId("path-choice")?.addEventListener("change", (event) => highlight(event.target.value));

if (data.examples.length) {
  options(byId("head-choice"), data.heads.map(({ head, labels }) => [head, labels.join(", ")].filter(Boolean).join(": ")));
  options(byId("example-choice"), data.examples.map(({ tokens, slots }, place) => {
    const asked = slots.lastIndexOf("query");
    return asked < 0 ? `${place + 1}` : `${place + 1}: ${tokens[asked]}`;
  }));
  for (const id of ["head-choice", "example-choice"]) byId(id).addEventListener("change", drawAttention);
  drawAttention();
}
