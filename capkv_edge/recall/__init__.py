"""Retrieval from the text of what a cache has evicted: passages, an index of them, queries, and what comes back."""

__all__ = ["Recall"]


def __getattr__(name):
    # loaded when it is first used: a command line that only needs QUOTA opens no library
    if name in __all__:
        from .recall import Recall

        return Recall
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
