"""Retrieval from the text of what a cache has evicted: passages, an index of them, queries, and what comes back."""

from .recall import Recall

__all__ = ["Recall"]
