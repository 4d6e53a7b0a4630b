"""The profile of a dataset: plain numbers of its rows, what they look like together, and what in that
no careful person would train on, whether or not a flaw has a name."""
