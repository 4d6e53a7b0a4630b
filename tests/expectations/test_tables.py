"""Tables that stay in files say what they would say in memory, however they are cut into parts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations.data import similarity, tables, validating
from expectations.data.features import cut, features
from expectations.data.messages import Rules
from expectations.data.profile import gaps
from expectations.data.profile.kinship import kinship
from expectations.data.profile.shapes import frequencies
from expectations.data.similarity import PERMUTATIONS, MinHashes, bands
from retune.disk_space import NoSpaceLeft
from retune.recipe import Validation
from tasks.validate.gate import gate
from tests.expectations.test_features import A, Q, prose, write

FRAME = pl.DataFrame({"row": range(10), "word": [None, *"abcdefghi"]})


def test_a_table_comes_back_in_order_whatever_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LINES", 3)
    with tables.writing(tmp_path / "t.parquet") as write_lines:
        for start, end in ((0, 0), (0, 1), (1, 8), (8, 10)):
            write_lines(FRAME[start:end])
    table = pl.scan_parquet(tmp_path / "t.parquet")
    found = list(tables.parts(table))
    assert [len(part) for part in found] == [3, 3, 3, 1]
    assert pl.concat(found).equals(FRAME)
    assert tables.Columns(table)["word"].equals(FRAME["word"])
    assert len(tables.Columns(table)) == 10
    batches = [FRAME[:4], FRAME[4:4], FRAME[4:9], FRAME[9:]]
    pairs = list(tables.alongside(batches, tables.parts(table)))
    assert all(lines.equals(batch) for batch, lines in pairs)
    assert len(pairs) == 4


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "t.parquet"
    FRAME.write_parquet(path)
    with pytest.raises(ZeroDivisionError), tables.writing(path) as write_lines:
        write_lines(FRAME[:2])
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]
    with tables.writing(path) as write_lines:
        for part in tables.parts(pl.scan_parquet(path)):
            write_lines(part.filter(pl.col("row") > 3))
    assert len(pl.read_parquet(path)) == 6


@pytest.mark.parametrize(
    ("count", "different"), [(0, 1), (1, 1), (200, 3), (200, 90), (200, 10**9)]
)
def test_what_was_there_before_is_found_by_sorting(count, different):
    values = np.random.default_rng(count + different).integers(0, different, count)
    values = values.astype(np.uint64)
    places: dict[int, list[int]] = {}
    for place, value in enumerate(values.tolist()):
        places.setdefault(value, []).append(place)
    later, first = tables.repeats(values)
    assert dict(zip(later.tolist(), first.tolist(), strict=True)) == {
        place: same[0] for same in places.values() for place in same[1:]
    }
    assert tables.occurrences(values).tolist() == [len(places[value]) for value in values.tolist()]
    counted = frequencies(pl.Series("value", values), 5)
    assert counted.equals(
        frequencies(pl.Series("value", values.astype(np.int64)), 5).cast(counted.schema)
    )


def twins_in_memory(signatures: np.ndarray, rows: np.ndarray, least: float) -> list[int]:
    """What is looked for, in the plainest way: the first row with the same band, if it is alike."""
    twins = [-1] * len(rows)
    for band in bands(signatures).T:
        first: dict[int, int] = {}
        for place, row in enumerate(rows):
            earlier = first.setdefault(int(band[row]), place)
            equal = signatures[row].astype(np.uint16) == signatures[rows[earlier]].astype(np.uint16)
            if twins[place] < 0 and earlier < place and equal.mean() >= least:
                twins[place] = earlier
    return twins


def test_near_duplicates_from_disk_are_those_found_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "COMPARED", 7)
    rng = np.random.default_rng(5)
    originals = rng.integers(0, 2**32, (60, PERMUTATIONS), dtype=np.uint32)
    signatures = originals[rng.integers(0, 60, 600)]
    changed = rng.random(signatures.shape) < rng.choice([0, 0.02, 0.1, 0.3], (600, 1))
    signatures[changed] = rng.integers(0, 2**32, int(changed.sum()), dtype=np.uint32)
    rows = np.flatnonzero(rng.random(600) < 0.9)
    with MinHashes(tmp_path, 600) as minhashes:
        for part in np.array_split(signatures, 7):
            minhashes.add(part)
        twins = minhashes.earlier_twins(rows, 0.85).tolist()
    assert twins == twins_in_memory(signatures, rows, 0.85)
    assert 200 < sum(twin >= 0 for twin in twins) < 530


def test_a_disk_without_room_for_the_minhashes_is_named_before_the_work(tmp_path):
    words = (
        r"looking for near duplicates among 1,000,000,000,000 rows takes .* lower dataset.max_rows"
    )
    with pytest.raises(NoSpaceLeft, match=words):
        MinHashes(tmp_path, 10**12)


def conversations() -> list:
    """Sound rows, equal and similar ones, and flawed ones, for several parts."""
    sound = [[("user", prose(n, 9) + "?"), ("assistant", prose(n + 900, 40))] for n in range(120)]
    similar = [[turns[0], ("assistant", turns[1][1] + " Indeed.")] for turns in sound[:9]]
    flawed = [[Q, ("assistant", "write to a@acme.org")], [A, Q], [Q, Q, A]]
    return [*sound, *flawed, *sound[5:20], *similar, *flawed]


def judged(folder: Path, **settings) -> dict[str, bytes | list]:
    """Return what a run of the gate leaves, by the files' names."""
    folder.mkdir()
    rows = conversations()
    scores = [None if n % 50 == 7 else 2 + n % 13 / 5 for n in range(len(rows))]
    config = Validation(min_rows=10, quarantine_rows="whole", **settings)
    path = write(folder, *rows, scores=scores, source=[f"s{n % 4}" for n in range(len(rows))])
    gate(path, Rules(config), folder)
    assert not list(folder.glob("retune-*"))
    assert not list(folder.glob("*.partial"))
    files = {file.name: file for file in folder.iterdir() if file.is_file()}
    return {
        name: pl.read_parquet(file).to_dicts() if file.suffix == ".parquet" else file.read_bytes()
        for name, file in files.items()
        if name not in ("expectations.json", "in.parquet")  # it says when
    }


