"""A model's layers as fused kernels, for where Unsloth does not bring its own."""

from typing import Any

from transformers.integrations.liger import apply_liger_kernel


def fuse_layers(model: Any) -> None:
    """Let Liger compute norms, rotary embeddings and gated activations, each in one kernel.

    The loss is TRL's, and a mixture's experts stay as they are: with adapters Liger's were never
    tried. Architectures that Liger does not know stay as they are, too.
    """
    mixture = hasattr(model.config, "num_experts_per_tok")
    losses = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    apply_liger_kernel(model, {"swiglu": not mixture, **losses})
