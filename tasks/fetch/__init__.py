"""fetch: a Hub dataset at a pinned commit, or local files, as rows of one shape."""

from tasks.fetch.batches import to_rows
from tasks.fetch.reading import read
from tasks.fetch.writing import write_rows

__all__ = ["read", "to_rows", "write_rows"]
