"""What may go wrong: what a person can mend, and everything else.

A `RetuneError` is a mistake in what was given, or a machine that lacks something: its message says
what was wrong, the value seen and what to change, and is all that the person is shown. A
`ProgramFailed` ends a run by what another program said. Any other exception is a fault of the code
and keeps its traceback.
"""


class RetuneError(Exception):
    """Something that a person can mend; the message says how."""


class HubUnreachable(RetuneError, ConnectionError):
    """The Hub did not answer, which may be otherwise soon: worth a retry."""


class ProgramFailed(RuntimeError):
    """A child process, or a program of others, failed; the message says where and with what words.

    `signal` is the one that killed it, None if none did.
    """

    signal: int | None = None


# Their message is all that a person needs; the system's own errors name a path.
TOLD_ERRORS = (RetuneError, ProgramFailed, OSError)
