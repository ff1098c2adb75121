"""Compare one eviction after a prompt with the authors' code, whose results are in tests/data/smollm2_a_e2e.npz.

    python scripts/checks/golden.py MODEL.gguf [f32|f16|q8_0 ...]

For each cache type and budget it prints the intersection over union of the kept positions, and the mean KL divergence from the
full cache over the next 32 tokens beside that of the authors' code. Only float32 weights agree exactly
(tests/helpers/plain_model.py makes them); quantized weights show what quantization changes.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))
from golden_run import compare


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print(f"{'cache':6} {'budget':>6} {'IoU':>7} {'KL':>8} {'reference':>9} {'ratio':>6}")
    for cache_type in sys.argv[2:] or ["f16"]:
        for row in compare(sys.argv[1], cache_type, (64, 128, 256)):
            print(
                f"{row['cache']:6} {row['budget']:6} {row['iou']:7.4f} {row['kl']:8.4f} {row['kl_reference']:9.4f}"
                f" {row['kl'] / row['kl_reference']:6.3f}"
            )


if __name__ == "__main__":
    main()
