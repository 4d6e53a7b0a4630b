"""What `retune plan` says of the LLM judge: how often it is asked, and what that costs."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from flows.plan import Plan
from retune.judging.cases import COMPARISON_FILE, RUBRIC_FILE, ComparisonCase
from retune.judging.labels import Label, read_labels
from retune.outcomes import HELD_OUT
from retune.recipe import Recipe
from retune.records import Pins
from retune.suites.files import suites
from retune.suites.probes import SuiteProbe

CHARACTERS_PER_TOKEN = 4  # of English; of other languages fewer
REPLY_TOKENS = 60  # of a sentence and a verdict; one that thinks takes more
TOKENS_PER_ROW = 440  # of FineTome, on average


def judge_estimate(recipe: Recipe, pins: Pins, plan: Plan) -> list[list[str]]:
    """Return lines with the requests, the tokens and, if prices are set, the cost of the judge."""
    config = recipe.evaluation.judge
    if plan.judge is None or plan.judge.done:
        return []
    requests, sent = estimated(recipe, suites(recipe, pins), _labels(recipe), bool(pins.champion))
    received = (requests * REPLY_TOKENS, requests * config.max_tokens)
    by = config.model if config.url else f"llama.cpp, {config.gguf}"
    rows = [
        ["requests to the judge", f"up to {requests:,}", f"by {by}, votes: {config.votes}"],
        [
            "tokens of the judge",
            f"{sent:,.0f} + {received[0]:,}",
            f"sent and received, by lengths; received at most {received[1]:,}",
        ],
    ]
    prices = config.price_input, config.price_output
    if config.url and (prices[0] is not None or prices[1] is not None):
        paid = [(sent * (prices[0] or 0) + one * (prices[1] or 0)) / 1e6 for one in received]
        rows.append(["cost of the judge", f"about {paid[0]:,.2f}", f"at most {paid[1]:,.2f}"])
    return rows


def estimated(
    recipe: Recipe,
    probes: dict[str, tuple[SuiteProbe, ...]],
    labels: Sequence[Label],
    with_champion: bool,
) -> tuple[int, float]:
    """Return how many requests there are at most, and how many tokens they send, about."""
    evaluation, config = recipe.evaluation, recipe.evaluation.judge
    requests, tokens = 0, 0.0
    longest = {suite.name: suite.max_new_tokens for suite in evaluation.suites}
    for name, of_suite in probes.items():
        answer = longest.get(name) or evaluation.max_new_tokens
        judged = [probe for probe in of_suite if probe.is_judged]
        sides = 3 if with_champion else 2
        requests += sides * config.votes * len(judged)
        texts = [len(probe.model_dump_json()) for probe in judged]
        lengths = sum(texts) / CHARACTERS_PER_TOKEN + len(judged) * (answer + _words(RUBRIC_FILE))
        tokens += sides * config.votes * lengths
        if name in config.compare:
            count = 2 * config.votes * len(of_suite)
            asked = fmean(len(probe.model_dump_json()) for probe in of_suite)
            requests += count
            tokens += count * (asked / CHARACTERS_PER_TOKEN + 2 * answer + _comparing(recipe))
    if HELD_OUT in config.compare:
        count = 2 * config.votes * evaluation.generation_rows
        requests += count
        row = min(TOKENS_PER_ROW, recipe.model.max_length)
        tokens += count * (row + 2 * evaluation.max_new_tokens + _comparing(recipe))
    for label in labels:
        orders = 2 if isinstance(label.case, ComparisonCase) else 1
        requests += orders * config.votes
        file = COMPARISON_FILE if orders == 2 else RUBRIC_FILE
        length = len(str(label.case)) / CHARACTERS_PER_TOKEN + _words(file)
        tokens += orders * config.votes * length
    return requests, tokens


def _words(template: Path) -> float:
    return len(template.read_text(encoding="utf-8")) / CHARACTERS_PER_TOKEN


def _comparing(recipe: Recipe) -> float:
    return _words(COMPARISON_FILE) + len(recipe.evaluation.judge.criteria) / CHARACTERS_PER_TOKEN


def _labels(recipe: Recipe) -> list[Label]:
    config = recipe.evaluation.judge
    if not config.labels:
        return []
    return read_labels(Path(config.labels).expanduser(), "evaluation.judge.labels", config.criteria)
