"""The replies of a judge, kept as they come, so that an attempt goes on where the last was killed."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from retune.journal import Journal
from retune.judging.cases import LONGEST_REPLY, JudgeRequest
from retune.judging.endpoint import endpoint
from retune.judging.errors import JudgeFailed, NoReply
from retune.recipe import LLMJudge

SECONDS = 10.0  # between two words about the progress
Ask = Callable[[JudgeRequest], str]
Tell = Callable[[int, int], None]  # how many replies there are, of how many


def replies(
    requests: Iterable[JudgeRequest], config: LLMJudge, key: str, log: Path, tell: Tell
) -> dict[str, str | None]:
    """Return the reply to each request by the request's key, None where the judge has none; those in
    `log` are not asked again.

    Raises JudgeFailed, also if the judge replied to nothing at all; JudgeUnavailable.
    """
    kept = Journal(log)
    distinct = {request.key: request for request in requests}
    waiting = [request for name, request in distinct.items() if name not in kept.known]
    if not waiting:
        return {name: kept.known[name] for name in distinct}
    done = len(distinct) - len(waiting)

    def progress(count: int, _: int) -> None:
        tell(done + count, len(distinct))

    if config.gguf:
        from retune.judging.local import at_a_time, local

        with_judge = local(config, waiting)
        refused = with_judge(lambda ask, on: ask_all(waiting, ask, at_a_time(on), kept, progress))
    else:
        with endpoint(config, key) as judge:
            refused = ask_all(waiting, judge.ask, config.parallel, kept, progress)
    if not kept.known:
        reason = next(iter(refused.values()), "no request")
        raise JudgeFailed(f"evaluation.judge: the judge replied to nothing ({reason})")
    return {name: kept.known.get(name) for name in distinct}


def ask_all(
    requests: Sequence[JudgeRequest], ask: Ask, parallel: int, log: Journal, tell: Tell
) -> Mapping[str, str]:
    """Ask all requests, `parallel` at a time, and keep the replies in `log`; return by key why there is
    none to some. What else fails ends it at once, and what has not been asked by then is not."""
    refused: dict[str, str] = {}
    spoken_at = 0.0
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(ask, request): request for request in requests}
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                request = futures[future]
                try:
                    log.add((request.key, future.result()[-LONGEST_REPLY:]))
                except NoReply as reason:
                    refused[request.key] = str(reason)
                if time.monotonic() - spoken_at >= SECONDS or count == len(requests):
                    spoken_at = time.monotonic()
                    tell(count, len(requests))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return refused


def key_of(config: LLMJudge, secret: Callable[[str], str]) -> str:
    """Return the endpoint's key, "" if it needs none; `secret` gives a secret by its name.

    Raises JudgeFailed for a variable that is not set.
    """
    if config.key_secret:
        return secret(config.key_secret)
    if not config.key_variable:
        return ""
    key = os.environ.get(config.key_variable, "").strip()
    if not key:
        raise JudgeFailed(
            f"evaluation.judge.key_variable: the environment variable {config.key_variable} is not set "
            f"where the run is; set it, or name a Prefect Secret block in key_secret"
        )
    return key
