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
  // on paper nothing can be opened (the style sheet does it where the browser knows ::details-content)
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((item) => { item.open = false; }));

  // tooltip of what is under the pointer or has the focus
  const tip = byId("tip");
  let told = null;
  const place = () => {
    const box = told.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  const tell = (target) => {
    told = target;
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.dataset.tip;
    place();
  };
  const tellOf = (event) => tell(event.target.closest("[data-tip]"));
  document.addEventListener("mouseover", tellOf);
  document.addEventListener("focusin", tellOf);
  document.addEventListener("focusout", () => tell(null));
  // focusing scrolls: the tooltip of the focus goes along
  document.addEventListener("scroll", () => {
    if (told && told === document.activeElement) place();
    else tell(null);
  }, { passive: true, capture: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tell(null); });

  // one stop of the Tab key for each chart and table; arrow keys move inside
  const areas = all("table.heatmap, svg[role=group]");
  const visible = (item) => item.getClientRects().length > 0;
  const seat = (area, wanted) => all("[data-tip][tabindex]", area).forEach((item) => {
    item.setAttribute("tabindex", item === wanted ? "0" : "-1");
  });
  // what is hidden cannot be the stop: the next one that is shown takes its place
  const reseat = () => areas.forEach((area) => {
    const items = all("[data-tip][tabindex]", area);
    const now = items.find((item) => item.getAttribute("tabindex") === "0" && visible(item));
    seat(area, now || items.find(visible) || items[0]);
  });
  const move = (area, event) => {
    const row = document.activeElement.closest("tr");
    const columns = row ? all("[data-tip]", row).length : 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const items = all("[data-tip][tabindex]", area).filter(visible);
    const at = items.indexOf(document.activeElement);
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = items[at + steps[event.key]];
    if (!next) return;
    const name = row && row.querySelector("th");
    if (name) area.parentElement.style.scrollPaddingLeft = `${name.offsetWidth}px`;
    seat(area, next);
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
  };
  areas.forEach((area) => {
    seat(area, all("[data-tip][tabindex]", area)[0]);
    area.addEventListener("keydown", (event) => move(area, event));
  });
  all("details").forEach((item) => item.addEventListener("toggle", reseat));

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
    const focused = document.activeElement;
    body.append(...rows);
    if (body.contains(focused)) focused.focus();  // moving a row takes the focus away
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
    reseat();
    byId("shown").textContent = `${own.filter((row) => !row.hidden).length} of ${own.length} shown`;
  };
  byId("filter").addEventListener("input", filter);
  byId("safe").addEventListener("change", filter);

  // one of several alternatives is shown
  const choose = (select) => {
    all(`[data-group="${select.dataset.switch}"]`).forEach((item) => {
      item.hidden = item.dataset.value !== select.value;
    });
    reseat();
  };
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
    reseat();
  });
})();
