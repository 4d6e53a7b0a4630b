"""The charts: real PNG files of a sensible size, whatever is drawn, with the finding in words."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from retune import plots
from retune.histograms import edges_of, shares_in

SCORES = np.random.default_rng(0).normal(3.0, 0.6, 5000)
LENGTHS = np.random.default_rng(0).lognormal(6, 1, 5000).astype(int) + 1
QUANTILES = tuple(np.quantile(SCORES, np.linspace(0, 1, 1001)))


def colours(path) -> set[str]:
    """Return the chart's own colours that are in the picture; the file is checked as it is read."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == plots.WIDTH * plots.DPI
        assert 100 < image.height < 3000
        seen = {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in image.convert("RGB").getcolors(2**20)}
    return seen & {plots.BLUE, plots.ORANGE}


@pytest.fixture
def words(monkeypatch):
    """The headlines of the charts drawn, as text."""
    seen: list[str] = []
    draw = plots._headlines

    def listen(title, subtitle, *height):
        seen.extend((title, subtitle))
        return draw(title, subtitle, *height)

    monkeypatch.setattr(plots, "_headlines", listen)
    return seen


def test_scores_below_the_threshold_have_another_colour(tmp_path, words):
    plots.score_histogram(SCORES, tmp_path / "a.png", 2.5, QUANTILES)
    plots.score_histogram(SCORES, tmp_path / "b.png", 0.5)
    plots.score_histogram(SCORES, tmp_path / "c.png")
    assert colours(tmp_path / "a.png") == {plots.BLUE, plots.ORANGE}
    assert colours(tmp_path / "b.png") == colours(tmp_path / "c.png") == {plots.BLUE}
    below = np.mean(SCORES < 2.5)
    assert words[0] == f"{below:.1%} of the scores lie below 2.5"
    assert "the last accepted dataset's median was" in words[1]
    assert words[2] == "No score lies below 0.5"
    assert words[4] == "Half of the scores lie between 2.59 and 3.41"


def test_the_last_accepted_dataset_is_an_outline_with_a_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    plots.score_histogram(SCORES, tmp_path / "a.png", 2.5, QUANTILES)
    plots.score_histogram(SCORES, tmp_path / "b.png", 2.5)
    with_outline, without = (figure.axes[0] for figure in drawn)
    texts = [text.get_text() for text in with_outline.get_legend().get_texts()]
    assert texts == ["this dataset", "last accepted dataset"]
    assert without.get_legend() is None
    bars, _, outline = (patch.get_data().values for patch in with_outline.patches)
    assert outline == pytest.approx(bars, abs=0.25)  # percent; the two are one distribution


@pytest.mark.parametrize("threshold", [None, 2.5])
@pytest.mark.parametrize(
    "reference",
    [QUANTILES, *(pytest.param(r, marks=pytest.mark.proof) for r in (None, (3.0,) * 1001))],
)
@pytest.mark.parametrize(
    "scores",
    [[], [3.2], [0.0], [-1e9, 1e9], [2.5] * 100, np.arange(6), SCORES.astype(np.float32)],
    ids=["none", "one", "zero", "far apart", "all equal", "whole numbers", "float32"],
)
def test_any_scores_can_be_drawn(tmp_path, scores, threshold, reference):
    path = tmp_path / "scores.png"
    plots.score_histogram(np.array(scores), path, threshold, reference)
    assert bool(colours(path)) == bool(len(scores))


def test_a_million_values_are_drawn(tmp_path):
    many = np.random.default_rng(0).normal(3, 1, 1_000_000)
    plots.score_histogram(many, tmp_path / "scores.png", 2.5)
    plots.length_histogram((np.abs(many) * 300).astype(int) + 1, 2048, tmp_path / "lengths.png")
    assert colours(tmp_path / "scores.png") == {plots.BLUE, plots.ORANGE}
    assert colours(tmp_path / "lengths.png") == {plots.BLUE}


def test_what_the_cut_takes_is_said_and_coloured(tmp_path, words):
    plots.length_histogram(np.array([100] * 9 + [1100]), 1000, tmp_path / "a.png")
    plots.length_histogram(LENGTHS, 100_000, tmp_path / "b.png")
    assert colours(tmp_path / "a.png") == {plots.BLUE, plots.ORANGE}
    assert colours(tmp_path / "b.png") == {plots.BLUE}
    assert words[0] == "10.0% of the conversations are longer than 1,000 tokens"
    assert words[1].endswith("the cut takes 5.0% of all tokens")
    assert words[2] == "No conversation is longer than 100,000 tokens"


