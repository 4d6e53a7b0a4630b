"""Each repair changes what it is for and nothing else; what it did and would do is told."""

import polars as pl
import pytest

from expectations.data.batches import BATCH_BYTES
from expectations.data.messages import Rules
from expectations.data.repairs import NOTHING, Repaired, Repairs, Trial, read
from retune.recipe import Recipe, RecipeError, Validation
from retune.recipe.flaws import FLAWS
from retune.recipe.repairs import REPAIRS
from tasks.validate import key
from tasks.validate.repairs.example import LENGTH, example
from tasks.validate.repairs.repair import OF_TEXTS, OF_TURNS, repair, repaired
from tasks.validate.repairs.trial import trials
from tests.expectations.test_features import (
    AWS_KEY,
    SYSTEM,
    TOOL,
    A,
    Q,
    judged,
    prose,
    table_of,
    write,
)
from tests.tasks.test_validate import line, run_gate, sound  # noqa: F401

ZWJ, ZWNJ, SOFT = "\u200d", "\u200c", "\u00ad"
EMPTY, NONE = ("assistant", "  \n"), ("user", None)
Q2, A2 = ("user", "And 3 + 3?"), ("assistant", "6")


def batch(*conversations, **fields) -> pl.DataFrame:
    """A batch of rows; every message has further `fields`."""
    messages = [[{"role": r, "content": c, **fields} for r, c in turns] for turns in conversations]
    shape = {"role": pl.String, "content": pl.String, **dict.fromkeys(fields, pl.Boolean)}
    schema = {"row": pl.Int64, "messages": pl.List(pl.Struct(shape)), "source": pl.String}
    rows = {"row": range(len(messages)), "messages": messages, "source": ["s"] * len(messages)}
    return pl.DataFrame(rows, schema=schema)


def turns_after(name: str, *turns) -> list[tuple]:
    new, _ = repaired(batch(turns), [name])
    return [(message["role"], message["content"]) for message in new["messages"][0]]


def text_after(name: str, text: str, role: str = "assistant") -> str:
    return OF_TEXTS[name](pl.Series([text]), pl.Series([role], dtype=pl.String))[0]


def test_every_repair_has_its_function():
    assert [*OF_TEXTS, *OF_TURNS] == [*REPAIRS]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([A, Q, A], [Q, A]),
        ([SYSTEM, A, A, Q, A], [SYSTEM, Q, A]),
        ([A, TOOL, A, Q, A], [Q, A]),
        ([Q, A, Q2], [Q, A]),
        ([A, Q, A, Q2, Q2], [Q, A]),
        ([Q, A], [Q, A]),
        ([A], [A]),  # nothing would be left
        ([A, Q], [A, Q]),
        ([SYSTEM, Q], [SYSTEM, Q]),
        ([("wizard", "x"), A, Q, A], [("wizard", "x"), A, Q, A]),  # who is that?
        ([], []),
    ],
)
def test_trim_ends(before, after):
    assert turns_after("trim_ends", *before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([Q, Q2, A], [("user", f"{Q[1]}\n\n{Q2[1]}"), A]),
        ([Q, A, A2, A], [Q, ("assistant", "4\n\n6\n\n4")]),
        ([Q, A, TOOL, TOOL, A], [Q, A, TOOL, TOOL, A]),
        ([SYSTEM, SYSTEM, Q, A], [("system", "Be brief.\n\nBe brief."), Q, A]),
        ([("wizard", "x"), ("wizard", "y"), A], [("wizard", "x"), ("wizard", "y"), A]),
        ([(None, "x"), (None, "y")], [(None, "x"), (None, "y")]),
    ],
)
def test_merge_same_role(before, after):
    assert turns_after("merge_same_role", *before) == after


def test_messages_are_joined_only_if_all_else_of_them_is_equal():
    rows = batch([Q, A, A2], learn=True)
    assert len(repaired(rows, ["merge_same_role"])[0]["messages"][0]) == 2
    messages = rows["messages"].to_list()
    messages[0][1]["learn"] = False
    apart = rows.with_columns(messages=pl.Series(messages, dtype=rows.schema["messages"]))
    new, steps = repaired(apart, ["merge_same_role"])
    assert new.equals(apart)
    assert steps[0].rows.is_empty()


