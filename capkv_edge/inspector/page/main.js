// What is chosen, and what follows from it.

const FIGURES = [
  { id: "map", title: "Which tokens each head holds", draw: mapFigure,
    caption: "A row for each KV head, a column for each token (for several, where there are more tokens than pixels). The strip above says what part of the cache the tokens are in. Click a row to choose its head." },
  { id: "time", title: "What is left of each token over time", draw: timeFigure,
    caption: "A row for each eviction, from the first one on top: the share of KV heads that hold each token right after it. Grey was not read yet. Click a row to go there." },
  { id: "heads", title: "Layers and heads", draw: gridFigure, measures: true,
    caption: "Each KV head keeps equally many entries, but not the same ones. Click a head to choose it, click a token in the text to see which heads hold it." },
  { id: "capacity", title: "Capacity retained", draw: capacityFigure,
    caption: "The share of the values' capacity, ½ log det(I + Σ wᵢ vᵢ vᵢᵀ / ridge), that an eviction retained, under each policy's own weights w. A policy without weights has equal ones, so compare evictions and layers of one policy rather than policies." },
  { id: "scores", title: "Scores of the chosen head", draw: scoreFigure,
    caption: "" },
];

const page = JSON.parse(document.getElementById("data").textContent);
const state = { moment: 1, shade: "all", head: 0, token: -1, measure: "early" };
const dark = matchMedia("(prefers-color-scheme: dark)");
const find = id => document.getElementById(id);
let palette = LIGHT, boxes = [], drawn = [], timer = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, attributes);
  element.append(...children);
  return element;
}

// a figure with its buttons; svg(): what is saved
function addFigure(id, title, body, svg, ...more) {
  const button = (name, format) => make("button", { type: "button", textContent: name, title: `save as ${name}`, onclick: () => format(`capkv-${id}`, svg()) });
  const head = make("div", { className: "head" }, make("h2", { textContent: title }), ...more, button("SVG", saveSvg), button("PNG", savePng));
  const caption = make("figcaption");
  const figure = make("figure", { id }, head, caption, body);
  document.querySelector("main").append(figure);
  return { figure, caption };
}

function addText() {
  boxes = page.runs.map((run, i) => new TextBox(page, run, i));
  const columns = make("div", { className: "columns" }, ...boxes.map(one => one.root));
  const { caption } = addFigure("text", "The text", columns, () => textSvg(boxes, LIGHT, state));
  const legend = make("span", { className: "legend" });
  caption.append(legend);
  for (const one of boxes) { // the texts scroll together: the same line is next to itself
    one.box.addEventListener("scroll", () => boxes.forEach(other => { if (other !== one && Math.abs(other.box.scrollTop - one.box.scrollTop) > 1) other.box.scrollTop = one.box.scrollTop; }));
    one.box.addEventListener("click", event => { if (event.target.dataset.i) choose({ token: Number(event.target.dataset.i), measure: "token" }); });
    one.box.addEventListener("pointermove", event => tip(event, event.target.dataset.i ? { run: one.run, token: Number(event.target.dataset.i) } : null));
    one.box.addEventListener("pointerleave", () => tip());
  }
  return () => { legend.innerHTML = textLegend(page, state); };
}

