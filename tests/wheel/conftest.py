"""Tests of an installed wheel that serves all processors of a platform (CAPKV_PORTABLE). Without CAPKV_TEST_WHEEL they are left out.

CAPKV_TEST_WHEEL: the CPU variant of ggml that has to be chosen, and the instructions of our kernels, such as haswell,avx2; or any.
"""

import os

WANTED = os.environ.get("CAPKV_TEST_WHEEL", "")

collect_ignore_glob = [] if WANTED else ["test_*.py"]


def pytest_report_header():
    return f"wheel: {WANTED}" if WANTED else "tests/wheel is left out: CAPKV_TEST_WHEEL is not set"