def test_a_gate_that_sees_a_few_lines_at_a_time_says_the_same(tmp_path, monkeypatch, no_pages):
    settings = {"score_required": False, "keep_top_share": 0.5, "profile": {"enabled": True}}
    whole = judged(tmp_path / "whole", **settings)
    monkeypatch.setattr(tables, "LINES", 17)
    monkeypatch.setattr("tasks.validate.quarantine.LINES", 17)
    monkeypatch.setattr(validating, "CELLS", 500)
    monkeypatch.setattr("expectations.data.batches.batches.__defaults__", (23, 16 << 20))
    in_parts = judged(tmp_path / "parts", **settings)
    assert whole.keys() == in_parts.keys()
    assert [name for name in whole if whole[name] != in_parts[name]] == []
    flaws = {reason for line in whole["quarantine.parquet"] for reason in line["reasons"]}
    assert {"exact_duplicate", "near_duplicate", "email"} <= flaws


def test_what_is_kept_until_all_rows_are_seen_goes(tmp_path):
    path = write(tmp_path, *conversations())
    lines = features(path, Rules(Validation()), tmp_path)
    next(lines)
    assert list(tmp_path.glob("retune-*/own.parquet"))
    lines.close()
    assert not list(tmp_path.glob("retune-*"))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99, 1.0])
def test_the_best_share_ends_where_it_would_by_rank(share):
    rng = np.random.default_rng(3)
    scores = [None if rng.random() < 0.1 else float(rng.integers(0, 9)) for _ in range(200)]
    table = pl.DataFrame({"row": range(200), "score": scores, "malformed": rng.random(200) < 0.2})
    config = Validation(keep_top_share=share)
    sound = table.filter(~pl.col("malformed")).with_columns(pl.col("score").fill_null(-np.inf))
    rank = sound["score"].rank("ordinal", descending=True)
    best = set(sound.filter(rank <= np.ceil(len(sound) * share))["row"])
    last = cut(table.iter_slices(31), config)
    score, row = pl.col("score"), pl.col("row")
    passes = (score > last.score) | ((score == last.score) & (row <= last.row)) if last else True
    assert set(sound.filter(passes)["row"]) == best


def test_the_widest_gap_is_found_part_by_part(monkeypatch):
    rng = np.random.default_rng(4)
    for count, least in ((2, 0.0), (9, 0.2), (400, 0.0), (401, 0.1)):
        values = np.append(rng.normal(0, 1, count - count // 5), rng.normal(6, 1, count // 5))
        whole = gaps.cut(values, least)
        with monkeypatch.context() as patched:
            patched.setattr(gaps, "_AT_A_TIME", 7)
            share, upper = gaps.cut(values, least)
        assert share == whole[0]
        assert (upper == whole[1]).all()


def test_rows_that_resemble_their_neighbours_count_less_in_a_file_too(tmp_path):
    frame = pl.DataFrame({"a": np.repeat(np.random.default_rng(1).random(200), 3)})
    frame.write_parquet(tmp_path / "t.parquet")
    columns = tables.Columns(pl.scan_parquet(tmp_path / "t.parquet"))
    assert kinship(columns, ["a"]) == kinship(frame, ["a"]) > 2
