"""The judge of publish: what the Hub holds is what was made."""

from expectations.verdicts import Judgement, Verdict
from retune.records import Published

GATE = "publish"


def judgement(published: Published) -> Judgement:
    """Return the verdict on an upload; publish itself ends when a hash is another."""
    files = published.metrics["files"]
    verdict = Verdict(
        gate=GATE,
        name="verified",
        expected="every file on the Hub has the hash of the one that was made",
        seen=f"{files:,.0f} files in {len(published.commits)} repositories do",
        passed=True,
    )
    return Judgement(GATE, "publication", (verdict,))
