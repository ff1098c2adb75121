// Charts: capacity over time and by layer, and scores. They return {svg, pick} as the other drawings do.

const percent = value => `${Math.round(value * 100)} %`;

function runLegend(page, palette, x, y) {
  let at = x, out = "";
  page.runs.forEach((run, r) => {
    out += line(at, y - 4, at + 16, y - 4, RUNS[r], 2.4) + text(at + 21, y, run.name, { fill: palette.ink });
    at += 38 + run.name.length * 6.4;
  });
  return out;
}

// --- the share of capacity that an eviction retained: over time, and by layer at a moment ---
function capacityFigure(page, state, palette, width) {
  const overTime = page.runs.some(run => run.evictions.length), layers = [...new Set(page.heads.map(([layer]) => layer))];
  if (!page.runs.some(run => run.nEvictions)) return null;
  const margin = { left: 52, right: 14, top: 30, bottom: 38 };
  const { boxes, height } = panels(overTime ? 2 : 1, width, 190, margin, 380);
  const series = page.runs.map(run => run.evictions.map(one => [one.read, one.capacity]));
  const byLayer = page.runs.map(run => run.layersAt(Math.min(state.moment, run.end)));
  const scaleOf = values => {
    const shown = values.filter(value => value !== null), least = Math.min(...shown), most = Math.max(1, ...shown);
    const low = Math.max(0, Math.floor((least - 0.02) * 20) / 20);
    return box => ({ low, most, place: value => box.y + box.h * (1 - (value - low) / (most - low)) });
  };
  let out = "", spots = [];
  if (overTime) {
    const box = boxes[0], { low, most, place } = scaleOf(series.flat().map(([, value]) => value))(box), n = page.runs[0].nTokens;
    const x = token => box.x + box.w * token / n;
    out += frame(palette, box, ticks(low, most, 5).map(place));
    out += axisLeft(palette, { ...box, values: ticks(low, most, 5), place, label: "capacity retained", say: percent, far: 42 });
    out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: ticks(0, n, box.w / 75), place: x, label: "tokens read before the eviction" });
    const now = page.runs[0].at(state.moment);
    if (now) out += line(x(now.read), box.y, x(now.read), box.y + box.h, palette.ink, 0.8, "2 2");
    series.forEach((points, r) => {
      const shown = points.filter(([, value]) => value !== null).map(([read, value]) => [x(read), place(value)]);
      out += path(shown, RUNS[r]) + shown.map(([px, py]) => dot(px, py, RUNS[r])).join("");
      points.forEach(([, value], i) => { if (value !== null) spots.push({ x: x(points[i][0]), y: place(value), run: page.runs[r], moment: i + 1, words: `eviction ${i + 1}: ${(value * 100).toFixed(1)} % retained` }); });
    });
    out += text(box.x, box.y - 10, "by eviction", { fill: palette.ink, size: 12, weight: 600 });
  }
  const box = boxes.at(-1), { low, most, place } = scaleOf(byLayer.flat())(box);
  const x = i => box.x + box.w * (i + 0.5) / layers.length, step = Math.max(1, Math.ceil(26 / (box.w / layers.length)));
  out += frame(palette, box, ticks(low, most, 5).map(place));
  out += axisLeft(palette, { ...box, values: ticks(low, most, 5), place, label: "capacity retained", say: percent, far: 42 });
  out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: layers.map((_, i) => i).filter(i => i % step === 0), place: x, label: "layer", say: i => layers[i] });
  out += text(box.x, box.y - 10, "by layer, at the eviction shown", { fill: palette.ink, size: 12, weight: 600 });
  byLayer.forEach((shares, r) => {
    const shown = shares.map((value, i) => [x(i), value]).filter(([, value]) => value !== null).map(([px, value]) => [px, place(value)]);
    out += path(shown, RUNS[r]) + shown.map(([px, py]) => dot(px, py, RUNS[r])).join("");
    shares.forEach((value, i) => { if (value !== null) spots.push({ x: x(i), y: place(value), run: page.runs[r], words: `layer ${layers[i]}: ${(value * 100).toFixed(1)} % retained` }); });
  });
  out += runLegend(page, palette, margin.left, height + 12);
  const pick = (px, py) => spots.map(spot => [Math.hypot(spot.x - px, spot.y - py), spot]).filter(([far]) => far < 12).sort(([a], [b]) => a - b)[0]?.[1] ?? null;
  return { svg: wrapSvg(palette, width, height + 22, out, "share of capacity that evictions retained"), pick };
}