function addDrawing(spec) {
  const body = make("div", { className: "drawing" }), more = [];
  if (spec.measures) {
    const select = make("select", { id: "measure", onchange: () => choose({ measure: select.value }) }, ...Object.entries(MEASURES).map(([value, one]) => make("option", { value, textContent: one.name })));
    select.setAttribute("aria-label", "what is shown of each head");
    more.push(select);
  }
  const { figure, caption } = addFigure(spec.id, spec.title, body, () => spec.draw(page, state, LIGHT, body.clientWidth || 900).svg, ...more);
  caption.textContent = spec.caption;
  let pick = () => null;
  const at = event => {
    const frame = body.firstChild.getBoundingClientRect(), ratio = body.firstChild.viewBox.baseVal.width / frame.width;
    return pick((event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio);
  };
  body.addEventListener("pointermove", event => tip(event, at(event)));
  body.addEventListener("pointerleave", () => tip());
  body.addEventListener("click", event => {
    const found = at(event);
    if (!found) return;
    const { head, moment } = found;
    choose({ ...(head === undefined ? {} : { head }), ...(moment === undefined ? {} : { moment }) });
    if (found.token !== undefined) reveal(found.token);
  });
  return () => {
    const result = spec.draw(page, state, palette, Math.max(body.clientWidth, 300));
    figure.hidden = !result;
    if (!result) return;
    body.innerHTML = result.svg;
    body.classList.toggle("pickable", spec.id !== "scores");
    pick = result.pick;
    if (spec.measures) find("measure").value = state.measure;
    if (spec.id === "scores") caption.textContent = scoreCaption();
  };
}

function scoreCaption() {
  const atEnd = state.moment >= page.runs[0].end;
  const when = atEnd ? "at the end, and what an eviction would do there" : `right before eviction ${state.moment}`;
  return `The policy's scores of the entries that the head may choose from, ${when}: all but the sinks, the exact tail's last tokens and pins. ` +
    "The first and the last bar also count the one entry in a hundred that lies beyond.";
}

function reveal(token) {
  for (const one of boxes) one.box.scrollTop += one.spans[token].getBoundingClientRect().top - one.box.getBoundingClientRect().top - 60;
}

function tip(event, found = null) {
  const box = find("tip");
  box.hidden = !found;
  if (!found) return;
  const { run, head, token, words } = found, parts = [];
  if (page.runs.length > 1 && run) parts.push(run.name);
  if (head !== undefined) parts.push(headName(page, head));
  if (token !== undefined) parts.push(tokenWords(run, token, words));
  if (words) parts.push(words);
  box.textContent = parts.join(" · ");
  box.style.left = `${Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${event.clientY + 18 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : event.clientY + 18}px`;
}

function tokenWords(run, token, isSaid) {
  const name = `position ${number(token)} ${JSON.stringify(page.text[token])}`;
  if (isSaid) return name;
  const share = run.share(state.moment)[token];
  if (Number.isNaN(share)) return `${name}: not read yet`;
  const pinned = run.isPinned(token) ? ", pinned" : "";
  return `${name}: held by ${Math.round(share * run.nHeads)} of ${run.nHeads} heads${pinned}`;
}

const updates = [];
let waiting = 0;
function choose(changes) {
  Object.assign(state, changes);
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; update(); });
}

function update() {
  const first = page.runs[0], end = Math.max(...page.runs.map(run => run.end)), [layer, head] = page.heads[state.head];
  find("moment").value = state.moment;
  find("says").textContent = state.moment < end ? `${state.moment} of ${end - 1}: ${number(first.read(state.moment))} tokens read` : `the end: all ${number(first.nTokens)} tokens read`;
  find("shade").value = state.shade;
  find("layer").value = layer;
  const heads = page.heads.filter(([other]) => other === layer).map(([, one]) => one);
  find("head").replaceChildren(...heads.map(one => make("option", { value: one, textContent: one })));
  find("head").value = head;
  find("token").textContent = state.token < 0 ? "" : `token ${number(state.token)} ${JSON.stringify(page.text[state.token])}`;
  for (const one of boxes) one.show(state);
  for (const one of updates) one();
}

function recolour(only = null) {
  palette = only ?? (dark.matches ? DARK : LIGHT);
  document.documentElement.classList.toggle("dark", palette === DARK);
  find("shading").textContent = shadingRules(palette);
}

