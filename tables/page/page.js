"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const make = (tag, text, attributes) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    for (const [k, v] of Object.entries(attributes || {})) node.setAttribute(k, v);
    return node;
  };
  const svgNode = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // --- filters ------------------------------------------------------------------------------------------------------
  const countVerdicts = () => {
    const counts = {};
    for (const td of document.querySelectorAll("td.g-delta")) counts[td.dataset.verdict] = (counts[td.dataset.verdict] || 0) + 1;
    for (const b of form.querySelectorAll("[data-count]")) b.textContent = counts[b.dataset.count] || 0;
  };
  const setTabStop = (section) => {
    // Tab reaches one button of a table; it must be one that the filters still show
    const all = [...section.querySelectorAll("td.g-delta button")], left = all.filter((b) => !b.closest("tr").hidden && !b.closest("td").classList.contains("off"));
    const now = all.find((b) => b.tabIndex === 0), next = left.includes(now) ? now : left[0];
    for (const b of all) b.tabIndex = b === next ? 0 : -1;
  };
  const filter = () => {
    const f = new FormData(form), verdicts = new Set(f.getAll("verdict"));
    const [table, pair, method] = [f.get("table"), f.get("pair"), f.get("method").trim().toLowerCase()];
    let matches = 0;
    document.body.dataset.view = f.get("view");
    if (f.get("theme")) document.documentElement.dataset.theme = f.get("theme"); else delete document.documentElement.dataset.theme;
    for (const section of document.querySelectorAll("section.table[data-table]")) {
      let inSection = 0;
      for (const row of section.querySelectorAll("tbody tr[data-method]")) {
        let inRow = 0;
        for (const td of row.querySelectorAll("td[data-cell]")) {
          const on = verdicts.has(td.dataset.verdict) && (!pair || td.dataset.pair === pair);
          td.classList.toggle("off", !on);
          if (on && td.classList.contains("g-delta")) inRow += 1;
        }
        row.hidden = inRow === 0 || (method !== "" && !row.dataset.method.includes(method));
        if (row.hidden) closeAfter(row); else inSection += inRow;
      }
      setTabStop(section);
      for (const figure of section.querySelectorAll("figure[data-pair]")) figure.hidden = pair !== "" && figure.dataset.pair !== pair;
      section.hidden = (table !== "" && section.dataset.table !== table) || inSection === 0;
      if (!section.hidden) matches += inSection;
    }
    document.getElementById("matches").value = matches + (matches === 1 ? " cell" : " cells");
  };

  // --- a cell's details -----------------------------------------------------------------------------------------------
  const closeAfter = (row) => {
    const next = row.nextElementSibling;
    if (next && next.classList.contains("detail")) next.remove();
    for (const b of row.querySelectorAll("button")) b.setAttribute("aria-expanded", "false");
  };
  const toggle = (button) => {
    const row = button.closest("tr"), open = button.getAttribute("aria-expanded") === "true";
    closeAfter(row);
    if (open) return;
    button.setAttribute("aria-expanded", "true");
    const detail = make("tr", null, { class: "detail" });
    const td = make("td", null, { colspan: String(row.children.length) });
    td.append(panel(data.cells[button.closest("td").dataset.cell], button));
    detail.append(td);
    row.after(detail);
  };
  const table = (heads, rows) => {
    const t = make("table"), head = make("tr");
    for (const h of heads) head.append(make("th", h, { scope: "col" }));
    t.append(make("thead"), make("tbody"));
    t.tHead.append(head);
    for (const r of rows) {
      const tr = make("tr");
      for (const x of r) tr.append(make("td", x === null || x === undefined ? "" : x));
      t.tBodies[0].append(tr);
    }
    return t;
  };
  const list = (pairs) => {
    const dl = make("dl");
    for (const [k, v] of pairs) if (v !== "" && v !== null && v !== undefined) dl.append(make("dt", k), make("dd", v));
    return dl;
  };
  const signed = (x) => { const text = x.toFixed(2).replace("-0.00", "0.00"); return Number(text) > 0 ? "+" + text : text; };
  const fixed = (x, n) => (x === null || x === undefined ? "" : x.toFixed(n));
  const duration = (s) => (s === null ? "" : s < 90 ? s.toFixed(1) + " s" : s < 5400 ? (s / 60).toFixed(1) + " min" : (s / 3600).toFixed(2) + " h");
  const part = (title, node) => {
    const div = make("div");
    div.append(make("h4", title), node);
    return div;
  };
  const panel = (c, button) => {
    const div = make("div", null, { class: "panel", role: "region", "aria-label": "details" });
    const close = make("button", "Close", { type: "button", class: "close" });
    close.addEventListener("click", () => { toggle(button); button.focus(); });
    const rule = { last: "last epoch", best: "best epoch (chosen on the test set)", both: "not known: last and best are both judged" }[c.rule];
    div.append(close, make("h3", `${c.label}, ${c.pair.replace(":", " → ")}: ${c.verdict}`));
    if (c.reason) div.append(make("p", c.reason));
    const columns = make("div", null, { class: "columns" });
    columns.append(part("Comparison", list([
      ["method", `${c.method}, protocol ${c.protocol}`], ["epoch that counts", rule], ["regenerated, last", c.last], ["regenerated, best (on the test set)", c.best],
      ["seeds done", `${c.n} of ${c.seeds}`], ["published", c.published === null ? "not published" : c.published],
      ["published n", c.published === null ? "" : c.published_n === null ? "not stated" : c.published_n], ["difference", c.delta === null ? "" : signed(c.delta)],
      ["90% interval of the difference", c.interval], ["p, adjusted over the table", c.adjusted_p === null ? "" : c.adjusted_p.toPrecision(2)],
      ["seeds that would decide", c.verdict === "undecided" ? (c.needed === null ? "no number of ours" : `${c.needed} (optimistic)`) : ""],
      ["verdict with a larger tau", c.with_wide_tau === c.verdict ? "" : c.with_wide_tau], ["assumed", c.assumed.join("; ")], ["notes", c.notes.join("; ")],
    ])));
    columns.append(part("Provenance of the published number", list([["published in", c.published_in || "–"], ["origin", c.origin], ["source", c.source]])));
    const done = c.runs.filter((r) => r.curve);
    if (done.length) columns.append(...curves(c, done));
    div.append(columns);
    if (c.runs.length) div.append(part("Runs", table(
      ["seed", "state", "last", "best", "best at epoch", "time", "share of the pack", "images/s", "device", "teacher top-1", "commit", "torch", "finished", "key"],
      c.runs.map((r) => [r.seed, r.state + (r.origin === "reference" ? " (reference)" : "") + (r.reason ? ": " + r.reason : ""), fixed(r.last, 2), fixed(r.best, 2), fixed(r.best_epoch, 0),
        duration(r.seconds), duration(r.share_seconds), fixed(r.images_per_second, 0), r.device ? `${r.device}, ${r.precision}, ${fixed(r.threads, 0)} thread${r.threads === 1 ? "" : "s"}` : "", fixed(r.teacher_top1, 2),
        r.commit.slice(0, 10), r.torch, r.finished, r.key]))));
    const teachers = [...new Set(c.runs.map((r) => r.teacher_key).filter(Boolean))];
    if (teachers.length) div.append(make("p", "Teacher: " + teachers.join(", "), { class: "meta" }));
    const verdicts = c.runs.flatMap((r) => (r.curve_verdicts || []).map((v) => [r.seed, v.run, v.epochs ? "1 to " + v.epochs : "", v.verdict, v.reason]));
    if (verdicts.length) div.append(part("Curve compared with published curves", table(["seed", "published run", "epochs", "verdict", ""], verdicts)));
    if (c.paired.length) div.append(part("Compared with the other methods of this column, paired by seed", table(
      ["minus", "seeds", "difference", "95% interval", "seeds needed to decide"], c.paired.map((p) => [p.label, p.n, p.mean, p.interval, p.needed]))));
    const settings = Object.entries(c.settings);
    if (settings.length) {
      const fold = make("details");
      fold.append(make("summary", "Hyper-parameters"), list(settings.map(([k, v]) => [k, String(v)])));
      div.append(fold);
    }
    return div;
  };

  // --- curves ------------------------------------------------------------------------------------------------------------
  const curves = (c, runs) => {
    const theirs = c.curves ? data.published_curves[c.curves] : {};
    return [["test_acc", "Test top-1 (%) by epoch"], ["train_loss", "Train loss (mean of the total) by epoch"]].map(([field, title]) => {
      const lines = runs.map((r) => ({ curve: r.curve, css: "mine" }));
      for (const curve of Object.values(theirs)) lines.push({ curve, css: "theirs" });
      const shown = Object.keys(theirs).length ? `${title}; dashed: published (${Object.keys(theirs).join(", ")})` : title;
      return part(shown, plot(lines, field));
    });
  };
  const plot = (lines, field) => {
    const [width, height, left, bottom] = [420, 200, 44, 20];
    const points = lines.flatMap((l) => l.curve.epoch.map((e, i) => [e, (l.curve[field] || [])[i]])).filter((p) => p[1] !== null && p[1] !== undefined);
    const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": field + " by epoch" });
    if (!points.length) return svg;
    const [x0, x1] = [1, Math.max(2, ...points.map((p) => p[0]))];
    let [y0, y1] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
    if (y0 === y1) [y0, y1] = [y0 - 1, y1 + 1];
    const x = (e) => left + ((e - x0) / (x1 - x0)) * (width - left - 8), y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - 8);
    for (let i = 0; i <= 4; i += 1) {
      const v = y0 + ((y1 - y0) * i) / 4;
      svg.append(svgNode("line", { x1: left, x2: width - 8, y1: y(v), y2: y(v), class: "rule" }), svgNode("text", { x: left - 5, y: y(v) + 3, "text-anchor": "end", class: "tick" }, v.toPrecision(3)));
    }
    for (const e of [...new Set([x0, Math.round((x0 + x1) / 2), x1])]) svg.append(svgNode("text", { x: x(e), y: height - 5, "text-anchor": "middle", class: "tick" }, e));
    for (const l of lines) {
      const path = l.curve.epoch.map((e, i) => [e, (l.curve[field] || [])[i]]).filter((p) => p[1] !== null && p[1] !== undefined).map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`);
      svg.append(svgNode("polyline", { points: path.join(" "), class: l.css }));
    }
    return svg;
  };

  // --- keys: Tab reaches one button of a table, arrow keys move between its cells -----------------------------------------------------------------
  for (const grid of document.querySelectorAll("table.grid")) {
    for (const row of grid.rows) for (const g of ["ours", "published", "delta"]) row.querySelector(`.g-${g}`)?.classList.add("g-first");
    grid.addEventListener("click", (event) => {
      const td = event.target.closest("td[data-cell]");
      if (!td) return;
      const button = [...td.parentElement.querySelectorAll("td.g-delta")].find((d) => d.dataset.cell === td.dataset.cell).querySelector("button");
      toggle(button);
      focus(grid, button);
    });
    grid.addEventListener("keydown", (event) => {
      const button = event.target.closest("td.g-delta button");
      if (event.key === "Escape") {
        const row = event.target.closest("tr.detail")?.previousElementSibling || event.target.closest("tr");
        const opened = row.querySelector('button[aria-expanded="true"]');
        if (opened) { toggle(opened); opened.focus(); }
        return;
      }
      if (!button || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      const rows = [...grid.querySelectorAll("tbody tr[data-method]")].filter((r) => !r.hidden);
      const row = button.closest("tr"), buttons = [...row.querySelectorAll("button")], at = buttons.indexOf(button);
      const down = { ArrowUp: -1, ArrowDown: 1 }[event.key] || 0, right = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0;
      const target = down ? rows[rows.indexOf(row) + down]?.querySelectorAll("td.g-delta button")[at] : buttons[at + right];
      if (target) focus(grid, target);
    });
  }
  const focus = (grid, button) => {
    for (const b of grid.querySelectorAll('tbody button[tabindex="0"]')) b.tabIndex = -1;
    button.tabIndex = 0;
    button.focus();
  };

  // --- print: unfold the notes that a table refers to, so that they are on the paper too ------------------------------------------------
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const d of opened) d.open = true;
  });
  window.addEventListener("afterprint", () => { for (const d of opened) d.open = false; });

  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  countVerdicts();
  filter();
  if (location.hash.startsWith("#cell=")) {
    const td = [...document.querySelectorAll("td.g-delta")].find((d) => d.dataset.cell === decodeURIComponent(location.hash.slice(6)));
    if (td) { toggle(td.querySelector("button")); td.scrollIntoView(); }
  }
  document.documentElement.dataset.ready = "yes";
})();
