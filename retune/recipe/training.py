"""How the adapter, or the whole model, is trained."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from retune.recipe.section import Line, Section

ModuleNames = Annotated[tuple[Line, ...], Field(min_length=1, max_length=1000)]


class Training(Section):
    """QLoRA, LoRA or full training; the defaults are the article's."""

    backend: Literal["unsloth", "trl"] = Field(
        "unsloth", description="Library that trains; trl (with PEFT) serves several GPUs and hosts."
    )
    processes: int = Field(
        1,
        ge=1,
        le=1_024,
        description="Processes on each host, one per GPU; more than one needs trl.",
    )
    shard: bool = Field(
        False,
        description="Split the weights over the processes (FSDP2), for models that do not fit one GPU "
        "while training; needs trl.",
    )
    fp8: bool = Field(
        False,
        description="Multiply with the frozen base in 8-bit floats, forward and backward: faster, and "
        "rounded; takes two more bytes for each weight. Needs trl, method=lora and a GPU of Ada's or "
        "Hopper's kind.",
    )
    method: Literal["lora", "full"] = Field(
        "lora", description="Train an adapter, or all weights (needs model.load_in_4bit=false)."
    )
    master_weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What method=full trains; bfloat16 takes half the memory, and rounds away an "
        "update of less than 1/512 of a weight, as most are at usual learning rates.",
    )
    train_on: Literal["all", "responses"] = Field(
        "all", description="Learn every token, or only the assistant's turns."
    )
    r: int = Field(16, ge=1, le=65_536, description="LoRA rank.")
    alpha: int = Field(
        16,
        ge=1,
        le=1_000_000,
        description="LoRA alpha; the update is scaled by alpha / r (rsLoRA: / √r).",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout, 0 to 1; 0 is the fast path.")
    target_modules: Literal["auto"] | ModuleNames = Field(
        "auto",
        description="Layers that get an adapter: auto (every linear layer of the decoder but the output "
        "head), or the ends of their names, e.g. [q_proj, v_proj].",
    )
    use_rslora: bool = Field(True, description="Rank-stabilised LoRA: scale by alpha / √r.")
    use_dora: bool = Field(False, description="DoRA: also learn each weight's magnitude; slower.")
    loraplus_ratio: float | None = Field(
        None,
        ge=1,
        le=1e6,
        description="LoRA+: how much faster the B matrices learn, e.g. 16; empty: equal.",
    )
    learning_rate: float = Field(3e-4, gt=0, lt=1, description="Peak learning rate.")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="Course of the learning rate after warm-up."
    )
    warmup_steps: int = Field(
        10, ge=0, le=1_000_000_000, description="Steps over which the learning rate rises."
    )
    batch_size: int = Field(
        8, ge=1, le=65_536, description="Sequences per device and forward pass."
    )
    gradient_accumulation: int = Field(
        2,
        ge=1,
        le=65_536,
        description="Forward passes per optimizer step; batch_size × this is the effective batch.",
    )
    memory: Literal["auto", "as_written"] = Field(
        "auto",
        description="auto: measure the GPU and cut the effective batch and choose checkpointing to fit "
        "it, smaller still if memory runs out. as_written: batch_size and gradient_checkpointing hold.",
    )
    epochs: float = Field(1.0, gt=0, le=100_000, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Stop after this many optimizer steps; empty: after `epochs`.",
    )
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"] = (
        Field("adamw_8bit", description="Optimizer; the 8-bit ones need a GPU.")
    )
    weight_decay: float = Field(0.01, ge=0, le=1_000, description="Weight decay.")
    max_grad_norm: float = Field(
        1.0, gt=0, le=1e9, description="Gradients are clipped to this norm."
    )
    packing: bool = Field(True, description="Fill each sequence with several conversations.")
    gradient_checkpointing: Literal["unsloth", "on", "off"] = Field(
        "unsloth", description="Recompute activations to save memory: Unsloth's, PyTorch's, or not."
    )
    seed: int = Field(
        0, ge=0, le=4_294_967_295, description="Seed of adapter initialisation and data order."
    )
    logging_steps: int = Field(
        1, ge=1, le=1_000_000_000, description="Steps between two logged metrics."
    )
    checkpoint_minutes: float = Field(
        10,
        gt=0,
        le=1e6,
        description="Minutes between two checkpoints: the most that a crash can cost.",
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Steps between two checkpoints, besides checkpoint_minutes.",
    )
    max_loss_rise: float = Field(
        3.0,
        gt=1,
        le=1e9,
        description="Stop when the loss is this many times its lowest (medians of 5 steps).",
    )
    max_gradient_norm: float = Field(
        1000.0,
        gt=0,
        le=1e12,
        description="Stop when the gradient norm stays above this (median of 5 steps).",
    )
    price_per_hour: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Price of one GPU-hour, in the currency that you count in; the run then shows what "
        "it cost, as a plain number.",
    )
    max_gpu_hours: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="End with a checkpoint after this many GPU-hours; empty: no cap.",
    )
    max_cost: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="End with a checkpoint at this cost, in the currency of "
        "price_per_hour, which it needs.",
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        """Refuse what is no list in one line; pydantic has one for each of the two forms."""
        is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        if value != "auto" and (not is_list or not value or "auto" in value):
            raise ValueError("should be auto, or a list of names such as [q_proj, v_proj]")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.max_cost is not None and self.price_per_hour is None:
            raise ValueError("max_cost needs price_per_hour; set it, or use max_gpu_hours")
        if self.processes > 1 and self.backend != "trl":
            raise ValueError(f"processes={self.processes} needs backend=trl")
        if self.shard and (self.backend != "trl" or self.optimizer.endswith("8bit")):
            raise ValueError(
                f"shard needs backend=trl and an optimizer in full precision (the 8-bit ones cannot be "
                f"split), not {self.backend} and {self.optimizer}; set optimizer=adamw_torch_fused"
            )
        if self.fp8 and (
            self.backend != "trl" or self.method != "lora" or self.use_dora or self.shard
        ):
            raise ValueError("fp8 needs backend=trl and method=lora, without use_dora and shard")
        if self.method == "full" and (self.use_dora or self.loraplus_ratio):
            raise ValueError("use_dora and loraplus_ratio belong to method=lora")
        if self.method == "lora" and self.master_weights == "bfloat16":
            raise ValueError("master_weights=bfloat16 belongs to method=full; leave it out")
        if self.batch_size * self.gradient_accumulation % self.processes:
            raise ValueError(
                f"the effective batch (batch_size × gradient_accumulation = "
                f"{self.batch_size * self.gradient_accumulation}) must be a multiple of "
                f"processes={self.processes}"
            )
        return self

    def moments_bytes(self, width: int) -> int:
        """Return the bytes of Adam's two moments of a trained weight that is `width` bytes wide."""
        return 2 if self.optimizer.endswith("8bit") else 2 * width
