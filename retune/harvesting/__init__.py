"""Rows from production: by which settings they are taken, and the folder that keeps them."""
