// The drawings. Each takes the page, what is chosen, a palette and a width, and returns {svg, pick}: pick(x, y) says what is drawn at a
// place: {run, head, token, moment, words}, any of them left out.
const GAP = 26;

// n panels side by side, or one below the other where it is narrow: [{x, y, w, h}], and the size of the drawing
function panels(n, width, height, margin, least = 300) {
  const columns = Math.max(1, Math.min(n, Math.floor((width + GAP) / (least + GAP))));
  const w = (width - GAP * (columns - 1)) / columns;
  const boxes = [...Array(n).keys()].map(i => ({
    x: (i % columns) * (w + GAP) + margin.left,
    y: Math.floor(i / columns) * (height + margin.top + margin.bottom) + margin.top,
    w: w - margin.left - margin.right,
    h: height,
  }));
  return { boxes, height: Math.ceil(n / columns) * (height + margin.top + margin.bottom) };
}

const inside = (box, x, y) => x >= box.x && x < box.x + box.w && y >= box.y && y < box.y + box.h;
const headName = (page, h) => `layer ${page.heads[h][0]}, head ${page.heads[h][1]}`;
const runTitle = run => `${run.name}, budget ${number(run.budget)}`;

// the parts of the text at a moment, as a strip above a panel
function partsStrip(run, moment, box) {
  const x = token => box.x + box.w * token / run.nTokens, n = run.read(moment), tail = run.tail(moment) || n, y = box.y - 7;
  const part = (from, to, fill) => to > from ? rect(x(from), y, Math.max(x(to) - x(from), 1.5), 4, { fill }) : "";
  return part(0, n, PARTS.chosen) + part(0, Math.min(run.sink, n), PARTS.sinks) +
    run.pins.map(([from, to]) => part(from, Math.min(to, n), PARTS.pins)).join("") +
    (run.tail(moment) > 0 || run.evicted === 0 ? part(run.evicted ? tail : 0, n, PARTS.tail) : "");
}

// what the colours below a map are: the parts of the cache and the scale, on two lines where there is no room for both on one
function mapLegend(page, width, y, palette, title) {
  const narrow = width < 700;
  return {
    out: partsLegend(page, 46, y + 14, palette) + scaleLegend(page, width, y + (narrow ? 26 : 5), palette, title),
    height: y + (narrow ? 44 : 24),
  };
}

function partsLegend(page, x, y, palette) {
  const words = { sinks: "sinks", pins: "pinned", chosen: "chosen middle", tail: "exact tail" };
  let at = x, out = "";
  for (const [name, fill] of Object.entries(PARTS)) {
    if (name === "pins" && !page.runs.some(run => run.pins.length)) continue;
    out += rect(at, y - 7, 12, 5, { fill }) + text(at + 16, y, words[name], { fill: palette.soft, size: 10 });
    at += 30 + words[name].length * 5.3;
  }
  return out;
}

function scaleLegend(page, width, y, palette, title = "share of heads that hold it") {
  const w = Math.min(120, width / 5);
  return colourBar(palette, width - w - 34, y, w, t => mix(palette.scale, t), "0", "100 %", title);
}

const tokenTicks = (run, box) => ticks(0, run.nTokens, box.w / 75);

