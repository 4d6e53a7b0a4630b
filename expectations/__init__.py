"""The Great Expectations suite of the data gate and the per-row features that it reads."""
