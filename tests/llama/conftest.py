"""Shared by the tests of Llama."""

import pytest
from driving import BUDGET


@pytest.fixture
def llm(make_llama, tiny_llama):
    """A Llama on the tiny model with the budget that most tests have."""
    return make_llama(tiny_llama, **BUDGET)
