"""Results are kept as they come; what was cut when the process was killed is none."""

from pathlib import Path

from retune.journal import Journal


def test_what_was_kept_is_known_to_the_next_attempt(tmp_path: Path) -> None:
    path = tmp_path / "so_far.jsonl"
    first = Journal(path)
    first.add(("a", {"text": "ä\n"}), ("a", {"text": "again"}))
    first.add(("b", "plain"))
    assert first.known == Journal(path).known == {"a": {"text": "again"}, "b": "plain"}
    assert len([line for line in path.read_text().split("\n") if line]) == 3  # each in a line


def test_a_line_that_was_cut_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "so_far.jsonl"
    Journal(path).add(("a", 1))
    with path.open("a") as file:
        file.write('{"key": "cut in the m')
    Journal(path).add(("b", 2))
    assert Journal(path).known == {"a": 1, "b": 2}
