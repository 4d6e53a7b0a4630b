"""Everyone is asked the same questions."""

import polars as pl

from retune import held_out
from retune.recipe import Quantization


def test_questions_are_spread_over_the_families(tmp_path):
    families = ["a"] * 6 + ["b"] * 2
    pl.DataFrame(
        {
            "row": range(8),
            "source": families,
            "messages": [
                [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]
                for n in range(8)
            ],
            "text": [f"t{n}" for n in range(8)],
            "input_ids": [[1] * (12 if n == 7 else 8) for n in range(8)],
        }
    ).write_parquet(tmp_path / "h.parquet")
    asked = held_out.questions(tmp_path / "h.parquet", 4, 12)
    assert [(q.family, q.row) for q in asked] == [("a", 0), ("b", 6), ("a", 1), ("b", 7)]
    assert asked[0].prompt == [{"role": "user", "content": "q0"}]
    assert asked[0].matches(" a0\n")
    assert not asked[0].matches("a1")
    # Longer ones than are trained are not asked: an engine may have no room for them.
    fitting = held_out.questions(tmp_path / "h.parquet", 4, 11)
    assert [(q.family, q.row) for q in fitting] == [("a", 0), ("b", 6), ("a", 1), ("a", 2)]
    assert held_out.questions(tmp_path / "h.parquet", 4, 7) == []
    assert held_out.text(tmp_path / "h.parquet", 0, 3) == "t0t1t2"
    assert held_out.text(tmp_path / "h.parquet", 6, 3) == "t6t7"


def test_no_quant_is_measured_on_what_its_importance_matrix_was_made_of(tmp_path):
    pl.DataFrame({"text": ["t"] * 9}).write_parquet(tmp_path / "h.parquet")
    for settings, rows in (
        ({"methods": ["q4_k_m"]}, 4),
        ({"methods": ["q4_k_m"], "perplexity_rows": 3}, 3),
        ({"methods": ["q4_k_m"], "imatrix": "never"}, 9),
        ({"methods": ["q8_0"]}, 9),
    ):
        assert held_out.measured_rows(tmp_path / "h.parquet", Quantization(**settings)) == rows
