"""Suites: probes that a model is asked, and the graders of its answers."""
