"""What judges: one verdict for every expectation of every gate, from what the stages measured."""
