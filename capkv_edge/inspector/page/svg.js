// Parts of drawings, as SVG text.
const escapeText = text => String(text).replace(/[&<>"']/g, char => `&#${char.charCodeAt(0)};`);
const number = value => value.toLocaleString("en");
const r2 = value => Math.round(value * 100) / 100;

const FONT = "Helvetica, Arial, sans-serif";
function text(x, y, words, { fill, size = 11, anchor = "start", weight = 400, rotate = null } = {}) {
  const turn = rotate === null ? "" : ` transform="rotate(${rotate} ${r2(x)} ${r2(y)})"`;
  return `<text x="${r2(x)}" y="${r2(y)}" font-size="${size}" text-anchor="${anchor}" font-weight="${weight}" fill="${fill}"${turn}>${escapeText(words)}</text>`;
}
const rect = (x, y, w, h, { fill = "none", stroke = "none", width = 1, dash = "" } = {}) =>
  `<rect x="${r2(x)}" y="${r2(y)}" width="${r2(Math.max(w, 0))}" height="${r2(Math.max(h, 0))}" fill="${fill}" stroke="${stroke}" stroke-width="${width}"${dash && ` stroke-dasharray="${dash}"`}/>`;
const line = (x1, y1, x2, y2, stroke, width = 1, dash = "") =>
  `<line x1="${r2(x1)}" y1="${r2(y1)}" x2="${r2(x2)}" y2="${r2(y2)}" stroke="${stroke}" stroke-width="${width}"${dash && ` stroke-dasharray="${dash}"`}/>`;
const path = (points, stroke, width = 1.6) =>
  `<polyline points="${points.map(([x, y]) => `${r2(x)},${r2(y)}`).join(" ")}" fill="none" stroke="${stroke}" stroke-width="${width}" stroke-linejoin="round"/>`;
const dot = (x, y, fill, r = 2.2) => `<circle cx="${r2(x)}" cy="${r2(y)}" r="${r}" fill="${fill}"/>`;

// an image of nx x ny pixels, stretched; colour(ix, iy) -> [r, g, b]
function image(x, y, w, h, nx, ny, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = nx;
  canvas.height = ny;
  const context = canvas.getContext("2d"), pixels = context.createImageData(nx, ny);
  for (let iy = 0, at = 0; iy < ny; iy++) {
    for (let ix = 0; ix < nx; ix++, at += 4) {
      const [red, green, blue] = colour(ix, iy);
      pixels.data.set([red, green, blue, 255], at);
    }
  }
  context.putImageData(pixels, 0, 0);
  return `<image x="${r2(x)}" y="${r2(y)}" width="${r2(w)}" height="${r2(h)}" preserveAspectRatio="none" style="image-rendering:pixelated" href="${canvas.toDataURL()}"/>`;
}

// round numbers from low to high, about n of them
function ticks(low, high, n) {
  const raw = (high - low) / Math.max(n, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(k => k * power).find(one => one >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

// an axis below a panel; place: value -> x
function axisBelow(palette, { x, y, w, values, place, label, say = number }) {
  const parts = values.map(value => line(place(value), y, place(value), y + 4, palette.soft) +
    text(place(value), y + 15, say(value), { fill: palette.soft, size: 10, anchor: "middle" }));
  return parts.join("") + text(x + w / 2, y + 30, label, { fill: palette.ink, anchor: "middle" });
}
function axisLeft(palette, { x, y, h, values, place, label, say = number, far = 34 }) {
  const parts = values.map(value => line(x - 4, place(value), x, place(value), palette.soft) +
    text(x - 6, place(value) + 3.5, say(value), { fill: palette.soft, size: 10, anchor: "end" }));
  return parts.join("") + text(x - far, y + h / 2, label, { fill: palette.ink, anchor: "middle", rotate: -90 });
}

// a bar of a colour scale with words at its ends
function colourBar(palette, x, y, w, colour, low, high, title) {
  return text(x - 6, y + 9, `${title}   ${low}`, { fill: palette.soft, size: 10, anchor: "end" }) +
    image(x, y, w, 10, Math.round(w), 1, ix => colour(ix / (w - 1))) + rect(x, y, w, 10, { stroke: palette.line }) +
    text(x + w + 5, y + 9, high, { fill: palette.soft, size: 10 });
}

const wrapSvg = (palette, w, h, inner, label) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.round(w)}" height="${Math.round(h)}" viewBox="0 0 ${Math.round(w)} ${Math.round(h)}" font-family="${FONT}" role="img" aria-label="${escapeText(label)}">${rect(0, 0, w, h, { fill: palette.back })}${inner}</svg>`;
