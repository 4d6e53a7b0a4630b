"""What is asked: held-out questions, the recipe's own prompts, and the probes of its suites."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from retune.held_out import Question, questions
from retune.outcomes import BATTERY
from retune.recipe import Evaluation, Recipe
from retune.records import Chats, Pins
from retune.suites.battery import MAX_NEW_TOKENS
from retune.suites.files import suites
from retune.suites.probes import SuiteProbe
from tasks.evaluate.answering import AskedPrompt

Replies = Sequence[dict[str, Any] | None]


class Questionnaire(NamedTuple):
    """Questions, the recipe's own prompts, the probes of each suite by its name, and the names of the
    suites of lm-eval, which asks what they are by itself."""

    questions: list[Question]
    prompts: tuple[str, ...]
    suites: dict[str, tuple[SuiteProbe, ...]]
    tasks: tuple[str, ...] = ()

    def chats(self, config: Evaluation) -> list[AskedPrompt]:
        """Return all of it for the child, in this order."""
        plain = [question.prompt for question in self.questions]
        plain += [[{"role": "user", "content": prompt}] for prompt in self.prompts]
        limits = {suite.name: suite.max_new_tokens for suite in config.probe_files}
        limits[BATTERY] = MAX_NEW_TOKENS
        return [
            AskedPrompt(messages=messages, max_new_tokens=config.max_new_tokens)
            for messages in plain
        ] + [
            AskedPrompt(
                messages=probe.chat,
                tools=list(probe.tools),
                max_new_tokens=limits[name] or config.max_new_tokens,
                optional=True,
            )
            for name, probes in self.suites.items()
            for probe in probes
        ]

    def of_questions(self, replies: Replies) -> list[dict[str, Any]]:
        """Return the replies to the questions, of one side's to all that was asked."""
        return [reply for reply in replies[: len(self.questions)] if reply]

    def of_prompts(self, replies: Replies) -> list[dict[str, Any]]:
        """Return the replies to the recipe's own prompts."""
        first = len(self.questions)
        return [reply for reply in replies[first : first + len(self.prompts)] if reply]

    def of_suites(self, replies: Replies) -> dict[str, list[dict[str, Any] | None]]:
        """Return the replies to the probes of each suite, in their order."""
        rest = iter(replies[len(self.questions) + len(self.prompts) :])
        return {name: list(islice(rest, len(probes))) for name, probes in self.suites.items()}


def asked(chats: Chats, recipe: Recipe, pins: Pins) -> Questionnaire:
    """Return what every model is asked. Raises SourceError for a suite that was changed."""
    config = recipe.evaluation
    return Questionnaire(
        questions(chats.held_out, config.generation_rows, recipe.model.max_length),
        config.prompts,
        suites(recipe, pins),
        config.task_names,
    )