def test_rows_are_not_joined_with_each_other():
    new, steps = repaired(batch([Q, A], [A, Q], [Q, A]), ["merge_same_role"])
    assert [len(messages) for messages in new["messages"]] == [2, 2, 2]
    assert steps[0].rows.is_empty()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([Q, EMPTY, Q2, A2], [Q2, A2]),  # an answer goes with its question
        ([Q, A, NONE, A2], [Q, A]),  # and the other way round
        ([("system", ""), Q, A], [Q, A]),
        ([SYSTEM, Q, EMPTY, Q2, A2], [SYSTEM, Q2, A2]),
        ([EMPTY, Q, A], [Q, A]),
        ([Q, A, EMPTY], [Q, A]),  # beside an answer: alone
        ([NONE, Q, A], [Q, A]),
        ([Q, A, ("tool", ""), A2, Q2, A2], [Q2, A2]),
        ([Q, EMPTY, EMPTY, Q2, A2], [Q2, A2]),
        ([Q, EMPTY], [Q, EMPTY]),  # nothing would be left
        ([Q, A], [Q, A]),
    ],
)
def test_drop_empty_turns(before, after):
    assert turns_after("drop_empty_turns", *before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cafe\u0301", "café"),
        (f"Donau{SOFT}dampf{SOFT}schiff a\u200bb\u200bc\u200bd", "Donaudampfschiff abcd"),
        (f"Auf{ZWNJ}lage und Ver{ZWJ}lag", "Auflage und Verlag"),
        ("\ufeffHello", "Hello"),
        ("one\r\ntwo\rthree\u2028four\u2029five\x85six", "one\ntwo\nthree\nfour\n\nfive\nsix"),
        # What shapes letters, joins emoji or separates words stays.
        (same := f"👨{ZWJ}👩{ZWJ}👧 می{ZWNJ}خواهم क्{ZWJ}ष ภาษา\u200bไทย ខ្មែរ\u200bភាសា", same),
        (f"a {SOFT} b", f"a {SOFT} b"),
        ("①½ﬁ", "①½ﬁ"),  # compatibility is not canonical
    ],
)
def test_normalise_unicode(before, after):
    assert text_after("normalise_unicode", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (r"Use snake\_case and 2 \* 3 in C\#.", "Use snake_case and 2 * 3 in C#."),
        ("a\\_b `c\\_d` e\\_f\n```\ng\\_h\n```\ni\\_j", "a_b `c\\_d` e_f\n```\ng\\_h\n```\ni_j"),
        ("a\\_b\n```\nno end\\_", "a_b\n```\nno end\\_"),
        ("so:\n\n    code\\_here\n\nend\\_", "so:\n\n    code\\_here\n\nend_"),
        ("a ` b\\_c", "a ` b_c"),
        ("Tom &amp; Jerry&nbsp;said &quot;it&#39;s&#x21;&quot;", 'Tom & Jerry said "it\'s!"'),
        (r"First.\n\nSecond:\n- one", "First.\n\nSecond:\n- one"),
        (r"One.\r\n\r\nTwo.\n\nThree", "One.\n\nTwo.\n\nThree"),
        *(
            (same, same)
            for same in (
                "A real\nbreak, and \\n\\n as text",
                r"In HTML, write &amp; or &lt;",
                r"It is \(a\_b\) and \text{x\_y}, $a\_b$",
                r"\nabla f.\n\nis a vector",
                r"C:\new\names.\n\nthere",
                r'{"text": "one.\n\ntwo\_three &amp;"}',
                r'He wrote print("a.\n\n").',
                r"AT&T; R&D &unknownentity; 100 & more",
                r"one \n only",
            )
        ),
    ],
)
def test_unescape(before, after):
    assert text_after("unescape", before) == after


def test_what_a_tool_said_is_not_unescaped():
    assert text_after("unescape", r"a\_b &amp; c", "tool") == r"a\_b &amp; c"
    assert text_after("unescape", r"a\_b &amp; c", None) == "a_b & c"


