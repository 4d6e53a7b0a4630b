"""Whom evidence is about, and what there is to do now: what a person asks who sees the page first."""

from datetime import datetime
from typing import NamedTuple

# By outcome; of `held` by the mode as well, and by what a person said.
NEXT_STEPS = {
    "promote": "Nothing: it takes the place by itself, unless it was rolled back before. {undo}",
    "approve": "Decide{until}: {resume}`retune approve {name}` or `retune reject {name}`. Without "
    "an answer by then it counts as rejected. Until then {serving}.",
    "approved": "Nothing: {name} serves. {undo}",
    "turned down": "Nothing: {serving}. `retune promote {recipe} {number}` lets it serve all the same.",
    "never": "Nothing, unless it shall serve: `retune promote {recipe} {number}`. Until then {serving}.",
    "equivalent": "Nothing: there is nothing to gain by it, and {serving}.",
    "undecided": "Nothing: {serving}. It is no failure: the version stays registered as a challenger, "
    "and the next run is compared with what serves. {examples}`retune promote {recipe} {number}` lets "
    "it serve without a proof.",
    "rejected": "Nothing, if the reasons are right: {serving}. Else mend the rows or the recipe, and run "
    "it again; {compare}`retune promote {recipe} {number}` lets it serve all the same.",
}
UNDO = "Should it turn out badly, `retune rollback {recipe}` lets the version before serve again."
UNDO_FIRST = "It is the first, so that there is none to go back to."
COMPARE = "`retune compare {recipe}@champion {recipe}/{number}` tells what differs; "
RESUME = "Resume in the menu (⋮) of {place}, or "


class AboutCandidate(NamedTuple):
    """A candidate: the version `number` of `recipe`, judged by the MLflow run `run_id` of the name `run`.

    `serving` says in a clause which version serves meanwhile, and since when; `is_first` that none does.
    `trained_by` is the name of the run that trained it, if that is another one; `alike` says in a
    sentence which version that nobody wants any more it is like. `until` is when an answer is due,
    `page` the address of the run that waits for it on Prefect's pages: "" if nobody knows it, None if
    the run ends instead. Only `run`, `trained_by` and `alike` may be a stranger's text.
    """

    recipe: str
    number: int
    run: str
    run_id: str
    serving: str
    is_first: bool
    trained_by: str = ""
    alike: str = ""
    until: datetime | None = None
    page: str | None = None

    def next_step(self, outcome: str, mode: str, examples: str = "") -> str:
        """Return what there is to do now, with commands and addresses as Markdown has them.

        `outcome` is that of a decision, or `approved` or `turned down` once a person has answered; `mode`
        is the recipe's `promotion.mode`, `examples` what more examples would do, in a sentence.
        """
        words = {
            "compare": "" if self.is_first else COMPARE.format(**self._asdict()),
            "undo": UNDO_FIRST if self.is_first else UNDO.format(recipe=self.recipe),
            "examples": f"{examples} " if examples else "",
            "until": f" until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "",
            "resume": self._resume,
        }
        step = NEXT_STEPS[mode if outcome == "held" else outcome]
        return step.format(**{**self._asdict(), **words, "name": self.name})

    @property
    def name(self) -> str:
        """The version as the registry's pages have it."""
        return f"{self.recipe}/{self.number}"

    @property
    def _resume(self) -> str:
        if self.page is None:
            return ""
        place = "this run's page in Prefect"
        return RESUME.format(place=f"[{place}]({self.page})" if self.page else place)

    @property
    def sentence(self) -> str:
        """Who the candidate is, and who serves, in a sentence or two."""
        trained = f", trained by the run “{self.trained_by}”" if self.trained_by else ""
        judged = f"judged by the run “{self.run}”" if trained else f"made by the run “{self.run}”"
        alike = f" {self.alike}" if self.alike else ""
        return f"{self.name}{trained}, {judged}; {self.serving}.{alike}"
