"""What a person reads of a training, on a page that cuts long lines."""

from datetime import UTC, datetime

from tasks.train.news import news

NOW = datetime(2026, 11, 27, 23, 50, tzinfo=UTC)


def test_what_is_left_comes_first():
    assert news(161, 250, 0.3409, 155.4, 26, NOW) == (
        "26 s of training left, step 161 of 250 (64%), until about 23:50 UTC: "
        "loss 0.3409, 155 tokens/s"
    )
    assert "until about 2026-11-28 00:50 UTC" in news(1_610, 2_500, 0.3, 155, 3600, NOW)
    assert news(1, 250, 10.1, 640, None, NOW).startswith("Step 1 of 250 (0%), its end is not known")
    assert news(250, 250, 0.3, 155, 0, NOW).startswith("Step 250 of 250 (100%), done: loss")
