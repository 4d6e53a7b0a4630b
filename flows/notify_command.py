"""`retune notify`."""

import sys
from typing import Annotated

import typer


def notify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="BLOCK",
            help="A notification block of Prefect's, e.g. slack-webhook/team, or an address of "
            "Apprise's, e.g. mailtos://user:password@example.org.",
        ),
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Tell also of runs after which nothing else serves.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Send nothing any more.")] = False,
) -> None:
    """Let Prefect send how runs end: promoted, rejected, skipped, crashed, or waiting for somebody.

    Needs a lasting Prefect server: `retune ui`, or one of your own. A first message is sent at once.
    """
    from flows import local
    from flows.notifications import NotSetUp, set_up
    from flows.notifications import remove as remove_all

    local.configure()
    local.require_server("what is sent is sent by a Prefect server")
    if remove:
        print(f"Removed {remove_all()} automations; the block is still there.")
        return
    if not target:
        raise NotSetUp("name a block, e.g. slack-webhook/team, or --remove")
    sent = set_up(target, everything)
    print(f"By {sent.block}, as Prefect's automations: {', '.join(sent.automations)}.")
    print("A first message was sent.", file=sys.stderr)
