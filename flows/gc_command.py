"""The command `retune gc`: what takes disk and nobody needs."""

from collections import Counter
from typing import Annotated

import typer

from retune.escaping import visible
from retune.measures import format_bytes
from retune.retention import Inventory, Retention
from retune.store.place import Store, StoreError, store

_FIELDS = Retention.model_fields


def _option(name: str) -> typer.models.OptionInfo:
    return typer.Option(min=0, help=_FIELDS[name].description)


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove it; without this only say what would go.")
    ] = False,
    in_store: Annotated[
        bool,
        typer.Option("--store", help="Of the store that RETUNE_STORE names, not of this home."),
    ] = False,
    keep_runs: Annotated[int, _option("keep_runs")] = _FIELDS["keep_runs"].default,
    keep_days: Annotated[float, _option("keep_days")] = _FIELDS["keep_days"].default,
    checkpoint_days: Annotated[float, _option("checkpoint_days")] = _FIELDS[
        "checkpoint_days"
    ].default,
) -> None:
    """Say which outputs nobody needs, their bytes and why; with --delete, remove them.

    What champion, previous and challenger were made of stays, and what an open run builds or may go on
    from.
    """
    from flows import local
    from retune.retention import collect, inventory
    from retune.store.leftovers import collect_from, inventory_of

    local.configure()
    retention = Retention(keep_runs=keep_runs, keep_days=keep_days, checkpoint_days=checkpoint_days)
    shared = _store() if in_store else None
    there = inventory_of(shared, retention) if shared else inventory(retention)
    for line in lines(there):
        print(line)
    if not delete:
        print("Nothing was removed; --delete does it." if there.leftovers else "Nothing is to go.")
        return
    gone = collect_from(shared, retention) if shared else collect(there.leftovers, retention)
    freed = sum(leftover.bytes for leftover in gone)
    print(f"Removed {len(gone)} folders, {format_bytes(freed)}.")


def _store() -> Store:
    """Return the store. Raises StoreError where there is none."""
    shared = store()
    if shared is None:
        raise StoreError("--store: RETUNE_STORE names none; set it, such as s3://bucket/prefix")
    return shared


def lines(there: Inventory) -> list[str]:
    """Return what would go, the largest first, and what stays by what it stays for."""
    told = [
        visible(f"{format_bytes(one.bytes):>10}  {one.folder}  {one.reason}")
        for one in sorted(there.leftovers, key=lambda one: -one.bytes)
    ]
    kept = Counter[str]()
    for one in there.kept:
        kept[one.reason.partition(" (")[0]] += one.bytes
    told += [f"{format_bytes(there.freed):>10}  can be freed"]
    told += [visible(f"{format_bytes(count):>10}  stays: {why}") for why, count in kept.items()]
    return told
