"""Several datasets as one: pinned, read and sampled each by itself, judged together and apart."""

import json
from pathlib import Path

import polars as pl
import pytest

from expectations.data.messages import Rules
from retune.ignored import Ignored
from retune.pinning import pin_all, pin_dataset, resolved
from retune.recipe import Dataset, Recipe, RecipeError, Validation
from retune.sources import SourceError
from tasks.fetch.guarded import fetch_rows
from tasks.fetch.key import key
from tasks.validate.gate import gate


def rows_file(path: Path, count: int, word: str = "row", start: int = 0) -> Path:
    rows = [{"prompt": f"{word} {n}?", "completion": f"yes, {n}"} for n in range(start, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mix(*parts: dict, **settings) -> Dataset:
    return Dataset(mix=parts, **settings)


@pytest.fixture
def read_here(monkeypatch):
    """Parts are read in this process: children take their time to start."""
    from tasks.fetch import guarded
    from tasks.fetch.child import work

    def run(script, job, log, subject, network=False):
        return work(job)

    monkeypatch.setattr(guarded, "run_confined", run)


def fetched(dataset: Dataset, folder: Path) -> pl.DataFrame:
    folder.mkdir(exist_ok=True)
    version, parts = pin_dataset(dataset)
    count = fetch_rows(dataset, version, folder, parts)
    table = pl.read_parquet(folder / "rows.parquet")
    assert table["row"].to_list() == list(range(count))
    return table


def asked(table: pl.DataFrame) -> list[str]:
    return [row[0]["content"] for row in table["messages"].to_list()]


def test_parts_follow_each_other_with_their_names_and_row_numbers(tmp_path):
    """In confined children, as a run reads them."""
    a, b = rows_file(tmp_path / "a.jsonl", 3, "a"), tmp_path / "b.csv"
    b.write_text("prompt;completion;source\nb 0;x;books\nb 1;x;\n", encoding="utf-8")
    dataset = mix({"source": str(a), "name": "first"}, {"source": str(b), "split": "train[1:]"})
    table = fetched(dataset, tmp_path / "out")
    assert table.select("part", "part_row", "source").rows() == [
        *(("first", n, "first") for n in range(3)),
        (str(b), 0, str(b)),
    ]
    assert asked(table) == ["a 0?", "a 1?", "a 2?", "b 1"]


@pytest.mark.parametrize(("size", "count"), [({"rows": 30}, 30), ({"weight": 0.25}, 25)])
def test_a_part_gives_as_many_rows_as_it_should(tmp_path, read_here, size, count):
    dataset = mix({"source": str(rows_file(tmp_path / "a.jsonl", 100)), **size})
    table = fetched(dataset, tmp_path / "out")
    assert len(table) == count
    assert table["part_row"].is_sorted()
    assert table["part_row"].max() > 2 * count  # not simply the first


def test_the_choice_stays_when_a_part_grows_or_is_reordered(tmp_path, read_here):
    path = rows_file(tmp_path / "a.jsonl", 200)
    dataset = mix({"source": str(path), "rows": 50})
    before = set(asked(fetched(dataset, tmp_path / "1")))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)))
    assert set(asked(fetched(dataset, tmp_path / "2"))) == before
    rows_file(path, 220)
    after = set(asked(fetched(dataset, tmp_path / "3")))
    new = {f"row {n}?" for n in range(200, 220)}
    assert after - before <= new
    assert len(before - after) == len(after & new)
    other = dataset.model_copy(update={"mix_seed": 1})
    assert set(asked(fetched(other, tmp_path / "4"))) != after


def test_a_small_share_of_a_small_part_is_one_row(tmp_path, read_here):
    dataset = mix({"source": str(rows_file(tmp_path / "a.jsonl", 2)), "weight": 0.1})
    assert len(fetched(dataset, tmp_path / "out")) == 1


def test_no_two_parts_have_one_name():
    parts = [{"source": "s", "name": name} for name in ("a (part 2)", "a", "a", "a")]
    assert len(set(mix(*parts).names)) == 4


def test_a_part_with_too_few_rows_gives_all_and_says_so(tmp_path, read_here):
    dataset = mix({"source": str(rows_file(tmp_path / "a.jsonl", 3)), "rows": 5})
    version, parts = pin_dataset(dataset)
    said: list[str] = []
    (tmp_path / "out").mkdir()
    assert fetch_rows(dataset, version, tmp_path / "out", parts, said.append) == 3
    assert said == [f"dataset.mix.0.rows: {tmp_path / 'a.jsonl'} has 3 rows, not 5; all are taken"]


def test_what_is_wrong_with_a_part_names_the_part(tmp_path):
    good = {"source": str(rows_file(tmp_path / "a.jsonl", 3))}
    with pytest.raises(SourceError, match=r"^dataset.mix.1.source: nothing is at"):
        pin_dataset(mix(good, {"source": str(tmp_path / "gone.jsonl")}))
    (tmp_path / "b.jsonl").write_text('{"text": "no columns"}\n')
    with pytest.raises(SourceError, match=r"^dataset.mix.1.source: no usable columns"):
        fetched(mix(good, {"source": str(tmp_path / "b.jsonl")}), tmp_path / "out")


