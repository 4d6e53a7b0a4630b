"""Which training rows speak for what a model gets wrong, by the gradients of its adapter."""
