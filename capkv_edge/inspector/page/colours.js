// Colours. Shares go from the background (held by no head) to a full hue; parts and runs have Okabe and Ito's.
const LIGHT = {
  name: "light", ink: "#1f2328", soft: "#59636e", line: "#c3ccd5", back: "#ffffff", unread: "#e6e9ed", dropped: "#aab2bb",
  scale: [[255, 255, 255], [254, 230, 206], [253, 174, 107], [230, 85, 13], [127, 39, 4]],
  second: [[255, 255, 255], [214, 232, 245], [123, 180, 220], [0, 114, 178], [0, 50, 90]], flip: 7,
};
const DARK = {
  name: "dark", ink: "#e6edf3", soft: "#9aa4af", line: "#3d4651", back: "#0f1419", unread: "#2a323b", dropped: "#59636e",
  scale: [[15, 20, 25], [66, 34, 14], [150, 66, 14], [240, 124, 44], [255, 218, 176]],
  second: [[15, 20, 25], [14, 42, 66], [16, 84, 134], [66, 150, 214], [186, 224, 250]], flip: 7,
};
const PARTS = { sinks: "#0072B2", pins: "#CC79A7", chosen: "#D55E00", tail: "#009E73" };
const RUNS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7"];

function mix(scale, t) {
  const x = Math.min(Math.max(t, 0), 1) * (scale.length - 1), i = Math.min(Math.floor(x), scale.length - 2);
  return scale[i].map((from, c) => Math.round(from + (scale[i + 1][c] - from) * (x - i)));
}
const shareColour = (palette, t) => Number.isNaN(t) ? hexColour(palette.unread) : mix(palette.scale, t);
const hexColour = hex => [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
const css = rgb => `rgb(${rgb.join(",")})`;

// the shading of tokens, as classes: s0 .. s10 are shares, e0 .. e10 those of the second run where it holds more, u is not read yet
function shadingRules(palette) {
  const rule = (name, rgb, i) => {
    const text = i === 0 ? `color: ${palette.soft}; opacity: .62;` : i >= palette.flip ? `color: ${palette.back};` : `color: ${palette.ink};`;
    return `.${name}${i} { ${i ? `background: ${css(rgb)};` : ""} ${text} }`;
  };
  const steps = [...Array(11).keys()];
  return [
    ...steps.map(i => rule("s", mix(palette.scale, i / 10), i)),
    ...steps.map(i => rule("e", mix(palette.second, i / 10), i)),
    `.u { color: ${palette.unread}; }`,
  ].join("\n");
}
