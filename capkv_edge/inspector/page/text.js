// The text, with each token shaded by how many heads hold it.

class TextBox {
  constructor(page, run, index) {
    this.page = page;
    this.run = run;
    this.index = index;
    this.root = document.createElement("div");
    this.root.className = "box";
    const title = document.createElement("h3");
    title.textContent = `${runTitle(run)}: ${run.help}`;
    this.box = document.createElement("div");
    this.box.className = "text";
    this.box.tabIndex = 0;
    this.box.setAttribute("aria-label", `the text under ${run.name}`);
    this.spans = page.text.map((piece, i) => {
      const span = document.createElement("span");
      span.textContent = piece;
      span.dataset.i = i;
      return span;
    });
    for (const i of page.special) this.spans[i].classList.add("special");
    for (const [from, to] of run.pins) this.spans.slice(from, to).forEach(span => span.classList.add("pinned"));
    let part = null;
    this.spans.forEach((span, i) => { // parts are laid out once they are scrolled to; they begin where a line does
      if (!part || (part.childElementCount > 300 && page.text[i - 1].endsWith("\n"))) this.box.append(part = document.createElement("p"));
      part.append(span);
    });
    this.root.append(title, this.box);
    this.shading = [];
  }

  // the class of each token for what is chosen
  shades(state) {
    const { run, page } = this, moment = Math.min(state.moment, run.end), share = run.share(moment);
    const step = value => Math.round(value * 10) || (value > 0 ? 1 : 0); // a token that one head holds is not shown as gone
    if (state.shade === "difference") { // each text shows where its run holds more
      const other = page.runs[1 - this.index], others = other.share(Math.min(state.moment, other.end));
      return Array.from(share, (a, i) => Number.isNaN(a) ? "u" : `${this.index ? "e" : "s"}${step(Math.max(a - others[i], 0))}`);
    }
    if (state.shade === "head") {
      return Array.from(share, (a, i) => Number.isNaN(a) ? "u" : run.holds(state.head, i, moment) ? "s6" : "s0");
    }
    return Array.from(share, a => Number.isNaN(a) ? "u" : `s${step(a)}`);
  }

  show(state) {
    const shades = this.shades(state), tail = this.run.tail(state.moment);
    this.spans.forEach((span, i) => {
      const name = `${shades[i]}${i === tail && tail > 0 ? " tail" : ""}${i === state.token ? " chosen" : ""}`;
      if (this.shading[i] === name) return;
      if (this.shading[i]) span.classList.remove(...this.shading[i].split(" "));
      span.classList.add(...name.split(" "));
      this.shading[i] = name;
    });
  }

  // what is visible of the text, as SVG: a rectangle and words for each line of each token
  svg(palette, x, y, state) {
    const frame = this.box.getBoundingClientRect(), out = [], shades = this.shades(state);
    const size = parseFloat(getComputedStyle(this.box).fontSize);
    this.spans.forEach((span, i) => {
      if (!span.firstChild) return;
      const whole = span.getBoundingClientRect();
      if (whole.bottom < frame.top || whole.top > frame.bottom) return;
      for (const piece of linesOf(span)) {
        if (piece.box.top < frame.top || piece.box.bottom > frame.bottom) continue;
        const left = x + piece.box.left - frame.left, top = y + piece.box.top - frame.top;
        const step = Number(shades[i].slice(1)), scale = shades[i][0] === "e" ? palette.second : palette.scale;
        if (shades[i] !== "u" && step > 0) out.push(rect(left, top, piece.box.width, piece.box.height, { fill: css(mix(scale, step / 10)) }));
        const fill = shades[i] === "u" ? palette.unread : step === 0 ? palette.dropped : step >= palette.flip ? palette.back : palette.ink;
        const font = span.classList.contains("special") ? ' font-family="monospace"' : "";
        if (piece.words.trim()) out.push(`<text x="${r2(left)}" y="${r2(top + piece.box.height * 0.77)}" font-size="${font ? size * 0.72 : size}"${font} textLength="${r2(piece.box.width)}" lengthAdjust="spacingAndGlyphs" xml:space="preserve" fill="${fill}">${escapeText(piece.words)}</text>`);
      }
    });
    const inner = rect(x, y, frame.width, frame.height, { stroke: palette.line }) + `<g font-family="Georgia, 'Times New Roman', serif">${out.join("")}</g>`;
    return { inner, width: frame.width, height: frame.height };
  }
}

// the lines that a token is broken into: [{words, box}]
function linesOf(span) {
  const node = span.firstChild, range = document.createRange(), out = [];
  range.selectNodeContents(node);
  if (range.getClientRects().length <= 1 && !node.data.includes("\n")) return [{ words: node.data, box: range.getBoundingClientRect() }];
  for (let i = 0; i < node.data.length; i++) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const box = range.getBoundingClientRect(), last = out.at(-1);
    if (node.data[i] === "\n" || box.width === 0) continue;
    if (last && Math.abs(last.box.top - box.top) < 2) {
      last.words += node.data[i];
      last.box = new DOMRect(last.box.left, last.box.top, box.right - last.box.left, last.box.height);
    } else out.push({ words: node.data[i], box });
  }
  return out;
}

function textLegend(page, state) {
  const bar = (name, from, to) => `<span>${from} <span class="bar">${[...Array(11).keys()].map(i => `<i class="${name}${i}"></i>`).join("")}</span> ${to}</span>`;
  const second = page.runs[1] ? escapeText(page.runs[1].name) : "", first = escapeText(page.runs[0].name);
  const shading = {
    all: bar("s", "held by no head", "by all heads"),
    head: `<span><b class="s6">held by ${escapeText(headName(page, state.head))}</b> <b class="s0">evicted there</b></span>`,
    difference: bar("s", "no more heads", `all heads under ${first}, none under ${second}`) + bar("e", "no more heads", `all under ${second}, none under ${first}`),
  }[state.shade];
  const tail = page.runs.some(run => run.tail(state.moment) > 0) ? '<span><b class="tail">&nbsp;the exact tail</b> begins</span>' : "";
  const pins = page.runs.some(run => run.pins.length) ? '<span><b class="pinned">pinned</b></span>' : "";
  const unread = page.runs.some(run => run.read(state.moment) < run.nTokens) ? "<span>pale grey: not read yet</span>" : "";
  return shading + tail + pins + unread;
}