@pytest.mark.parametrize(
    ("role", "before", "after"),
    [
        ("user", "Human: hi", "hi"),
        ("user", "USER: hi", "hi"),
        ("user", "### Instruction:\nDo it.", "Do it."),
        ("assistant", "### Assistant: yes", "yes"),
        ("assistant", "**Assistant:** yes", "yes"),
        ("assistant", "ASSISTANT：好", "好"),
        ("system", "System: be brief", "be brief"),
        ("user", "Assistant: what is that?", "Assistant: what is that?"),  # another's role
        ("user", "Human:", "Human:"),  # nothing would be left
        ("user", "Humans: who are they?", "Humans: who are they?"),
        ("user", "Say:\nHuman: hi", "Say:\nHuman: hi"),
        ("tool", "User: root", "User: root"),
        (None, "User: root", "User: root"),
    ],
)
def test_strip_role_prefix(role, before, after):
    assert text_after("strip_role_prefix", before, role) == after


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "cp437"])
def test_fix_mojibake(encoding):
    text = "Où est l’hôtel? Déjà fermé à côté."
    broken = text.encode().decode(encoding, errors="replace")
    if "\ufffd" in broken:  # cp1252 has no character for one of the bytes
        text = "Le café est très près du théâtre."
        broken = text.encode().decode(encoding)
    assert text_after("fix_mojibake", f"plain\n{broken}\nfin") == f"plain\n{text}\nfin"


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("浣犲ソ", "你好"),
        ("鎴戝枩娆㈠", None),  # a byte is missing
        ("楂樺叴鍦扮湅鍒颁綘銆傘", None),
        ("f眉r die T枚pfe gen眉gt", "für die Töpfe genügt"),
        ("銇撱倱銇°伅", "こんちは"),
    ],
)
def test_utf_8_that_was_read_as_gbk_is_read_back_where_nothing_is_lost(broken, text):
    assert text_after("fix_mojibake", f"plain\n{broken}\nfin") == f"plain\n{text or broken}\nfin"


@pytest.mark.parametrize(
    "text", ["今天天气很好。", "学生们都在学习中文。", "東京へ行きました。", "안녕하세요 여러분"]
)
def test_every_script_read_as_gbk_is_read_back_or_left(text):
    broken = text.encode().decode("gb18030", "replace")
    lost = "\ufffd" in broken
    assert text_after("fix_mojibake", broken) == (broken if lost else text)
    assert text_after("fix_mojibake", text) == text


@pytest.mark.parametrize(
    "text",
    [
        "[21:22] 要 2 pack",
        "她浣洗了一下，眉毛很好看。",
        "这取决于房间的大小和光线的多少，最好把尺寸记下来。",
        "繁體中文：請檢查濕度，再等幾天。",
        "浣熊、涓流、鍙、鎴、銆：这些都是字。",
        "Im眉 sagt man nicht",
        "Ça va, “naïf” — 好",
        "日本語の文章です。眉毛。",
    ],
)
def test_sound_text_in_chinese_characters_stays(text):
    assert text_after("fix_mojibake", text) == text


@pytest.mark.parametrize(
    "text", ["Ça va, «naïf»? Ã la carte", "Моё дело №5", "Â is a letter", "€5…"]
)
def test_what_is_no_mojibake_stays(text):
    assert text_after("fix_mojibake", text) == text


def test_a_row_that_needs_nothing_stays_as_it_is():
    rows = batch([SYSTEM, Q, A, Q2, A2], [Q, A, TOOL, TOOL, A], [], learn=None)
    new, steps = repaired(rows, REPAIRS)
    assert new.equals(rows)
    assert all(step.rows.is_empty() for step in steps)


def test_further_fields_of_a_message_and_columns_of_a_row_stay():
    rows = batch([A, Q, A], [Q, A], learn=True)
    new, _ = repaired(rows, ["trim_ends"])
    assert new.schema == rows.schema
    assert new["messages"][0].to_list()[0] == {"role": "user", "content": Q[1], "learn": True}
    assert new["source"].to_list() == ["s", "s"]


def test_the_order_is_always_the_same():
    assert Validation(repairs=("trim_ends", "unescape")).repairs == ("unescape", "trim_ends")
    # "Human:" alone would be a text; what it says is nothing, and so the exchange goes.
    rows = batch([("user", "Human: &nbsp;&nbsp;"), A, Q2, Q2, A2, Q])
    names = ["trim_ends", "merge_same_role", "drop_empty_turns", "unescape", "strip_role_prefix"]
    new, steps = repaired(rows, names)
    assert [step.name for step in steps] == [name for name in REPAIRS if name in names]
    assert [m["content"] for m in new["messages"][0]][-1] == A2[1]
    assert [m["role"] for m in new["messages"][0]] == ["user", "assistant", "user", "assistant"]


def test_an_unknown_repair_is_one_clear_error():
    recipe = {"name": "r", "model": {"base": "b"}, "dataset": {"source": "s"}}
    with pytest.raises(RecipeError, match=r"'trim_end' is not a repair; did you mean 'trim_ends'"):
        Recipe.parse(recipe | {"validation": {"repairs": ["trim_end"]}}, "r")


def test_repairs_are_part_of_what_determines_screen(line):  # noqa: F811
    keys = [
        key.screen(line.recipe(repairs=names), line.pins, line.fetched)
        for names in ((), ("trim_ends",), ("unescape", "trim_ends"), ("trim_ends", "unescape"))
    ]
    assert keys[0] != keys[1] != keys[2] == keys[3]


