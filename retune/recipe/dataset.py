"""Where the conversations come from."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from retune.recipe.address import require_address
from retune.recipe.mapping import ColumnMapping
from retune.recipe.section import Line, Source

DataSource = Annotated[Source, AfterValidator(require_address)]

_SOURCE = (
    "Hub dataset id, a file (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow; also as .gz, .bz2, "
    ".xz, .zst, .zip or .tar), a folder of them or what `datasets` saved with `save_to_disk`, a pattern "
    "such as `data/*.jsonl`, or an address (https://, s3://, gs://, az://)."
)


class Part(ColumnMapping):
    """One of the datasets of a mix."""

    source: DataSource = Field(description=_SOURCE, min_length=1)
    name: Line | None = Field(
        None,
        min_length=1,
        description="What the part is called in reports, and the source of rows that name none; empty: "
        "its source.",
    )
    rows: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="How many of its rows are taken; fewer, with a warning, if it has not as many.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of its rows that are taken, above 0, to 1; to see rows more than once, raise "
        "`training.epochs`.",
    )

    @model_validator(mode="after")
    def _has_one_size(self) -> Self:
        if self.rows is not None and self.weight != 1:
            raise ValueError("has rows and weight; leave one of them out")
        return self


class Dataset(ColumnMapping):
    """Where the conversations come from."""

    source: DataSource = Field(
        "", description=f"{_SOURCE} Empty only where `dataset.mix` names several."
    )
    mix: tuple[Part, ...] = Field(
        (),
        max_length=1000,
        description="Datasets that are read one after another instead of `dataset.source`.",
    )
    mix_seed: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="With the rows' own content it decides which rows of a part are taken; the choice "
        "stays as it is when the part grows, but for the new rows that take a place.",
    )
    max_row_bytes: int = Field(
        64 << 20,
        ge=1024,
        le=1 << 40,
        description="Largest row that is read, in bytes as stored; a larger one is quarantined.",
    )
    max_row_values: int = Field(
        500_000,
        ge=10,
        le=10**9,
        description="Most values of a row that is read: keys of its objects and elements of its "
        "lists, at all depths; a row with more is quarantined.",
    )
    max_row_depth: int = Field(
        100,
        ge=5,
        le=900,  # beyond it Python's own reader of JSON gives up
        description="Deepest nesting of a row that is read, in lists and objects within each other; "
        "a deeper row is quarantined.",
    )
    max_rows: int = Field(
        50_000_000,
        ge=1,
        le=10**12,
        description="Most rows that are read; a source with more ends the run.",
    )
    max_unpacked_bytes: int = Field(
        64 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Most that the compressed files of a split may unfold to in all, in bytes.",
    )
    memory_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the machine's free memory that reading may take, 0 to 1, but 1 GiB in "
        "any case; a source that takes more ends the run.",
    )
    quiet_minutes: int = Field(
        30,
        ge=1,
        le=10_000,
        description="Longest time without a further batch of rows, in minutes; then reading ends.",
    )

    @model_validator(mode="before")
    @classmethod
    def _has_one_origin(cls, values: Any) -> Any:
        if isinstance(values, dict):
            source, mix = values.get("source"), values.get("mix")
            if not source and not mix:
                raise ValueError(
                    "source is missing; add it, or name several datasets in dataset.mix"
                )
            if source and mix:
                raise ValueError("source and mix are both set; leave one of them out")
        return values

    @model_validator(mode="after")
    def _mix_says_what_is_read(self) -> Self:
        fields = ColumnMapping.model_fields
        own = [
            name
            for name in self.model_fields_set & fields.keys()
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        if self.mix and own:
            raise ValueError(f"{min(own)} is set beside mix; set it in the parts of the mix")
        return self

    @property
    def parts(self) -> "tuple[Dataset, ...]":
        """The datasets that are read: this one, or each part of the mix, with all other settings."""
        if not self.mix:
            return (self,)
        return tuple(
            self.model_copy(
                update={
                    "mix": (),
                    **{
                        name: getattr(part, name)
                        for name in ("source", *ColumnMapping.model_fields)
                    },
                }
            )
            for part in self.mix
        )

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts of the mix are called; no two alike. Without a mix, the source alone."""
        if not self.mix:
            return (self.source,)
        names: list[str] = []
        for number, part in enumerate(self.mix):
            name = part.name or part.source
            while name in names:
                name = f"{name} (part {number})"
            names.append(name)
        return tuple(names)

    @property
    def title(self) -> str:
        """The dataset in a word for tables and messages."""
        return self.source if not self.mix else f"a mix of {', '.join(self.names)}"

    @property
    def acknowledged(self) -> tuple[frozenset[str], ...]:
        """The names that are not used on purpose, of each part."""
        return tuple(frozenset(part.ignore) for part in self.parts)
