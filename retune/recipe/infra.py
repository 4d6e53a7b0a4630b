"""What the stages of a run need of the machines of a cluster (see `docs/cluster.md`)."""

from typing import Annotated

from pydantic import Field, field_validator

from retune.recipe.gates import STAGES
from retune.recipe.section import Line, Section, all_known

GiB = Annotated[float, Field(gt=0, le=1e6)]


class Resources(Section):
    """What one stage needs of a machine; what is not named is as the stage usually needs it."""

    gpus: int | None = Field(
        None,
        ge=0,
        le=64,
        description="NVIDIA GPUs. Not named: 1 for a stage that computes with the model "
        "(training.processes to train), where any machine of the cluster has one or the recipe needs "
        "one; else 0.",
    )
    gpu_kind: Line | None = Field(
        None,
        description="Kind of the GPUs, as Ray names it (H100, A100, L4, …); empty: any.",
    )
    cpus: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Processors, which are also its threads. Not named: 4 for a stage that computes, 1 "
        "for others, and no more than the largest machine has.",
    )
    memory: GiB | None = Field(
        None, description="Main memory in GiB that is reserved for the stage; empty: none."
    )
    disk: GiB | None = Field(
        None,
        description="GiB that must be free in the machine's home folder when the stage begins; empty: "
        "any.",
    )


class Infra(Section):
    """Where stages run. It counts only with a cluster (RETUNE_CLUSTER), and changes nothing that a run
    makes: it is in no fingerprint."""

    resources: dict[Line, Resources] = Field(
        default_factory=dict,
        max_length=100,
        description="What stages need of a machine, by name, e.g. {train: {gpus: 1, gpu_kind: H100}}: "
        "gpus, gpu_kind, cpus, memory (GiB), disk (GiB). Nothing has to be named.",
    )
    wait_hours: float = Field(
        24,
        gt=0,
        le=1e5,
        description="Longest time, in hours, that a stage waits for a machine with what it needs to come "
        "to the cluster. One that is busy is waited for as long as it takes.",
    )

    spread_rows: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000_000_000,
        description="Rows from which all machines of the cluster look at the rows of a dataset, and "
        "score those that the classifier is asked about, each a part; of fewer, the stage's own one.",
    )

    @field_validator("resources")
    @classmethod
    def _stages_are_known(cls, resources: dict[str, Resources]) -> dict[str, Resources]:
        return all_known(resources, STAGES, "a stage")