def test_without_repairs_no_file_is_written(tmp_path):
    path = write(tmp_path, [A, Q, A])
    assert repair(path, (), tmp_path) == (path, [])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_was_repaired_is_counted_and_shown_without_secrets(tmp_path):
    leak = ("assistant", f"Human: my key is {AWS_KEY}, {prose(1, 40)}")
    path = write(tmp_path, [leak, ("user", f"Human: key {AWS_KEY}, go"), A], [Q, A], [A, Q, A])
    file, done = repair(path, ("strip_role_prefix", "trim_ends"), tmp_path)
    assert [(repaired.name, repaired.rows, repaired.row) for repaired in done] == [
        ("strip_role_prefix", 1, 0),
        ("trim_ends", 2, 0),
    ]
    assert done[0].before.startswith("Human: key [secret]")
    assert done[0].after.startswith("key [secret]")
    assert done[1].before.startswith("assistant user assistant: ")
    assert done[1].after.startswith("user assistant: ")
    shown = " ".join(text for repaired in done for text in (repaired.before, repaired.after))
    assert AWS_KEY[:10] not in shown
    assert all(len(repaired.before) <= LENGTH + 1 for repaired in done)
    rows = pl.read_parquet(file)
    assert rows["row"].to_list() == [0, 1, 2]
    assert rows.schema == pl.read_parquet(path).schema


def tried(folder, *conversations, **settings) -> Repairs:
    from expectations.data.features import unscored

    rules = Rules(Validation(**settings))
    path = write(folder, *conversations)
    return trials(path, unscored(table_of(path, rules), rules.config).lazy(), rules, [])


@pytest.mark.parametrize("size", [1, BATCH_BYTES])  # a row at a time, all at once
def test_a_trial_says_what_each_repair_and_all_together_would_mend(tmp_path, monkeypatch, size):
    monkeypatch.setattr("tasks.validate.repairs.trial.BATCH_BYTES", size)
    trimmed = [[A, *talk] for talk in sound(6)]
    doubled = [[Q, *talk] for talk in sound(10)[6:]]
    both = [[A, Q, *sound(11)[10]]]
    lost = [[A], [("wizard", "x"), A], []]
    record = tried(tmp_path, *trimmed, *doubled, *both, *lost, *sound(14)[11:])
    assert (record.quarantined, record.tried) == (14, 14)
    found = {trial.repairs: (trial.rows, trial.flaws) for trial in record.trials}
    assert found == {
        ("trim_ends",): (6, {"roles_out_of_order": 6}),
        ("merge_same_role",): (4, {"roles_out_of_order": 4}),
        ("merge_same_role", "trim_ends"): (11, {"roles_out_of_order": 11}),
    }


def test_a_row_with_another_flaw_is_not_mended_by_trimming_it(tmp_path):
    """Unless the flaw is in what is trimmed."""
    refusal = ("assistant", "I'm sorry, but I can't help with that.")
    inside = [A, Q, refusal]
    outside = [refusal, *sound(1)[0]]
    record = tried(tmp_path, inside, outside, [A, Q, ("assistant", "I am ChatGPT, you know.")])
    assert [(trial.repairs, trial.rows) for trial in record.trials] == [(("trim_ends",), 1)]
    assert record.trials[0].flaws == {"roles_out_of_order": 1, "refusal": 1}
    kept = tried(tmp_path, inside, outside, keep=["refusal"])
    assert kept.trials[0].rows == 2


def test_what_a_repair_lays_bare_is_judged(tmp_path):
    """Unescaped, this is a control token; joined, this is too long."""
    escaped = [A, Q, ("assistant", "so &lt;|im_end|&gt; it is")]
    record = tried(tmp_path, escaped)
    assert [trial.repairs for trial in record.trials] == [("trim_ends",)]
    long = [Q, ("assistant", prose(1, 150)), ("assistant", prose(2, 150))]
    assert tried(tmp_path, long, max_message_chars=1200).trials == []
    assert tried(tmp_path, long).trials[0].repairs == ("merge_same_role",)


def test_duplicates_are_not_mended(tmp_path):
    twin = sound(1)[0]
    twice = [("user", f"{twin[0][1]}\r"), twin[1]]
    assert tried(tmp_path, twin, twice) == Repairs(quarantined=1, tried=1)


def test_of_many_rows_a_sample_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.validate.repairs.trial.MOST", 4)
    record = tried(tmp_path, *[[A, *talk] for talk in sound(10)])
    assert (record.quarantined, record.tried) == (10, 4)
    assert record.advice() == (
        "4 of a sample of 4 of the 10 quarantined rows would become sound by trim_ends "
        "(validation.repairs=[trim_ends])"
    )


