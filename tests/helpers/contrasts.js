// The first ten texts of a page whose contrast is below 4.5, the least that WCAG 2 asks for: [text, ratio].
() => {
    const channels = (color) => (color.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const color = channels(getComputedStyle(node).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const { data, parentElement: node } = walker.currentNode;
        if (!data.trim() || !node.checkVisibility() || node.closest("script, :disabled")) continue;
        const pair = [luminance(channels(getComputedStyle(node).color)), luminance(behind(node))];
        const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (ratio < 4.5) low.push([data.slice(0, 30), ratio.toFixed(2)]);
    }
    return low.slice(0, 10);
}
