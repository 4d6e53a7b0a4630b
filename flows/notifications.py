"""`retune notify`: Prefect's automations that send how runs end, by one of Prefect's notification blocks.

What is sent is the message of the run's state: the reason, then three numbers (see `flows.endings`). So
the flow itself sends nothing, and what no flow could tell, a crash, is told as well.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from flows.run_names import FLOW
from retune.errors import RetuneError

if TYPE_CHECKING:
    from prefect.automations import Automation
    from prefect.blocks.notifications import NotificationBlock

# Names of Prefect's states, which name its events.
TOLD = (
    *("Promoted", "Rejected", "Barred", "Failed", "Crashed", "TimedOut", "Skipped"),
    "AwaitingApproval",  # of a deployment, too: Suspended for a moment before, without a message
)
CANCELLED = "Cancelled"  # also a run that a schedule dropped
# A run says so with what is kept, its worker once more, and the watchdog puts that right.
ONCE = timedelta(minutes=5)
UNCHANGED = ("Equivalent", "Undecided", "Registered")  # nothing else serves now: only if asked for
SUBJECT = "retune: {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"
RESUMED = "retune: {{ flow_run.name }} goes on after a crash"
PLAIN = "slack-webhook"  # the block of Prefect's that hands an address of Apprise's on as it is
OURS = "retune-notify"  # name of the block that is made for an address, and prefix of automations


class NotSetUp(RetuneError):
    """Notifications that cannot be sent."""


class Sent(NamedTuple):
    """What is set up: the names of the automations, and the block that they send by."""

    automations: tuple[str, ...]
    block: str


def set_up(target: str, everything: bool) -> Sent:
    """Make the automations that send by `target`, in the place of those that there are.

    It is a notification block of Prefect's (`slack-webhook/NAME`), or an address of Apprise's
    (`mailtos://…`, `json://…`), which is kept in a block. A message is sent at once. Raises NotSetUp.
    """
    block, name = _block(target)
    _try(block, name)
    document = block._block_document_id  # Prefect's own code has no other way to it
    assert document is not None, "it was loaded or saved"
    remove()
    automations = _automations(document, everything)
    for automation in automations:
        automation.create()
    return Sent(tuple(automation.name for automation in automations), name)


def remove() -> int:
    """Take the automations away, and return how many there were; the block stays."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        ours = [
            one
            for one in client.request("POST", "/automations/filter", json={}).json()
            if one["name"].startswith(f"{OURS}: ")
        ]
        for one in ours:
            client.request("DELETE", "/automations/{id}", path_params={"id": one["id"]})
    return len(ours)


def _block(target: str) -> "tuple[NotificationBlock, str]":
    from prefect.blocks.core import Block
    from prefect.blocks.notifications import NotificationBlock, SlackWebhook

    if "://" in target:
        _require_address(target)
        made = SlackWebhook(url=target)
        made.save(OURS, overwrite=True, _sync=True)  # type: ignore[call-arg]
        return made, f"{PLAIN}/{OURS}"
    try:
        block: Any = Block.load(target, _sync=True)  # type: ignore[call-arg]
    except (ValueError, RuntimeError):
        raise NotSetUp(
            f"Prefect has no block {target!r:.200}: make one below Blocks on its pages (Slack Webhook, "
            f"Custom Webhook, …), name it as TYPE/NAME such as slack-webhook/team, or give an address "
            f"such as mailtos://user:password@example.org"
        ) from None
    if not isinstance(block, NotificationBlock):
        raise NotSetUp(f"the block {target!r:.200} sends no notifications; name another")
    return block, target


def _require_address(address: str) -> None:
    from apprise import Apprise

    if not Apprise().add(address):  # the address itself may hold a password
        raise NotSetUp(
            f"{address.partition(':')[0]!r:.40}://… is no address that Apprise knows; see "
            f"https://appriseit.com/services for their forms, e.g. mailtos://user:password@example.org"
        )


def _try(block: "NotificationBlock", name: str) -> None:
    """Send a first message, so that a wrong address is seen now."""
    sender: Any = block  # its types do not tell of `_sync`
    try:
        with block.raise_on_failure():
            sender.notify("Runs of retune are told here from now on.", "retune", _sync=True)
    except Exception as error:
        raise NotSetUp(
            f"{name} did not take a message ({type(error).__name__}): correct its address, and see that "
            f"this machine reaches it"
        ) from None


def _automations(document: UUID, everything: bool) -> "list[Automation]":
    from prefect.automations import Automation
    from prefect.events.actions import SendNotification

    ends = (*TOLD, *UNCHANGED) if everything else TOLD
    return [
        Automation(
            name=f"{OURS}: how runs end",
            description="Sends reason, three numbers and link. Made by `retune notify`.",
            trigger=_trigger(expect=ends),
            actions=[SendNotification(block_document_id=document, subject=SUBJECT, body=BODY)],
        ),
        Automation(
            name=f"{OURS}: cancelled",
            description="Sends once that a run was cancelled. Made by `retune notify`.",
            trigger=_trigger(expect=(CANCELLED,), within=ONCE),
            actions=[SendNotification(block_document_id=document, subject=SUBJECT, body=BODY)],
        ),
        Automation(
            name=f"{OURS}: resumed",
            description="Sends that a run goes on after a crash. Made by `retune notify`.",
            trigger=_trigger(expect=("Running",), after=("Crashed",)),
            actions=[SendNotification(block_document_id=document, subject=RESUMED, body=BODY)],
        ),
    ]


def _trigger(
    expect: Iterable[str], after: Iterable[str] = (), within: timedelta = timedelta(0)
) -> Any:
    """Return what sends at the first of these events of a run, and at no other for the time `within`."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={
            "prefect.resource.role": "flow",
            "prefect.resource.name": FLOW,
        },
        for_each={"prefect.resource.id"},
        after={f"prefect.flow-run.{name}" for name in after},
        expect={f"prefect.flow-run.{name}" for name in expect},
        posture=Posture.Reactive,
        threshold=1,
        within=within,
    )
