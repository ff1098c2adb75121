"""Compare one compression after a prompt with the authors' code (tests/data/smollm2_a_e2e.npz).

    python scripts/checks/golden.py MODEL.gguf [f32|f16|q8_0 ...]

Prints, for each type of the K and V cache and each budget, the intersection over union of the kept positions and the KL
divergence of the 32 tokens that follow, next to the reference's. Exact agreement needs the float32 weights
(tests/helpers/f32_model.py makes them); with quantized weights this shows what quantization changes.
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
