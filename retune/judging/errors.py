"""What may go wrong with a judge."""

from retune.errors import RetuneError


class JudgeFailed(RetuneError):
    """The judge cannot be asked; the message says why and what to change. Never carries the key."""


class JudgeUnavailable(JudgeFailed, ConnectionError):
    """The endpoint could not be reached or did not answer properly, also after retries."""


class NoReply(RetuneError):
    """The judge has nothing to say to this one request."""
