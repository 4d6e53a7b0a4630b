"""The flow, top to bottom, and the command line."""
