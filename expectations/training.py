"""The judge of train: a training that diverged is no candidate for anything."""

from expectations.verdicts import Judgement, Verdict
from retune.records import Adapter

GATE = "train"


def diverged(reason: str) -> Judgement:
    """Return the verdict on a training that was stopped because of `reason`."""
    return _judgement(reason, passed=False)


def judgement(adapter: Adapter) -> Judgement:
    """Return the verdict on a training that came to its end."""
    steps, loss = adapter.metrics["steps"], adapter.metrics["final_loss"]
    return _judgement(f"{steps:,.0f} steps, the last loss {loss:.4g}", passed=True)


def _judgement(seen: str, passed: bool) -> Judgement:
    verdict = Verdict(
        gate=GATE,
        name="convergence",
        expected="the training converges (training.max_loss_rise, training.max_gradient_norm)",
        seen=seen,
        passed=passed,
    )
    return Judgement(GATE, "training", (verdict,))
