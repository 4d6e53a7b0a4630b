"""Rows from production: out of traces and logs, by consent and retention, into a folder of rows."""
