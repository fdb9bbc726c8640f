"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // colour scheme: automatic, light, dark
  const schemes = ["auto", "light", "dark"];
  byId("theme").addEventListener("click", (event) => {
    const root = document.documentElement;
    const next = schemes[(schemes.indexOf(root.dataset.theme || "auto") + 1) % schemes.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    event.currentTarget.textContent = `◐ ${next}`;
    event.currentTarget.setAttribute("aria-label", `Colour scheme: ${next === "auto" ? "automatic" : next}`);
  });
  byId("print").addEventListener("click", () => window.print());

  // tooltip
  const tip = byId("tip");
  const show = (event) => {
    const target = event.target.closest("[data-tip]");
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    const box = target.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // one stop of the Tab key for each chart and table; arrow keys move inside
  const move = (items, columns, event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const at = items.indexOf(document.activeElement);
    if (at < 0 || !(event.key in steps)) return;
    const next = items[at + steps[event.key]];
    event.preventDefault();
    if (!next) return;
    items[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
  all("table.heatmap, svg[role=group]").forEach((area) => {
    const cells = () => all("[data-tip][tabindex]", area).filter((cell) => cell.getClientRects().length);
    all("[data-tip][tabindex]", area).forEach((cell, i) => cell.setAttribute("tabindex", i ? "-1" : "0"));
    area.addEventListener("keydown", (event) => {
      const row = document.activeElement.closest("tr");
      move(cells(), row ? all("[data-tip]", row).length : 1, event);
    });
  });

  // sort by a heading; what is undefined stays at the end
  const sort = (button) => {
    const head = button.closest("th");
    const table = button.closest("table");
    const column = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.children[column].dataset.sort;
    const order = button.dataset.sortBy === "number" ? (a, b) => a - b : (a, b) => a.localeCompare(b);
    const body = table.querySelector("tbody.lines");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return down ? order(y, x) : order(x, y);
    });
    body.append(...rows);
  };
  all("[data-sort-by]").forEach((button) => button.addEventListener("click", () => sort(button)));

  // filter the rows of all heat maps over quantizations
  const filter = () => {
    const text = byId("filter").value.trim().toLowerCase();
    const rows = all("tr[data-name]");
    rows.forEach((row) => {
      const named = row.dataset.name.toLowerCase().includes(text);
      row.hidden = !named || (byId("safe").checked && row.dataset.safe === "no");
    });
    const own = rows.filter((row) => row.closest("#headline"));
    byId("shown").textContent = `${own.filter((row) => !row.hidden).length} of ${own.length} shown`;
  };
  byId("filter").addEventListener("input", filter);
  byId("safe").addEventListener("change", filter);

  // one of several alternatives is shown
  const choose = (select) => all(`[data-group="${select.dataset.switch}"]`).forEach((item) => {
    item.hidden = item.dataset.value !== select.value;
  });
  all("select[data-switch]").forEach((select) => {
    choose(select);
    select.addEventListener("change", () => choose(select));
  });
  const open = () => {
    const panel = location.hash.startsWith("#panel-") && byId(location.hash.slice(1));
    if (!panel) return;
    byId("run").value = panel.dataset.value;
    choose(byId("run"));
    panel.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();

  // legends hide and show the series of their figure
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-toggle]");
    if (!button) return;
    const on = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(on));
    const figure = button.closest("[data-group]:not(article)") || button.closest("figure");
    all("[data-series]", figure).filter((mark) => mark.dataset.series === button.dataset.toggle)
      .forEach((mark) => mark.classList.toggle("off", !on));
  });
})();
