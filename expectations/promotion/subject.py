"""Whom evidence is about, and what there is to do now: what a person asks who sees the page first."""

from typing import NamedTuple

# By outcome; of `held` by the mode as well.
NEXT_STEPS = {
    "promote": "Nothing: it takes the place by itself, unless it was rolled back before. Should it turn "
    "out badly, `retune rollback {recipe}` lets the version before serve again.",
    "approve": "Decide: `retune approve {run_id}` or `retune reject {run_id}`, or Resume in the menu (⋮) "
    "of the run's page in Prefect. Until then {serving}.",
    "never": "Nothing, unless it shall serve: `retune promote {recipe} {number}`. Until then {serving}.",
    "equivalent": "Nothing: there is nothing to gain by it, and {serving}.",
    "undecided": "Nothing: {serving}. More examples would decide it, how many is said above; "
    "`retune promote {recipe} {number}` lets it serve without a proof.",
    "rejected": "Nothing, if that is right: {serving}. Else mend the rows or the recipe, and run it "
    "again; {compare}`retune promote {recipe} {number}` lets it serve all the same.",
}
COMPARE = "`retune compare {recipe}@champion {recipe}/{number}` tells what differs; "


class AboutCandidate(NamedTuple):
    """A candidate: the version `number` of `recipe`, made by the MLflow run `run_id` of the name `run`.

    `serving` says in a clause which version serves meanwhile, and since when; `is_first` that none does.
    Only `run` may be a stranger's text.
    """

    recipe: str
    number: int
    run: str
    run_id: str
    serving: str
    is_first: bool

    def next_step(self, outcome: str, mode: str) -> str:
        """Return what there is to do now; `mode` is the recipe's `promotion.mode`."""
        step = NEXT_STEPS[mode if outcome == "held" else outcome]
        compare = "" if self.is_first else COMPARE.format(**self._asdict())
        return step.format(**self._asdict(), compare=compare)

    @property
    def sentence(self) -> str:
        """Who the candidate is, and who serves, in a sentence."""
        return f"{self.recipe}/{self.number}, made by the run “{self.run}”; {self.serving}."
