"use strict";
// What the page does beyond lying there: filters and sorting of tables, the rows that a long table leaves out,
// and the value of a mark that is pointed at. Without this script everything but those rows is there all the same.

const STEP = 100;
const gravity = document.body.dataset.gravity.split("|");

function key(cell) {
  if (!cell) return "";
  if (cell.dataset.key !== undefined) return Number(cell.dataset.key);
  const text = cell.textContent.trim();
  return cell.classList.contains("judged") ? gravity.indexOf(text) : text === "\u2013" ? "" : text.toLowerCase();
}

function inOrder(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
}

// Makes the heads of a table buttons that call order(column, sign) and tell how it is sorted.
function headed(table, order) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cell = table.tBodies[0].rows[0].cells[column];
    if (cell && (cell.classList.contains("sentence") || cell.classList.contains("quiet"))) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      order(column, sign);
    });
  });
}

// A row and what is published beneath it stay together; what has no value stays last.
function sorted(groups, column, sign, of) {
  return [...groups].sort((a, b) => {
    const [x, y] = [of(a, column), of(b, column)];
    return inOrder(x, y) * (x === "" || y === "" ? 1 : sign);
  });
}

function sortable(table) {
  const body = table.tBodies[0], groups = [];
  for (const row of body.rows) row.classList.contains("published") ? groups[groups.length - 1].push(row) : groups.push([row]);
  headed(table, (column, sign) => {
    body.append(...sorted(groups, column, sign, (group, at) => key(group[0].cells[at])).flat());
  });
}

function filtered(place) {
  const table = place.querySelector("table"), body = table.tBodies[0], first = body.rows[0];
  const {words, facets, rest, small} = JSON.parse(document.getElementById("rows").textContent);
  const bar = document.querySelector(".filters"), more = place.querySelector(".more-rows");
  const text = bar.querySelector("[data-text]"), selects = [...bar.querySelectorAll("select")];
  const cut = document.querySelector("[data-cut]");
  const spoken = n => [...rest[n], ...small[n]].map(said => words[said]).join(" ");
  const rows = facets.map((of, n) => {
    const row = body.rows[n], at = row ? null : n - body.rows.length;
    const traits = of.map(word => words[word]);
    return {row, at, traits, text: `${row ? row.textContent : spoken(at)} ${traits.join(" ")}`.toLowerCase()};
  });
  let limit = STEP, column = null, sign = 1;

  const built = n => {
    const row = first.cloneNode(true);
    rest[n].forEach((said, at) => {
      const cell = row.cells[at];
      if (cell.classList.contains("judged")) {
        const kind = `verdict-${words[said].replace(" ", "-")}`, shown = cell.firstElementChild;
        shown.className = `verdict ${kind}`;
        shown.querySelector("use").setAttribute("href", `#${kind}`);
        shown.lastChild.data = words[said];
        return;
      }
      cell.textContent = words[said];
      const beneath = words[small[n][at]];
      if (beneath) cell.appendChild(document.createElement("small")).textContent = beneath;
    });
    return row;
  };
  const sortedBy = (each, at) => {
    if (each.row) return key(each.row.cells[at]);
    const said = words[rest[each.at][at]];
    return first.cells[at].classList.contains("judged") ? gravity.indexOf(said) : said.toLowerCase();
  };
  const draw = () => {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = selects.filter(each => each.selectedIndex).map(each => [each.dataset.place, each.value]);
    let found = rows.filter(each =>
      asked.every(([at, word]) => each.traits[at] === word) && wanted.every(word => each.text.includes(word)));
    if (column !== null) found = sorted(found, column, sign, sortedBy);
    body.replaceChildren(...found.slice(0, limit).map(each => each.row ??= built(each.at)));
    const left = found.length - limit;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(STEP, left)} more of ${left.toLocaleString("en")}`;
    const number = count => count.toLocaleString("en");
    const all = `${number(rows.length)} cases`, drawn = Math.min(limit, found.length);
    bar.querySelector("[data-status]").textContent = `${number(found.length)} of ${all}`;
    const chosen = selects.filter(each => each.selectedIndex).map(each => `${each.dataset.name} ${each.value}`);
    if (wanted.length) chosen.push(`the words \u201c${wanted.join(" ")}\u201d`);
    const told = chosen.length ? `, of ${number(found.length)} with ${chosen.join(", ")}` : "";
    cut.textContent = `These are ${number(drawn)} of ${all}${told}.`;
    cut.hidden = drawn === rows.length;
  };
  const anew = () => { limit = STEP; draw(); };
  text.addEventListener("input", anew);
  selects.forEach(each => each.addEventListener("change", anew));
  bar.querySelector("[data-reset]").addEventListener("click", () => {
    text.value = "";
    selects.forEach(each => { each.selectedIndex = 0; });
    anew();
  });
  more.addEventListener("click", () => { limit += STEP; draw(); });
  if (rows.length > 1) {
    if (table.classList.contains("sortable")) headed(table, (at, way) => { column = at; sign = way; anew(); });
    cut.classList.add("on-paper"); // on the screen the line above the table says it
    bar.hidden = false;
    draw();
  }
}

// The value of a mark at once, in the place of the browser's own slow tooltip.
function pointed() {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.querySelectorAll("figure svg [aria-label] > title").forEach(each => each.remove());
  let last = {mark: null, x: 0, y: 0};
  const hide = () => { last.mark = null; tip.hidden = true; };
  const show = event => {
    const {clientX: x, clientY: y} = event;
    const mark = event.target.closest?.("figure svg") &&
      document.elementsFromPoint(x, y).find(each => each.matches("svg :not(g)[aria-label]"));
    if (!mark) return hide();
    last = {mark, x, y};
    tip.hidden = false;
    tip.textContent = mark.getAttribute("aria-label");
    const {width, height} = tip.getBoundingClientRect(), edge = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, edge - width - 4))}px`;
    tip.style.top = `${event.clientY > height + 24 ? event.clientY - height - 12 : event.clientY + 18}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show); // a finger only taps
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", () => {
    if (last.mark && !document.elementsFromPoint(last.x, last.y).includes(last.mark)) hide();
  }, {capture: true, passive: true});
}

// A table that scrolls can be scrolled by the keyboard; one that does not is no stop on the way through the page.
function reachable() {
  const watch = new ResizeObserver(seen => seen.forEach(({target}) => {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }));
  document.querySelectorAll(".scroll").forEach(each => {
    each.removeAttribute("tabindex");
    watch.observe(each);
  });
}

// What is folded is printed: style alone unfolds it in some browsers only.
function unfoldedOnPaper() {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach(each => { each.open = true; });
  });
  addEventListener("afterprint", () => folded.splice(0).forEach(each => { each.open = false; }));
}

filtered(document.getElementById("cases-judged"));
document.querySelectorAll("table.sortable").forEach(each => { if (!each.closest("#cases-judged")) sortable(each); });
pointed();
reachable();
unfoldedOnPaper();
