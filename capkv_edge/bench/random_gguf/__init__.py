"""Models with random weights in the shapes of well-known ones, to measure speed and memory without a download."""
