"""The data gate: features of rows, Great Expectations suites over them, and the report."""
