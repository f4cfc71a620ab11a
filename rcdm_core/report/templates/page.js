// Of every page: tables sort by a click on a column's head, and pictures enlarge. Without it the page reads the same.
(() => {
  "use strict";
  document.documentElement.classList.add("js");

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // what a cell is sorted by: a number where it begins with one, else its text; null for a dash and for nothing
  function keyOf(cell) {
    let text = cell.textContent.trim();
    if (!text) text = cell.querySelector("svg[aria-label]")?.getAttribute("aria-label") ?? "";
    text = text.replaceAll("\u2212", "-").trim();
    if (!text || /^[-\u2013\u2014]$/.test(text)) return null;
    const number = text.match(/^[<>~\u2264\u2265]?\s*([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])/i);
    return number ? Number(number[1]) : text;
  }

  const rank = (key) => (key === null ? 2 : typeof key === "string" ? 1 : 0); // numbers, texts, what is missing

  function sort(table, heads, column, original) {
    const head = heads[column];
    const next = { ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
    const direction = next === undefined ? "ascending" : next;
    for (const other of heads) other.removeAttribute("aria-sort");
    if (direction) head.setAttribute("aria-sort", direction);
    table.classList.toggle("sorted", direction !== null);
    const sign = direction === "descending" ? -1 : 1;
    const rows = original.map((row) => ({ row, key: keyOf(row.cells[column]) }));
    if (direction)
      rows.sort((a, b) => {
        if (rank(a.key) !== rank(b.key)) return rank(a.key) - rank(b.key);
        if (a.key === null) return 0;
        return sign * (typeof a.key === "number" ? a.key - b.key : collator.compare(a.key, b.key));
      });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }

  for (const table of document.querySelectorAll("table:not(.pictures)")) {
    const original = [...(table.tBodies[0]?.rows ?? [])];
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
    const even = original.every((row) => row.cells.length === heads.length);
    if (original.length < 2 || !even || heads.some((head) => head.colSpan > 1)) continue;
    heads.forEach((head, column) => {
      const parts = [...head.childNodes].filter((node) => !node.classList?.contains("scale"));
      if (!parts.some((node) => node.textContent.trim())) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.title = "Sort by this column";
      head.prepend(button);
      button.append(...parts);
      button.addEventListener("click", () => sort(table, heads, column, original));
    });
  }

  // pictures: a click, Enter or the space bar enlarges; arrows go to the others, Escape or a click goes back
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.innerHTML = '<button type="button" aria-label="Close">\u00d7</button><img alt=""><p></p>';
  document.body.append(dialog);
  const [large, words] = [dialog.querySelector("img"), dialog.querySelector("p")];
  let current = null;

  const pictures = [...document.querySelectorAll("img[tabindex]")];
  const groupOf = (picture) => picture.closest("table, figure") ?? picture;
  const groups = new Map();
  for (const picture of pictures) {
    const group = groupOf(picture);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(picture);
    picture.tabIndex = groups.get(group)[0] === picture ? 0 : -1; // one stop of the tab key for all of a group
    picture.setAttribute("role", "button");
    picture.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
    picture.addEventListener("click", () => show(picture));
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") show(picture);
      else if (event.key.startsWith("Arrow")) beside(picture, event.key)?.focus();
      else return;
      event.preventDefault();
    });
  }

  // the picture to the left or right, or the one at the same place of the row above or below
  function beside(picture, arrow) {
    const group = groups.get(groupOf(picture));
    if (arrow === "ArrowLeft" || arrow === "ArrowRight")
      return group[group.indexOf(picture) + (arrow === "ArrowRight" ? 1 : -1)];
    const row = picture.closest("tr");
    const other = arrow === "ArrowDown" ? row?.nextElementSibling : row?.previousElementSibling;
    if (!other) return undefined;
    const [here, there] = [row, other].map((one) => [...one.querySelectorAll("img[tabindex]")]);
    return there[Math.min(here.indexOf(picture), there.length - 1)];
  }

  function show(picture) {
    current = picture;
    large.src = picture.src;
    large.alt = picture.alt;
    const caption = picture.nextElementSibling?.matches("small") ? picture.nextElementSibling.textContent : "";
    const row = picture.closest("tr")?.querySelector("th")?.textContent.trim().replace(/\s+/g, " ");
    words.textContent = [row, picture.alt, caption].filter(Boolean).join(" \u00b7 ");
    const [width, height] = [picture.naturalWidth || 1, picture.naturalHeight || 1];
    const fits = Math.min((0.94 * innerWidth) / width, (0.84 * innerHeight) / height);
    const scale = Math.max(fits, 1, 160 / height); // a strip of samples, and a chart, are scrolled
    large.style.width = `${Math.round(scale * width)}px`;
    if (!dialog.open) dialog.showModal();
  }

  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => current?.focus());
  dialog.addEventListener("keydown", (event) => {
    const other = event.key.startsWith("Arrow") ? beside(current, event.key) : undefined;
    if (!other) return;
    event.preventDefault();
    show(other);
  });

  // on paper nothing is folded
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => folded.splice(0).forEach((one) => (one.open = false)));
})();