// --- which tokens each head holds: a row for each head, a column for each token or for some of them ---
function mapFigure(page, state, palette, width) {
  const nHeads = page.heads.length, rowHeight = Math.min(Math.max(Math.floor(330 / nHeads), 1), 9);
  const margin = { left: 46, right: 14, top: 34, bottom: 38 };
  const { boxes, height } = panels(page.runs.length, width, rowHeight * nHeads, margin, 420);
  let out = "";
  page.runs.forEach((run, r) => {
    const box = boxes[r], n = Math.min(run.nTokens, Math.floor(box.w));
    const rows = page.heads.map((_, h) => run.heldIn(h, state.moment, n));
    const place = token => box.x + box.w * token / run.nTokens;
    out += text(box.x, box.y - 14, runTitle(run), { fill: palette.ink, size: 12, weight: 600 });
    out += image(box.x, box.y, box.w, box.h, n, nHeads, (ix, iy) => shareColour(palette, rows[iy][ix]));
    out += rect(box.x, box.y, box.w, box.h, { stroke: palette.line }) + partsStrip(run, state.moment, box);
    const firsts = page.heads.map(([layer, head], h) => ({ layer, head, h })).filter(one => one.head === 0);
    const step = Math.max(1, Math.ceil(firsts.length / Math.max(box.h / 16, 1)));
    const shown = firsts.filter((_, i) => i % step === 0);
    out += axisLeft(palette, { ...box, values: shown.map(one => one.h), place: h => box.y + (h + 0.5) * rowHeight, label: "layer", say: h => page.heads[h][0] });
    out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: tokenTicks(run, box), place, label: "position" });
    const y = box.y + state.head * rowHeight;
    out += rect(box.x - 1, y - 1, box.w + 2, rowHeight + 2, { stroke: palette.ink, width: 1 });
    if (state.token >= 0) out += line(place(state.token + 0.5), box.y - 8, place(state.token + 0.5), box.y + box.h, palette.ink, 0.8, "2 2");
  });
  const legend = mapLegend(page, width, height, palette, "share of the tokens of a column");
  const pick = (x, y) => {
    const r = boxes.findIndex(box => inside(box, x, y));
    if (r < 0) return null;
    const run = page.runs[r], box = boxes[r], head = Math.floor((y - box.y) / rowHeight);
    const token = Math.floor((x - box.x) / box.w * run.nTokens);
    return { run, head, token };
  };
  return { svg: wrapSvg(palette, width, legend.height, out + legend.out, "positions that each KV head holds"), pick };
}

// --- what is left of each token, over time: a row for each moment ---
function timeFigure(page, state, palette, width) {
  const nRows = Math.max(...page.runs.map(run => run.end));
  if (nRows < 2) return null;
  const rowHeight = Math.min(Math.max(Math.floor(200 / nRows), 2), 12);
  const margin = { left: 46, right: 14, top: 34, bottom: 38 };
  const { boxes, height } = panels(page.runs.length, width, rowHeight * nRows, margin, 420);
  let out = "";
  page.runs.forEach((run, r) => {
    const box = boxes[r], n = Math.min(run.nTokens, Math.floor(box.w));
    const rows = [...Array(nRows).keys()].map(i => binned(run.share(i + 1), n));
    out += text(box.x, box.y - 14, runTitle(run), { fill: palette.ink, size: 12, weight: 600 });
    out += image(box.x, box.y, box.w, box.h, n, nRows, (ix, iy) => shareColour(palette, rows[iy][ix]));
    out += rect(box.x, box.y, box.w, box.h, { stroke: palette.line }) + partsStrip(run, state.moment, box);
    const step = Math.max(1, Math.ceil(nRows / Math.max(box.h / 16, 1)));
    const values = [...Array(nRows).keys()].filter(i => i % step === 0);
    out += axisLeft(palette, { ...box, values, place: i => box.y + (i + 0.5) * rowHeight, label: "after eviction", say: i => i + 1 < run.end ? i + 1 : "end" });
    out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: tokenTicks(run, box), place: t => box.x + box.w * t / run.nTokens, label: "position" });
    out += rect(box.x - 1, box.y + (Math.min(state.moment, run.end) - 1) * rowHeight - 1, box.w + 2, rowHeight + 2, { stroke: palette.ink });
  });
  const legend = mapLegend(page, width, height, palette);
  const pick = (x, y) => {
    const r = boxes.findIndex(box => inside(box, x, y));
    if (r < 0) return null;
    const run = page.runs[r], box = boxes[r], moment = Math.floor((y - box.y) / rowHeight) + 1;
    const token = Math.floor((x - box.x) / box.w * run.nTokens);
    const share = run.share(moment)[token];
    const when = moment < run.end ? `after eviction ${moment}` : "at the end";
    return { run, moment, token, words: Number.isNaN(share) ? `${when}: not read yet` : `${when}: held by ${Math.round(share * 100)} % of heads` };
  };
  return { svg: wrapSvg(palette, width, legend.height, out + legend.out, "share of heads that hold each token, after each eviction"), pick };
}

