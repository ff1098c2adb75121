"""The plots: how they look (style), one module for each way to draw, and all of them at once (draw)."""
