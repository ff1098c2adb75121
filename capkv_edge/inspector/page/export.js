// Figures as files, always in the light colours: SVG, and PNG of three pixels for each.

const PNG_SCALE = 3;

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const saveSvg = (name, svg) => save(`${name}.svg`, new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${svg}\n`], { type: "image/svg+xml" }));

async function savePng(name, svg) {
  const picture = new Image();
  picture.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.width * PNG_SCALE;
  canvas.height = picture.height * PNG_SCALE;
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(picture.src);
  save(`${name}.png`, await new Promise(done => canvas.toBlob(done, "image/png")));
}

// the visible part of the texts, side by side
function textSvg(boxes, palette, state) {
  let x = 0, height = 0, out = "";
  for (const box of boxes) {
    out += text(x, 13, runTitle(box.run), { fill: palette.ink, size: 12, weight: 600 });
    const drawn = box.svg(palette, x, 22, state);
    out += drawn.inner;
    x += drawn.width + 14;
    height = Math.max(height, drawn.height + 24);
  }
  return wrapSvg(palette, x - 14, height + 24, out + textScale(boxes[0].page, state, palette, x - 14, height + 6), "the text, shaded by what is held");
}

// what the shading is, below the saved text
function textScale(page, state, palette, width, y) {
  if (state.shade === "all") return scaleLegend(page, width, y, palette);
  if (state.shade === "head") {
    return rect(0, y, 22, 10, { fill: css(mix(palette.scale, 0.6)) }) + text(28, y + 9, `held by ${headName(page, state.head)}`, { fill: palette.soft, size: 10 });
  }
  const [first, second] = page.runs.map(run => run.name), w = 160, from = width - w - 110;
  const colour = t => t < 0.5 ? mix(palette.second, 1 - 2 * t) : mix(palette.scale, 2 * t - 1);
  return colourBar(palette, from, y, w, colour, `all heads under ${second} alone`, `under ${first} alone`, "");
}
