"""`retune status`."""

import json
import sys
from typing import Annotated

import typer


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print it for programs.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print what must be looked at, and end with exit code 1 if there is anything: for "
            "cron or a systemd timer. Asks no Prefect.",
        ),
    ] = False,
    notify: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            envvar="RETUNE_NOTIFY",
            help="With --check: where problems are sent, an address of Apprise's such as "
            "mailtos://user:password@example.org; better in the variable than on the command line.",
        ),
    ] = "",
) -> None:
    """Show how things stand: runs, champion, margins to the gates, spend, approvals, disk and GPU."""
    from flows import local

    local.configure()
    from flows.expiry import note_all_expired
    from flows.status import status as look

    try:
        note_all_expired()
        result = look()
    except Exception as error:
        if not check:
            raise
        # That nobody can say how things stand is the first thing to look at.
        _report([f"the state of things cannot be read: {type(error).__name__}: {error}"], notify)
        return
    if check:
        _report(result.problems, notify)
    elif as_json:
        print(json.dumps(result.model_dump(mode="json"), indent=1))
    else:
        from rich import print as show

        show(f"{result.verdict}, {result.at:%Y-%m-%d %H:%M} UTC")
        for grid in result.grids():
            show("", grid.rich())


def _report(problems: list[str], address: str) -> None:
    """Print the problems, send them, and end with exit code 1 if there are any."""
    from retune.escaping import terminal

    text = terminal("\n".join(f"- {problem}" for problem in problems))
    if not problems:
        print("All is well.")
        return
    print(text)
    if address and not _sent(text, address):
        print("retune: the message could not be sent; correct the address", file=sys.stderr)
    sys.exit(1)


def _sent(text: str, address: str) -> bool:
    from socket import gethostname

    from apprise import Apprise

    sender = Apprise()
    return bool(sender.add(address) and sender.notify(text, title=f"retune on {gethostname()}"))
