"""What repairs did to a dataset, and what they would do for the rows in quarantine, in words."""

from pathlib import Path

from pydantic import BaseModel

from retune.recipe.repairs import REPAIRS

FILE = "repairs.json"
SETTING = "validation.repairs"
SHOWN = 3  # repairs named by themselves


class Repaired(BaseModel):
    """One repair that the recipe asked for: how many rows it changed, and one of them, masked."""

    name: str
    rows: int
    row: int | None = None
    before: str = ""
    after: str = ""

    @property
    def title(self) -> str:
        return REPAIRS[self.name]

    def example(self) -> str:
        """Return the row before and after, empty where no row was changed."""
        return "" if self.row is None else f"row {self.row:,}: {self.before!r} → {self.after!r}"


class Trial(BaseModel):
    """What would become of rows in quarantine by these repairs: `rows` of them would have no flaw
    left that keeps them there, duplicates aside; `flaws` says how many of these had which."""

    repairs: tuple[str, ...]
    rows: int
    flaws: dict[str, int] = {}


class Repairs(BaseModel):
    """What screen did and tried: `applied` in the order of the recipe's repairs; `trials` of single
    repairs, the most useful first, then all that are useful together; `tried` of the `quarantined`
    rows were looked at."""

    applied: list[Repaired] = []
    quarantined: int = 0
    tried: int = 0
    trials: list[Trial] = []

    def metrics(self) -> dict[str, float]:
        """Return how many rows each repair of the recipe changed."""
        return {f"repairs/{repaired.name}": repaired.rows for repaired in self.applied}

    @property
    def mended(self) -> dict[str, int]:
        """How many rows that have a flaw the repairs would mend, at best, by the flaw's name."""
        best = max(self.trials, key=lambda trial: trial.rows, default=None)
        return best.flaws if best else {}

    def advice(self) -> str:
        """Return which repairs would help the rows in quarantine, and how many; empty if none."""
        if not self.trials:
            return ""
        singles = [trial for trial in self.trials if len(trial.repairs) == 1][:SHOWN]
        together = [trial for trial in self.trials if len(trial.repairs) > 1]
        if singles and together and together[0].rows <= singles[0].rows:
            together = []
        first, *others = [*singles, *together]
        of = f"{self.quarantined:,} quarantined rows"
        if self.tried < self.quarantined:
            of = f"a sample of {self.tried:,} of the {of}"
        parts = [f"{first.rows:,} of {of} would become sound by {self._named(first)}"]
        parts += [f"{trial.rows:,} by {self._named(trial)}" for trial in others]
        return "; ".join(parts)

    def _named(self, trial: Trial) -> str:
        """Return the repairs of a trial, with the setting that asks for them besides those applied."""
        names = (*(repaired.name for repaired in self.applied), *trial.repairs)
        setting = ", ".join(name for name in REPAIRS if name in names)
        if len(trial.repairs) == 1:
            return f"{trial.repairs[0]} ({SETTING}=[{setting}])"
        return f"{len(trial.repairs)} repairs together ({SETTING}=[{setting}])"


NOTHING = Repairs()


def read(folder: Path) -> Repairs:
    """Return what screen or validate left in its folder."""
    return Repairs.model_validate_json((folder / FILE).read_text(encoding="utf-8"))


def write(repairs: Repairs, folder: Path) -> None:
    """Write the record into `folder`."""
    (folder / FILE).write_text(repairs.model_dump_json(indent=1), encoding="utf-8")
