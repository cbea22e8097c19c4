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
    for (const td of document.querySelectorAll("td[data-cell]")) counts[td.dataset.verdict] = (counts[td.dataset.verdict] || 0) + 1;
    for (const b of form.querySelectorAll("[data-count]")) b.textContent = counts[b.dataset.count] || 0;
  };
  // rows and pairs without any record are shown only on request
  const shown = (node) => form.elements.blank.checked || !node.classList.contains("blank");
  const setTabStop = (section) => {
    // Tab reaches one button of a table; it must be one that the filters still show
    const all = [...section.querySelectorAll("td[data-cell] button")], left = all.filter((b) => !b.closest("tr").hidden && !b.closest("td").classList.contains("off") && shown(b.closest("td")));
    const now = all.find((b) => b.tabIndex === 0), next = left.includes(now) ? now : left[0];
    for (const b of all) b.tabIndex = b === next ? 0 : -1;
  };
  const filter = () => {
    const f = new FormData(form), verdicts = new Set(f.getAll("verdict"));
    const [table, pair, method] = [f.get("table"), f.get("pair"), f.get("method").trim().toLowerCase()];
    let matches = 0;
    document.body.dataset.view = f.get("view");
    document.body.classList.toggle("with-blanks", form.elements.blank.checked);
    if (f.get("theme")) document.documentElement.dataset.theme = f.get("theme"); else delete document.documentElement.dataset.theme;
    for (const section of document.querySelectorAll("section.table[data-table]")) {
      let inSection = 0;
      for (const row of section.querySelectorAll("tbody tr[data-method]")) {
        let inRow = 0;
        for (const td of row.querySelectorAll("td[data-cell]")) {
          const on = verdicts.has(td.dataset.verdict) && (!pair || td.dataset.pair === pair);
          td.classList.toggle("off", !on);
          if (on && shown(td)) inRow += 1;
        }
        row.hidden = inRow === 0 || ("blank" in row.dataset && !form.elements.blank.checked) || (method !== "" && !row.dataset.method.includes(method));
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
    div.append(columns);
    if (done.length) {
      const plots = make("div", null, { class: "plots" });
      plots.append(...curves(c, done));
      div.append(plots);
    }
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
    return [["test_acc", "Test top-1 (%)"], ["train_loss", "Train loss (mean of the total)"]].map(([field, title]) => {
      const lines = runs.map((r) => ({ curve: r.curve, css: "mine" }));
      for (const curve of Object.values(theirs)) lines.push({ curve, css: "theirs" });
      const shown = Object.keys(theirs).length ? `${title}; dashed: published (${Object.keys(theirs).join(", ")})` : title;
      return part(shown, plot(lines, field));
    });
  };
  const niceTicks = (low, high, most, least) => {
    // round numbers (1, 2 or 5 times a power of ten, at least `least` apart) that reach over both ends
    const raw = Math.max((high - low) / most, least, 1e-9), power = 10 ** Math.floor(Math.log10(raw) + 1e-9);
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw * (1 - 1e-9));
    const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
    return { step, values: Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12))) };
  };
  const plot = (lines, field) => {
    const [width, height, left, right, top, bottom] = [520, 240, 44, 16, 10, 36];
    const points = lines.flatMap((l) => l.curve.epoch.map((e, i) => [e, (l.curve[field] || [])[i]])).filter((p) => p[1] !== null && p[1] !== undefined);
    const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": field + " by epoch" });
    if (!points.length) return svg;
    const xs = niceTicks(0, Math.max(...points.map((p) => p[0])), 6, 1), ys = niceTicks(Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1])), 5, 0.001);
    const [x1, y0, y1] = [xs.values.at(-1), ys.values[0], ys.values.at(-1)], digits = Math.max(0, -Math.floor(Math.log10(ys.step) + 1e-9));
    const x = (e) => left + (e / x1) * (width - left - right), y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - top);
    for (const v of ys.values) svg.append(svgNode("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "rule" }), svgNode("text", { x: left - 6, y: y(v) + 3, "text-anchor": "end", class: "tick" }, v.toFixed(digits)));
    for (const e of xs.values) svg.append(svgNode("text", { x: x(e), y: height - bottom + 15, "text-anchor": "middle", class: "tick" }, e));
    svg.append(svgNode("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", class: "tick" }, "epoch"));
    for (const l of lines) {
      const path = l.curve.epoch.map((e, i) => [e, (l.curve[field] || [])[i]]).filter((p) => p[1] !== null && p[1] !== undefined).map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`);
      svg.append(svgNode("polyline", { points: path.join(" "), class: l.css }));
    }
    return svg;
  };

  // --- keys: Tab reaches one button of a table, arrow keys move between its cells -----------------------------------------------------------------
  for (const grid of document.querySelectorAll("table.grid")) {
    grid.addEventListener("click", (event) => {
      const td = event.target.closest("td[data-cell]");
      if (!td) return;
      const button = td.querySelector("button");
      toggle(button);
      focus(grid, button);
    });
    grid.addEventListener("keydown", (event) => {
      const button = event.target.closest("td[data-cell] button");
      if (event.key === "Escape") {
        const row = event.target.closest("tr.detail")?.previousElementSibling || event.target.closest("tr");
        const opened = row.querySelector('button[aria-expanded="true"]');
        if (opened) { toggle(opened); opened.focus(); }
        return;
      }
      if (!button || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      const rows = [...grid.querySelectorAll("tbody tr[data-method]")].filter((r) => !r.hidden);
      const row = button.closest("tr"), stops = (r) => [...r.querySelectorAll("td[data-cell] button")].filter((b) => shown(b.closest("td"))), buttons = stops(row), at = buttons.indexOf(button);
      const down = { ArrowUp: -1, ArrowDown: 1 }[event.key] || 0, right = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0;
      const target = down ? rows[rows.indexOf(row) + down] && stops(rows[rows.indexOf(row) + down])[at] : buttons[at + right];
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
    opened = [...document.querySelectorAll("details:not([open]):not(.body)")];
    for (const d of opened) d.open = true;
  });
  window.addEventListener("afterprint", () => { for (const d of opened) d.open = false; });

  // --- a narrow window begins with the difference and folded filters; a card unfolds its table --------------------------------
  if (matchMedia("(max-width: 600px)").matches) {
    for (const radio of form.elements.view) radio.checked = radio.defaultChecked = radio.value === "delta";
    document.getElementById("fold").open = false;
  }
  const unfold = () => {
    const section = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const body = section && section.querySelector("details.body");
    if (body) { body.open = true; section.scrollIntoView(); }
  };
  window.addEventListener("hashchange", unfold);
  for (const card of document.querySelectorAll("a.card")) card.addEventListener("click", () => setTimeout(unfold));

  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  countVerdicts();
  filter();
  unfold();
  if (location.hash.startsWith("#cell=")) {
    const td = [...document.querySelectorAll("td[data-cell]")].find((d) => d.dataset.cell === decodeURIComponent(location.hash.slice(6)));
    if (td) { td.closest("details.body").open = true; toggle(td.querySelector("button")); td.scrollIntoView(); }
  }
  document.documentElement.dataset.ready = "yes";
})();