@pytest.mark.parametrize("max_length", [16, 500, 131_072])
@pytest.mark.parametrize(
    "lengths",
    [[], [1], [16], [500] * 10, [1, 2, 3], LENGTHS],
    ids=["none", "shortest", "equal to the cut", "all equal", "short", "many"],
)
def test_any_lengths_can_be_drawn(tmp_path, lengths, max_length):
    path = tmp_path / "lengths.png"
    plots.length_histogram(np.array(lengths, dtype=int), max_length, path)
    assert bool(colours(path)) == bool(len(lengths))


def test_reasons_are_ranked_and_those_of_no_row_left_out(tmp_path, words, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    counts = {"rare": 1, "never": 0, "common": 30, "costs $5 to $6": 30}
    plots.reasons_chart(counts, 2000, tmp_path / "reasons.png")
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "common",
        "costs $5 to $6",
        "rare",
    ]
    assert [text.get_text() for text in axes.texts] == [
        "30  (1.5%)",
        "30  (1.5%)",
        "1  (under 0.1%)",
    ]
    assert words[0] == "Most common flaw: common, in 1.5% of the rows"


@pytest.mark.parametrize(
    ("counts", "rows"),
    [({}, 0), ({}, 100), ({"a": 0}, 10), ({"a": 1}, 1), ({f"flaw {n}": n for n in range(40)}, 40)],
)
def test_any_reasons_can_be_drawn(tmp_path, counts, rows):
    path = tmp_path / "reasons.png"
    plots.reasons_chart(counts, rows, path)
    assert bool(colours(path)) == any(counts.values())


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(0, 9, "0.0%"), (1, 10_000, "under 0.1%"), (9999, 10_000, "over 99.9%"), (9, 9, "100%")],
)
def test_a_few_are_not_none_and_nearly_all_not_all(part, whole, words):
    assert plots._percent(part, whole) == words


def test_quants_that_do_not_ship_stand_out(tmp_path, words):
    good = plots.Point("q4_k_m", int(4.58e9), 0.03, ships=True)
    bad = plots.Point("q2_k", int(2.95e9), 0.8, ships=False)
    exact = plots.Point("f32", 9_000_000, 0.0, ships=True)
    plots.size_and_quality([good, bad], tmp_path / "a.png")
    plots.size_and_quality([exact], tmp_path / "b.png")
    plots.size_and_quality([bad], tmp_path / "c.png")
    plots.size_and_quality([], tmp_path / "d.png")
    assert colours(tmp_path / "a.png") == {plots.BLUE, plots.ORANGE}
    assert colours(tmp_path / "b.png") == {plots.BLUE}
    assert colours(tmp_path / "c.png") == {plots.ORANGE}
    assert words[0] == "1 of 2 quants ship, the smallest is q4_k_m with 4.58 GB"
    assert words[2] == "All quants ship, the smallest is f32 with 9 MB"
    assert words[4] == "None of 1 quant ships"
    assert words[6] == "No quant could be measured"


@pytest.mark.parametrize("step", [1 / 32, 0.01, 0.1])
def test_a_grid_of_scores_makes_no_comb(step):
    smooth = np.linspace(1, 5, 100_001)
    shares = shares_in(np.round(smooth / step) * step, edges_of(smooth))
    inner = shares[1:-1]
    assert inner.max() < 1.05 * inner.min()
    assert shares.sum() == pytest.approx(100)


def test_a_common_score_stays_where_it_is():
    values = np.concatenate([np.zeros(500), np.linspace(4, 5, 500)])
    edges = edges_of(values)
    shares = shares_in(values, edges)
    assert shares[edges[:-1] < 1].max() == pytest.approx(50)


def test_threads_draw_at_the_same_time(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: plots.score_histogram(SCORES, path, 2.5, QUANTILES), paths))
    assert len({path.read_bytes() for path in paths}) == 1


def test_pyplot_is_not_loaded_and_matplotlib_only_when_used(tmp_path):
    code = (
        "import sys; from retune import plots; assert 'matplotlib' not in sys.modules\n"
        f"plots.reasons_chart({{'a': 1}}, 2, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
