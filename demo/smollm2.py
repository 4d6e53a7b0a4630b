"""Makes the inputs of the deployment `smollm2`: a real base model, and the support mail it learns from.

python -m demo.smollm2
"""

import shutil
import sys
from pathlib import Path

from demo import smollm2_base, support_mail
from retune.errors import RetuneError
from retune.home import cache_dir, keep_private, make_home, mark, remove

MADE_BY = "made-by"


def prepare(into: Path, cache: Path) -> None:
    """Write the base model and the rows into the folder `into`; what is up to date is left alone.

    Raises BaseUnavailable, and NotOurs if another model is there.
    """
    _prepare_rows(into)
    key = smollm2_base.fingerprint()
    if (into / MADE_BY).is_file() and (into / MADE_BY).read_text() == key:
        print(f"The base model is up to date in {into / 'base'}")
        return
    base = into / "base"
    remove(base)
    shutil.copytree(smollm2_base.base(cache), mark(base), dirs_exist_ok=True)
    (into / MADE_BY).write_text(key)
    print(f"Wrote {base}: SmolLM2-135M-Instruct")


def _prepare_rows(into: Path) -> None:
    """Write the rows anew; a person's own changes to them are not kept."""
    into.mkdir(parents=True, exist_ok=True)
    rows, path = support_mail.make(), into / "support-mail.jsonl"
    support_mail.write(rows, path)
    print(f"Wrote {path}: {len(rows):,} rows")


if __name__ == "__main__":
    keep_private()
    try:
        prepare(make_home() / "smollm2", cache_dir())
    except RetuneError as error:
        sys.exit(f"the inputs of smollm2 were not made: {error}")
