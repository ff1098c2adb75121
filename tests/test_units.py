"""Amounts as text."""

from capkv_edge.units import size


def test_sizes():
    assert [size(n) for n in (0, 1023, 1024, 35.94 * 2**20, 5000 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "35.9 MiB",
        "5000.0 GiB",
    ]