function addTable() {
  for (const run of page.runs) {
    if (!run.evictions.length) continue;
    const names = ["eviction", "tokens read", "entries before", "dropped", "exact tail from", "capacity", "scores, ms", "choice, ms", "compaction, ms"];
    const rows = run.evictions.map((one, i) => [i + 1, one.read, one.used, one.dropped, one.tail, one.capacity === null ? "" : `${(one.capacity * 100).toFixed(1)} %`, ...one.ms.map(ms => ms.toFixed(1))]);
    const cells = (tag, values) => make("tr", {}, ...values.map(value => make(tag, { textContent: typeof value === "number" ? number(value) : value })));
    const table = make("table", {}, make("thead", {}, cells("th", names)), make("tbody", {}, ...rows.map(row => cells("td", row))));
    document.querySelector("main").append(make("figure", {}, make("details", {}, make("summary", { textContent: `The ${run.evictions.length} evictions of ${run.name}, of each KV head` }), make("div", { className: "scroll" }, table))));
  }
}

function introduce() {
  const first = page.runs[0], n = number(first.nTokens), isSession = !first.evictions.length && first.nEvictions > 0;
  const what = first.nEvictions ? `Of ${n} tokens each KV head holds ${number(first.used)}` : `All ${n} tokens are held: the cache was never full`;
  find("lead").textContent = first.nEvictions ? `${what}: the first ${first.sink}, the last ones, and between them those that its policy scores highest. ${page.heads.length} heads choose, each for itself. What is pale in the text is gone from all of them.` : `${what}.`;
  const facts = [["text", `${page.source}, ${n} tokens`], ["model", page.model], ...page.runs.map(run => ["cache", `${run.name}: ${number(run.budget)} tokens per KV head; ${run.cache}; ${number(run.evicted)} tokens evicted in ${number(run.nEvictions)} evictions`])];
  if (isSession) facts.push(["time", "a saved session says what is held, not when the rest was evicted"]);
  find("facts").append(...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  find("foot").textContent = `capkv-edge ${page.version} · ${page.command}`;
  document.head.append(make("style", { id: "shading" }));
}

function connect() {
  const end = Math.max(...page.runs.map(run => run.end)), layers = [...new Set(page.heads.map(([layer]) => layer))];
  state.moment = end;
  find("moment").max = end;
  find("moments").hidden = end < 2;
  find("layer").append(...layers.map(layer => make("option", { value: layer, textContent: layer })));
  if (page.runs.length === 2) find("shade").append(make("option", { value: "difference", textContent: `${page.runs[0].name} less ${page.runs[1].name}` }));
  find("moment").oninput = () => choose({ moment: Number(find("moment").value) });
  find("shade").onchange = () => choose({ shade: find("shade").value });
  const headOf = (layer, head) => page.heads.findIndex(([l, h]) => l === layer && h === head);
  find("layer").onchange = () => choose({ head: headOf(Number(find("layer").value), 0), shade: "head" });
  find("head").onchange = () => choose({ head: headOf(page.heads[state.head][0], Number(find("head").value)), shade: "head" });
  find("play").onclick = () => {
    const stop = () => { clearInterval(timer); timer = 0; find("play").textContent = "play"; };
    if (timer) return stop();
    choose({ moment: state.moment >= end ? 1 : state.moment });
    find("play").textContent = "stop";
    timer = setInterval(() => state.moment >= end ? stop() : choose({ moment: state.moment + 1 }), 500);
  };
  addEventListener("keydown", event => { if (event.key === "Escape") choose({ token: -1, measure: state.measure === "token" ? "early" : state.measure }); });
  dark.addEventListener("change", () => { recolour(); update(); });
  addEventListener("beforeprint", () => { recolour(LIGHT); update(); });
  addEventListener("afterprint", () => { recolour(); update(); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; choose({}); } });
}

async function start() {
  page.runs = await Promise.all(page.runs.map(json => new Run(json, page).load()));
  introduce();
  recolour();
  connect();
  updates.push(addText(), ...FIGURES.map(addDrawing));
  addTable();
  update();
  document.body.dataset.ready = "yes";
}
start();