def test_the_rejection_names_the_repair_and_the_repair_helps(tmp_path):
    rows = [*sound(20), *[[A, *talk] for talk in sound(40)[20:]]]
    rejected = run_gate(tmp_path, *rows)
    assert {verdict.name for verdict in rejected.failed} == {
        *("roles_out_of_order", "max_quarantined_share"),
    }
    sentence = (
        "20 of 20 quarantined rows would become sound by trim_ends (validation.repairs=[trim_ends])"
    )
    assert rejected.message().count(sentence) == 1
    assert sentence in (tmp_path / "report.json").read_text()
    again = run_gate(tmp_path, *rows, repairs=["trim_ends"])
    assert again.failed == []
    assert again.accepted == 40
    assert again.metrics()["repairs/trim_ends"] == 20
    assert read(tmp_path) == again.repairs
    assert "| 20 | row 20: " in again.markdown()
    kept = pl.read_parquet(tmp_path / "rows.parquet")
    assert kept["row"].to_list() == [*range(40)]
    assert {len(messages) for messages in kept["messages"]} == {2}


def test_the_page_shows_what_was_repaired_as_text(tmp_path):
    from expectations.data.page import page

    nasty = ("assistant", '<img src="http://x.test/a">Assistant: \x1b[32m')
    report = run_gate(tmp_path, *[[nasty, *talk] for talk in sound(20)], repairs=["trim_ends"])
    text = page(report, {})
    assert "<h2>What was repaired</h2>" in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\x1b" not in report.markdown()
    assert "What was repaired" not in page(run_gate(tmp_path, *sound(20)), {})


@pytest.mark.proof  # half a line
def test_everything_after_screen_reads_the_repaired_rows(line):  # noqa: F811
    recipe = line.recipe(repairs=["trim_ends"])
    rows = line.fetch(*sound(20), *[[A, *talk] for talk in sound(40)[20:]], [Q])
    screened = line.screen(rows, recipe)
    assert screened.metrics["repairs/trim_ends"] == 20
    assert screened.rows(rows) == screened.folder / "repaired.parquet"
    (quoted,) = pl.read_parquet(screened.folder / "quarantine.parquet").to_dicts()
    assert quoted["row"] == 40
    done = line.validate(rows, screened, recipe)
    assert done.metrics["accepted"] == 40
    assert done.metrics["repairs/trim_ends"] == 20
    assert {len(messages) for messages in pl.read_parquet(done.path)["messages"]} == {2}
    assert read(done.folder) == read(screened.folder)
    plain = line.recipe()
    assert line.screen(rows, plain).rows(rows) == rows.path


def test_advice_says_nothing_where_no_repair_helps():
    assert NOTHING.advice() == ""
    applied = [Repaired(name="unescape", rows=1)]
    trial = Trial(repairs=("trim_ends",), rows=3)
    record = Repairs(applied=applied, quarantined=5, tried=5, trials=[trial])
    assert record.advice().endswith("(validation.repairs=[unescape, trim_ends])")


def test_the_trimmed_way_of_judging_says_what_judging_all_would(tmp_path):
    """Rows that are only trimmed are judged by their order alone; the whole judge agrees."""
    rows = [
        *[[A, *talk] for talk in sound(4)],
        *[[*talk, Q] for talk in sound(8)[4:]],
        [A, Q, Q, A], [A, Q, ("assistant", "")], [Q, A, A, Q], [SYSTEM, A, *sound(9)[8]],
    ]  # fmt: skip
    record = tried(tmp_path, *rows)
    (tmp_path / "again").mkdir()
    new, _ = repaired(pl.read_parquet(tmp_path / "in.parquet"), ["trim_ends"])
    talks = [[(m["role"], m["content"]) for m in messages] for messages in new["messages"]]
    table = judged(tmp_path / "again", *talks)
    clean = sum(not set(reasons) & set(FLAWS) for reasons in table["reasons"].to_list())
    single = next(trial for trial in record.trials if trial.repairs == ("trim_ends",))
    assert single.rows == clean == 9


def test_an_example_of_a_long_row_shows_that_it_became_shorter():
    talk = [Q, A] * 6
    before, after = (
        batch(turns).explode("messages").unnest("messages") for turns in ([*talk, Q], talk)
    )
    old, new = example(before, after)
    assert old.startswith("13 messages, ")
    assert new.startswith("12 messages, ")