def test_a_part_that_changed_after_the_pin_is_not_read(tmp_path, read_here):
    a, b = (rows_file(tmp_path / name, 3) for name in ("a.jsonl", "b.jsonl"))
    dataset = mix({"source": str(a)}, {"source": str(b)})
    version, parts = pin_dataset(dataset)
    rows_file(b, 4)
    assert pin_dataset(dataset)[0] != version
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match=r"dataset.mix.1.source: .*b.jsonl changed while"):
        fetch_rows(dataset, version, tmp_path / "out", parts)


def test_a_resolved_mix_has_each_part_s_commit_and_the_same_key(hub, tmp_path):
    commit = hub.add_dataset("org/mixed", {"a.jsonl": b'{"prompt": "a", "completion": "b"}'})
    values = {
        "name": "r",
        "model": {"base": str(tmp_path)},
        "dataset": {
            "mix": [
                {"source": "org/mixed", "revision": "main", "rows": 3},
                {"source": str(rows_file(tmp_path / "a.jsonl", 3))},
            ]
        },
        "validation": {"classifier": {"score": "never"}},
    }
    recipe = Recipe.parse(values)
    pins = pin_all(recipe)
    assert pins.mix[0] == commit
    assert pins.mix[1].startswith("sha256:")
    assert {"mix.0", "mix.1", "dataset"} <= pins.named().keys()
    again = Recipe.parse(resolved(recipe, pins).model_dump(mode="json"))
    assert [part.revision for part in again.dataset.mix] == [commit, None]
    assert pin_all(again) == pins
    assert key(again, pins) == key(recipe, pins)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"source": "a", "mix": [{"source": "b"}]}, "source and mix are both set"),
        ({"mix": []}, "source is missing"),
        ({"mix": [{"source": "b"}], "split": "test"}, "split is set beside mix"),
        ({"mix": [{"source": "b", "rows": 2, "weight": 0.5}]}, "has rows and weight"),
        ({"mix": [{"source": "b", "weight": 2}]}, "dataset.mix.0.weight: should be less than or"),
        ({"mix": [{"source": "b", "rowz": 2}]}, "'dataset.mix.0.rowz'; did you mean 'rows'?"),
        ({"mix": [{"rows": 2}]}, "dataset.mix.0.source is missing; add it"),
    ],
)
def test_a_mix_that_makes_no_sense_is_told(dataset, words):
    with pytest.raises(RecipeError) as mistake:
        Recipe.parse({"name": "r", "model": {"base": "b"}, "dataset": dataset})
    assert words in str(mistake.value)


def test_the_gate_judges_each_part_and_the_whole(tmp_path, read_here):
    """A small part that is nearly all unsound is a warning, though the whole is sound enough."""
    good = rows_file(tmp_path / "good.jsonl", 400, "what is the number after")
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "said well", "completion": "yes"}\n'
        + '{"prompt": "", "completion": "x"}\n{"messages": []}\n' * 5
    )
    dataset = mix(
        {"source": str(good), "name": "good"},
        {"source": str(tmp_path / "bad.jsonl"), "name": "<b>bad</b>"},
    )
    fetched(dataset, tmp_path / "out")
    config = Validation.model_validate(
        {
            "score_required": False,
            "classifier": {"score": "never"},
            "near_duplicate_similarity": None,
        }
    )
    (tmp_path / "report").mkdir()
    report = gate(tmp_path / "out" / "rows.parquet", Rules(config), tmp_path / "report")
    sound, bad = report.by_part
    assert (sound.name, sound.rows, sound.quarantined) == ("good", 400, 0)
    assert (bad.rows, bad.quarantined, bad.accepted) == (11, 10, 1)
    assert set(bad.flaws.values()) == {5}
    (verdict,) = (v for v in report.warnings if v.name == "max_part_quarantined_share")
    assert verdict.seen == "90.9% of <b>bad</b> (10 of 11 rows)"
    assert verdict.setting == "validation.max_quarantined_share"
    finding = next(finding for finding in report.findings if finding.flaw == "no_messages")
    assert finding.examples[0].part == "<b>bad</b>, row 2"
    page = (tmp_path / "report" / "data_docs" / "index.html").read_text()
    assert "Parts of the mix" in page
    assert "<b>bad</b>" not in page
    assert "| good | 400 | 400 | 0 |  |" in report.markdown()
    assert pl.read_parquet(tmp_path / "report" / "rows.parquet")["part"].n_unique() == 2


def test_a_name_that_one_part_ignores_is_told_of_the_other(tmp_path, read_here):
    rows = [{"prompt": f"{n}?", "completion": "yes", "id": n, "lang": "en"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = str(tmp_path / "a.jsonl")
    dataset = mix(
        {"source": source, "ignore": ["id", "lang"]}, {"source": source, "ignore": ["id"]}
    )
    fetched(dataset, tmp_path / "out")
    everything = Ignored.beside(tmp_path / "out" / "rows.parquet")
    assert everything.without(dataset.acknowledged).columns == {"lang": 3}
    assert everything.without(()).columns == {"id": 6, "lang": 6}


def test_without_a_mix_nothing_is_said_of_parts(tmp_path, read_here):
    dataset = Dataset(source=str(rows_file(tmp_path / "a.jsonl", 120)))
    table = fetched(dataset, tmp_path / "out")
    assert "part" not in table.columns
    config = Validation.model_validate({"score_required": False, "classifier": {"score": "never"}})
    (tmp_path / "report").mkdir()
    report = gate(tmp_path / "out" / "rows.parquet", Rules(config), tmp_path / "report")
    assert report.by_part == []
    assert "max_part_quarantined_share" not in {verdict.name for verdict in report.verdicts}
