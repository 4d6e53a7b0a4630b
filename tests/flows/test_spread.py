"""Rows that all machines of a cluster look at and score are judged as those of one machine are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from retune.placement import is_placed
from tasks.validate import spread
from tests.expectations.test_features import A, Q, prose, write
from tests.expectations.test_tables import conversations
from tests.flows.ray_hosts import Cluster
from tests.flows.spread_gate import KNOWN, PROMPT, REFUSED, judged, recipe
from tests.infra.stack import use_extra
from tests.tasks.test_scoring import make_classifier

SECRETS = ("SOME_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN")


def write_rows(folder: Path) -> Path:
    """Write rows of many kinds in row groups of 25."""
    leaks = [[("user", f"{prose(n, 5)} {PROMPT}"), ("assistant", prose(n, 30))] for n in range(3)]
    flawed = [
        [Q, ("assistant", "Ich weiß es nicht, und ich will es auch nicht wissen. " * 4)],
        [A, Q],
    ]
    path = write(folder, *conversations(), *leaks, *conversations()[5:80], *flawed)
    pq.write_table(pq.read_table(path), folder / "rows.parquet", row_group_size=25)
    return folder / "rows.parquet"


def left(folder: Path) -> dict[str, object]:
    return {
        file.name: pl.read_parquet(file).to_dicts()
        if file.suffix == ".parquet"
        else file.read_bytes()
        for file in folder.iterdir()
    }


@pytest.mark.slow  # a cluster of three hosts
@pytest.mark.timeout(600)
def test_three_hosts_judge_and_score_as_one_does(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        use_extra("cluster", "ray", patch, "--only-binary", ":all:")
        variables = {
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "RETUNE_STORE": (tmp_path / "store").as_uri(),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",  # which the gate does not ask
            **dict.fromkeys(SECRETS, "of the host"),
        }
        rows = write_rows(tmp_path)
        classifier = str(make_classifier(tmp_path / "classifier"))
        for name in ("one", "three"):
            (tmp_path / name).mkdir()
        monkeypatch.setenv("RETUNE_HOME", str(tmp_path / "home"))
        # As Ray has it where a task has one processor: sums of other parts have other last digits.
        patch.setenv("OMP_NUM_THREADS", "1")
        judged(rows, classifier, tmp_path / "one")
        cluster = Cluster(tmp_path, variables)
        try:
            cluster.start("a", cpus=1, resources={"stage": 1})  # its processor is the stage's
            cluster.start("b", cpus=1)
            cluster.start("c", cpus=1, gpus=1)  # which has all that is to be scored
            done = subprocess.run(
                [sys.executable, "-m", "tests.flows.spread_gate", cluster.address, str(rows),
                 classifier, str(tmp_path / "three")],
                env=os.environ | variables | {"RETUNE_HOME": str(tmp_path / "flow")},
                capture_output=True, text=True, timeout=400, check=False,
            )  # fmt: skip
            assert done.returncode == 0, (done.stdout, done.stderr, cluster.told())
        finally:
            cluster.stop()
    known = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob(f"*/{KNOWN}")}
    assert known.keys() == {"b", "c"}
    assert not [name for name in (*known["b"], *known["c"]) if name in SECRETS]
    one, three = left(tmp_path / "one"), left(tmp_path / "three")
    assert one.keys() == three.keys()
    assert [name for name in one if one[name] != three[name]] == []
    reasons = {reason for line in one["quarantine.parquet"] for reason in line["reasons"]}
    assert {"contaminated", "near_duplicate", "roles_out_of_order"} <= reasons
    assert pl.read_parquet(tmp_path / "one" / "features.parquet")["near_case"].n_unique() == 2
    assert len([*tmp_path.glob("a/scores/*.parquet")]) > 4  # where the stage was
    assert not [*tmp_path.glob("[bc]/scores/*")]
    assert (tmp_path / "a" / REFUSED).read_text() == "part 0 is refused"


def test_few_rows_and_those_of_one_machine_stay_there(tmp_path):
    rows = write_rows(tmp_path)
    assert not is_placed()
    assert spread.look_for(rows, recipe("c")) is spread.look_here
    code = (
        "import sys; from pathlib import Path; from tests.flows.spread_gate import recipe; "
        "from tasks.validate.spread import look_for; look_for(Path(sys.argv[1]), recipe('c')); "
        "print('ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(rows)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_parts_of_a_file_are_all_of_it(tmp_path, monkeypatch):
    rows = write_rows(tmp_path)
    monkeypatch.setattr(spread, "PART_ROWS", 60)
    read = spread._Reader(rows)
    parts = [pl.read_parquet(read(groups)) for groups in spread._parts(rows)]
    assert len(parts) > 3
    assert pl.concat(parts).equals(pl.read_parquet(rows))
