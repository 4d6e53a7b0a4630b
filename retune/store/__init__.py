"""The store of outputs that several machines have in common (RETUNE_STORE)."""
