"""One module per stage, in the order of the line: plain functions and one @task each."""