function frame(palette, box, lines) {
  return lines.map(y => line(box.x, y, box.x + box.w, y, palette.line, 0.5)).join("") + line(box.x, box.y, box.x, box.y + box.h, palette.soft) +
    line(box.x, box.y + box.h, box.x + box.w, box.y + box.h, palette.soft);
}

// --- scores of one head's entries before the eviction ---
function scoreFigure(page, state, palette, width) {
  if (!page.runs.some(run => run.scores.some(Boolean))) return null;
  const margin = { left: 52, right: 14, top: 30, bottom: 38 };
  const { boxes, height } = panels(page.runs.length, width, 170, margin, 340);
  let out = "";
  page.runs.forEach((run, r) => {
    const box = boxes[r], scores = run.scoresAt(state.moment), h = state.head;
    out += text(box.x, box.y - 10, `${runTitle(run)}: ${headName(page, h)}`, { fill: palette.ink, size: 12, weight: 600 });
    if (!scores) {
      out += text(box.x, box.y + 20, "not recorded", { fill: palette.soft });
      return;
    }
    const low = scores.low[h], high = scores.high[h], n = scores.bins, w = box.w / n;
    const bars = [...Array(n).keys()].map(b => [scores.kept[h * n + b], scores.dropped[h * n + b]]);
    const most = Math.max(1, ...bars.map(([kept, dropped]) => kept + dropped)), y = count => box.y + box.h * (1 - count / most);
    const x = value => box.x + box.w * (value - low) / (high - low);
    out += frame(palette, box, ticks(0, most, 4).map(y));
    bars.forEach(([kept, dropped], b) => {
      const at = box.x + b * w + 0.5;
      out += rect(at, y(dropped), w - 1, y(0) - y(dropped), { fill: palette.dropped });
      out += rect(at, y(kept + dropped), w - 1, y(dropped) - y(kept + dropped), { fill: PARTS.chosen });
    });
    const edge = scores.edge[h];
    if (!Number.isNaN(edge)) {
      const at = Math.min(Math.max(x(edge), box.x), box.x + box.w);
      out += line(at, box.y - 4, at, box.y + box.h, palette.ink, 1, "3 2");
    }
    const say = value => scores.log ? `${Number((10 ** value).toPrecision(2))}` : `${Number(value.toPrecision(4))}`;
    out += axisBelow(palette, { x: box.x, y: box.y + box.h, w: box.w, values: ticks(low, high, box.w / 80), place: x, label: scores.log ? "score (logarithmic)" : "score", say });
    out += axisLeft(palette, { ...box, values: ticks(0, most, 4).filter(Number.isInteger), place: y, label: "entries", far: 42 });
  });
  const y = height + 12, atEnd = state.moment >= page.runs[0].end;
  out += rect(margin.left, y - 9, 12, 10, { fill: PARTS.chosen }) + text(margin.left + 17, y, atEnd ? "would stay" : "stay", { fill: palette.ink });
  out += rect(margin.left + 90, y - 9, 12, 10, { fill: palette.dropped }) + text(margin.left + 107, y, atEnd ? "would be evicted" : "evicted", { fill: palette.ink });
  out += line(margin.left + 214, y - 11, margin.left + 214, y + 2, palette.ink, 1, "3 2") + text(margin.left + 221, y, "lowest that stays", { fill: palette.ink });
  return { svg: wrapSvg(palette, width, height + 22, out, "scores of a head's entries"), pick: () => null };
}