// --- layers by heads: a number for each head ---
const MEASURES = {
  early: { name: "entries held of the first half of the text", of: (run, h, m) => {
    const half = run.read(m) / 2;
    return run.positions(h, m).filter(i => i < half).length;
  }, say: value => number(value) },
  median: { name: "median position of the middle that the head chose", of: (run, h, m) => {
    const middle = run.positions(h, m).filter(i => i >= run.sink && i < (run.tail(m) || Infinity));
    return middle.length ? middle[Math.floor(middle.length / 2)] : NaN;
  }, say: value => number(Math.round(value)) },
  agree: { name: "share of the other heads that hold what the head chose", of: (run, h, m) => {
    const share = run.share(m), n = run.nHeads;
    const middle = run.positions(h, m).filter(i => i >= run.sink && i < (run.tail(m) || Infinity));
    return middle.length && n > 1 ? middle.reduce((sum, i) => sum + (share[i] * n - 1) / (n - 1), 0) / middle.length : NaN;
  }, say: value => `${Math.round(value * 100)} %` },
  token: { name: "heads that hold the chosen token", of: (run, h, m, token) => token < 0 ? NaN : run.holds(h, token, m) ? 1 : 0, say: value => value ? "held" : "evicted" },
};

function gridFigure(page, state, palette, width) {
  const layers = [...new Set(page.heads.map(([layer]) => layer))], nMost = Math.max(...page.heads.map(([, head]) => head)) + 1;
  const margin = { left: 46, right: 14, top: 22, bottom: 38 };
  const cell = Math.min(Math.max(Math.floor(110 / nMost), 9), 26);
  const { boxes, height } = panels(page.runs.length, width, cell * nMost, margin, 420);
  const measure = MEASURES[state.measure];
  const values = page.runs.map(run => page.heads.map((_, h) => measure.of(run, h, Math.min(state.moment, run.end), state.token)));
  const known = values.flat().filter(value => !Number.isNaN(value));
  let [low, high] = state.measure === "token" || !known.length ? [0, 1] : [Math.min(...known), Math.max(...known)];
  if (high === low) high = low + 1;
  let out = "";
  page.runs.forEach((run, r) => {
    const box = boxes[r], w = box.w / layers.length;
    out += text(box.x, box.y - 8, runTitle(run), { fill: palette.ink, size: 12, weight: 600 });
    page.heads.forEach(([layer, head], h) => {
      const value = values[r][h], fill = Number.isNaN(value) ? palette.unread : css(mix(palette.scale, (value - low) / (high - low)));
      const x = box.x + layers.indexOf(layer) * w, y = box.y + head * cell;
      out += rect(x + 0.5, y + 0.5, w - 1, cell - 1, { fill, stroke: palette.line, width: 0.6 });
    });
    const [layer, head] = page.heads[state.head];
    out += rect(box.x + layers.indexOf(layer) * w, box.y + head * cell, w, cell, { stroke: palette.ink, width: 2 });
    const step = Math.max(1, Math.ceil(26 / w));
    out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: layers.filter((_, i) => i % step === 0), place: one => box.x + (layers.indexOf(one) + 0.5) * w, label: "layer" });
    const everyHead = [...Array(nMost).keys()].filter(i => i % Math.max(1, Math.ceil(13 / cell)) === 0);
    out += axisLeft(palette, { ...box, values: everyHead, place: i => box.y + (i + 0.5) * cell, label: "KV head" });
  });
  const bar = Math.min(120, width / 5);
  out += colourBar(palette, width - bar - 60, height + 5, bar, t => mix(palette.scale, t), measure.say(low), measure.say(high), width < 700 ? "" : measure.name);
  const pick = (x, y) => {
    const r = boxes.findIndex(box => inside(box, x, y));
    if (r < 0) return null;
    const box = boxes[r], layer = layers[Math.floor((x - box.x) / box.w * layers.length)], head = Math.floor((y - box.y) / cell);
    const h = page.heads.findIndex(([l, k]) => l === layer && k === head);
    if (h < 0) return null;
    const value = values[r][h];
    return { run: page.runs[r], head: h, words: `${measure.name}: ${Number.isNaN(value) ? "none" : measure.say(value)}` };
  };
  return { svg: wrapSvg(palette, width, height + 24, out, measure.name), pick };
}
