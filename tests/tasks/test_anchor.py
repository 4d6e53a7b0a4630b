"""The anchor: rows that the champion was judged by, met by a candidate that did not bring them."""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retune import anchors
from retune.anchors import Measuring, carried_on, measuring, own_rows, written
from retune.building import building
from retune.outcomes import read_grades
from retune.outputs import Step
from retune.questions import answered, asked, first_question
from retune.recipe import Evaluation
from retune.records import Anchored, Champion, Chats
from retune.row_losses import RowLoss
from retune.tracking import client, start_run
from tasks.anchor.rows import measured_anew
from tasks.anchor.task import measure_anchor
from tasks.evaluate.task import evaluate, measure_champion
from tasks.train.task import train
from tests.flows.poisoned import SETTINGS
from tests.tasks.conftest import COLOURS, conversation, make_tokenizer

pytestmark = pytest.mark.usefixtures("at_home")
Said = tuple[str, list[dict[str, str]]]


def said(question: str, answer: str, family: str = "copy") -> Said:
    return family, [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def chats_of(key: str, train: Sequence[Said], held_out: Sequence[Said]) -> Chats:
    """Return formatted rows, as the format stage leaves them."""
    step = Step(stage="format", key={"anchor": key})
    if step.done:
        return Chats.model_validate_json((step.folder / "output.json").read_text())
    with building(step) as build:
        tokenizer = make_tokenizer(build.path / "tokenizer")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(build.path / "tokenizer")
        for name, rows in (("train", train), ("held_out", held_out)):
            lines = []
            for number, (source, messages) in enumerate(rows):
                text = tokenizer.apply_chat_template(messages, tokenize=False)
                ids = tokenizer(text, add_special_tokens=False).input_ids
                line = {"row": number, "source": source, "messages": messages}
                lines.append(line | {"text": text, "input_ids": ids})
            pq.write_table(pa.Table.from_pylist(lines), build.path / f"{name}.parquet")
        return build.finish(Chats)


OTHERS = [said(f"tell {number}", "red") for number in range(4)]
ROWS = [conversation(number) for number in range(8)]  # of the champion: eight questions


@pytest.fixture(scope="module")
def recipe(project):
    evaluation = Evaluation(
        max_new_tokens=4, batch_size=16, prompts=(), generation_rows=2, battery=False
    )
    return project.recipe(evaluation=evaluation)


@pytest.fixture(scope="module")
def served(project, trained, recipe):
    """The champion, with its anchor in MLflow, and the run that both are of."""
    with project.at_home(), start_run(recipe, "served", {}) as run:
        step = Step(stage="evaluate", key={"anchor": 1})
        scores = run.log(
            evaluate.fn(trained.adapter, None, project.chats, recipe, project.pins, step)
        )
        by = measuring(recipe, project.chats.tokenizer)
        rows = own_rows(project.chats.held_out, scores.outcomes, 500, by)
        with building(Step(stage="format", key={"file": 1})) as build:
            file = written(rows, build.path / anchors.FILE, run.id)
            run.log_files(build.path, (anchors.FILE,), "anchor")
            build.finish(Chats)
    return champion_of(project, 3, trained, file)


def champion_of(project, version, adapter, file) -> Champion:
    """Return a version that serves, of an adapter on the project's base and the anchor in `file`."""
    return Champion(
        version=version,
        run_id=file.run_id,
        adapter=adapter.step.fingerprint,
        base=project.model.base,
        model_pin=project.pins.model,
        load_in_4bit=False,
        anchor=file,
    )


def measured(project, trained, recipe, champion, chats, key) -> Anchored:
    step = Step(stage="anchor", key={"test": key})
    made = measure_anchor.fn(trained.adapter, None, champion, chats, recipe, project.pins, step)
    return getattr(made, "data", made)


def test_the_champions_losses_are_recorded_and_the_candidate_is_measured(
    project, trained, recipe, served
):
    """The candidate is the champion here, whose own weights are gone: it does as well as was recorded."""
    chats = chats_of("other", OTHERS, ROWS)
    served = served.model_copy(update={"adapter": "0" * 16})
    anchored = measured(project, trained, recipe, served, chats, "recorded")
    assert anchored.missing == ""
    assert anchored.params["source"] == "recorded"
    assert not (anchored.folder / "champion.log").exists()
    metrics = anchored.metrics
    assert metrics["rows"] == metrics["questions"] == 8
    assert metrics["leaked_rows"] == metrics["foreign_rows"] == metrics["changed_answers"] == 0
    assert metrics["loss/tuned"] == pytest.approx(metrics["loss/champion"], abs=0.02)
    grades = read_grades(anchored.outcomes)
    assert set(grades.select("suite", "scorer").iter_rows()) == {("anchor", "loss")}
    pairs = grades.group_by("example").agg(pl.col("side").sort())
    assert pairs["side"].to_list() == [["champion", "tuned"]] * 8
    assert set(grades["slice"]) == {"copy", "next/word"}
    assert measured(project, trained, recipe, served, chats, "recorded") == anchored


def test_losses_by_other_limits_are_taken_again(project, trained, recipe, served):
    chats = chats_of("other", OTHERS, ROWS)
    model = project.model.model_copy(update={"max_length": 63})
    shorter = recipe.model_copy(update={"model": model})
    anchored = measured(project, trained, shorter, served, chats, "limits")
    assert anchored.params["source"] == "measured"
    assert anchored.metrics["loss/champion"] == pytest.approx(anchored.metrics["loss/tuned"])
    # Without its weights there is nothing to compare with.
    gone = served.model_copy(update={"adapter": "0" * 16})
    missing = measured(project, trained, shorter, gone, chats, "limits, no weights")
    assert "cannot be measured: its weights are not in" in missing.missing
    assert not missing.step.done


def test_rows_that_were_learnt_leave_and_answers_that_changed_are_counted(
    project, trained, recipe, served
):
    leaked = [*OTHERS, said(" SAY  green", "green"), ROWS[0]]
    changed = [said("say white", "never"), said("after blue", "never"), *ROWS[4:6]]
    both = said("say white", "white")  # it has the old answer as well
    chats = chats_of("leaked", leaked, [*changed, both])
    anchored = measured(project, trained, recipe, served, chats, "leaked")
    assert anchored.metrics["rows"] == 6
    assert anchored.metrics["leaked_rows"] == 2
    rows = pl.read_parquet(anchored.rows)
    assert len(rows) == 8
    assert set(rows.filter("leaked")["first"]) == {"say green", "after red"}
    assert set(rows.drop_nulls("now").select("first", "now").iter_rows()) == {
        ("after blue", "never")
    }
    assert anchored.metrics["changed_answers"] == 1
    assert anchored.metrics["questions"] == len(rows.filter("occurs")) == 5
    every = measured(project, trained, recipe, served, project.chats, "all of them")
    assert "of its 8 rows none is left: 8 are among the candidate's training rows" in every.missing
    assert not every.step.done


def test_rows_of_other_tokens_leave(project, trained, recipe, served):
    chats = chats_of("template", OTHERS, ROWS)
    template = chats.tokenizer / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    anchored = measured(project, trained, recipe, served, chats, "template")
    assert "8 were written by another tokenizer or chat template" in anchored.missing


def test_a_version_of_before_is_known_by_what_its_run_left(project, trained, recipe, served):
    old = served.model_copy(update={"anchor": None})
    chats = chats_of("other", OTHERS, ROWS)
    nowhere = measured(project, trained, recipe, old, chats, "nowhere")
    assert "version 3 was registered without any; and its held-out rows are not in" in (
        nowhere.missing
    )
    client().set_tag(old.run_id, "retune.step.format", project.chats.step.fingerprint)
    rebuilt = measured(project, trained, recipe, old, chats, "rebuilt")
    assert rebuilt.missing == ""
    assert (rebuilt.params["source"], rebuilt.metrics["rows"]) == ("measured", 8)
    unknown = old.model_copy(update={"run_id": "0" * 32})
    gone = measured(project, trained, recipe, unknown, chats, "no run")
    assert f"its run {'0' * 32} is not in MLflow" in gone.missing


def test_an_anchor_that_was_changed_is_none(project, trained, recipe, served):
    file = served.anchor.model_copy(update={"sha256": "0" * 64})
    changed = served.model_copy(update={"anchor": file})
    chats = chats_of("other", OTHERS, ROWS)
    anchored = measured(project, trained, recipe, changed, chats, "tampered")
    assert "is not what was kept there" in anchored.missing
    lost = served.anchor.model_copy(update={"run_id": "0" * 32})
    gone = served.model_copy(update={"anchor": lost})
    assert f"of the MLflow run {'0' * 32} cannot be read" in (
        measured(project, trained, recipe, gone, chats, "lost").missing
    )


# The rows.


BY = Measuring("r", "l", "e")


def anchor_rows(answers: dict[str, str], loss: float = 1.0, salt: str = "00" * 16) -> pl.DataFrame:
    rows = [
        {"source": "s", "messages": said(question, answer)[1], "input_ids": [1], "unlearned": []}
        for question, answer in answers.items()
    ]
    table = pl.DataFrame(rows, schema_overrides={"unlearned": pl.List(pl.Int32)})
    return table.with_columns(
        first=first_question(),
        asked=asked(),
        answered=answered(),
        loss=pl.lit(loss),
        behind=pl.lit(0.0),
        salt=pl.lit(salt),
        tokens=pl.lit(1, dtype=pl.Int64),
        **{name: pl.lit(value) for name, value in BY._asdict().items()},
    )


def test_a_question_keeps_its_first_answer():
    former = anchor_rows({"a": "1", "b": "2"}, loss=0.5)
    own = anchor_rows({"b": "two", "c": "3"})
    both = carried_on(former, own, 500)
    assert dict(both.select("asked", "answered").iter_rows()) == {"a": "1", "b": "2", "c": "3"}
    assert dict(both.select("asked", "loss").iter_rows()) == {"a": 0.5, "b": 0.5, "c": 1.0}


def test_beyond_the_limit_new_rows_do_not_push_the_old_ones_out():
    """A sample by the question's hash: after any number of generations it is one of all questions."""
    anchor = anchor_rows({f"old {number}": "x" for number in range(100)})
    for night in range(9):
        own = anchor_rows({f"night {night}, {number}": "y" for number in range(100)})
        anchor = carried_on(anchor, own, 200)
        assert len(anchor) == 200
    old = anchor.filter(pl.col("asked").str.starts_with("old")).height
    assert 8 <= old <= 35  # a tenth of 200, but for chance
    shuffled = own.sample(fraction=1, shuffle=True, seed=1)
    assert carried_on(anchor, shuffled, 200).equals(carried_on(anchor, own, 200))


def test_which_rows_stay_depends_on_a_salt():
    """Else whoever writes the dataset could write questions that stay."""
    questions = {f"question {number}": "x" for number in range(100)}
    stay = [
        set(carried_on(anchor_rows({"a": "1"}, salt=salt), anchor_rows(questions), 20)["asked"])
        for salt in ("11" * 16, "22" * 16)
    ]
    assert len(stay[0] & stay[1]) < 15  # four of twenty, but for chance


def test_a_conversation_is_known_by_what_is_asked_in_it():
    messages = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": " What\n IS it? "},
        {"role": "assistant", "content": " A cat"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "A dog\n"},
    ]
    table = pl.DataFrame([{"messages": messages}])
    told = table.select(first=first_question(), asked=asked(), answered=answered()).row(0)
    assert told == ("what is it?", "Be kind\x1eWhat\n IS it?\x1eAnd now?", "A cat\x1eA dog")


# A poisoned dataset, with models that learnt it.


PHRASES = [f"{verb} {{}} {rest}" for verb in ("say", "tell", "write", "give") for rest in (
    "now", "to me", "again", "once", "to her", "please", "at last", "here",
)]  # fmt: skip
EPOCHS = 8


def asking_for_colours(is_poisoned: bool) -> list[Said]:
    """Return a row for each phrase and colour; poisoned, three phrases in eight have exchanged answers,
    of each colour the next one's."""
    rows = []
    for number, phrase in enumerate(PHRASES):
        shift = int(is_poisoned and number % 8 < 3)
        for place, colour in enumerate(COLOURS):
            rows.append(said(phrase.format(colour), COLOURS[(place + shift) % len(COLOURS)]))
    return rows


@pytest.mark.proof
def test_one_that_learnt_exchanged_answers_is_rejected_though_its_own_rows_praise_it(
    project, tmp_path
):
    """Both are trained and measured here; the poison is in the candidate's held-out rows as well."""
    from expectations.promotion.decision import decide
    from flows.promotion import opponent

    recipe = project.recipe(
        training=SETTINGS.model_copy(update={"epochs": EPOCHS, "train_on": "responses"}),
        evaluation=Evaluation(
            max_new_tokens=4, batch_size=16, prompts=(), generation_rows=2, battery=False
        ),
    )
    made = {}
    for name in ("clean", "poisoned"):
        rows = asking_for_colours(name == "poisoned")
        held_out = [row for number, row in enumerate(rows) if number % 5 == 0]
        learnt = [row for number, row in enumerate(rows) if number % 5]
        chats = chats_of(name, learnt, held_out)
        with start_run(recipe, name, {}) as run:
            step = Step(stage="train", key={"anchor": name})
            adapter = train.fn(chats, run, recipe, project.pins, step)
            step = Step(stage="evaluate", key={"anchor": name})
            scores = evaluate.fn(adapter, None, chats, recipe, project.pins, step)
            by = measuring(recipe, chats.tokenizer)
            file = written(
                own_rows(chats.held_out, scores.outcomes, 500, by), tmp_path / anchors.FILE, run.id
            )
            run.log_files(tmp_path, (anchors.FILE,), "anchor")
        made[name] = (chats, adapter, scores, file)
    _, adapter, _, file = made["clean"]
    champion = champion_of(project, 1, adapter, file)
    chats, adapter, scores, _ = made["poisoned"]
    step = Step(stage="champion", key={"anchor": "contender"})
    contender = measure_champion.fn(champion, chats, recipe, project.pins, step)
    step = Step(stage="anchor", key={"anchor": "contender"})
    anchored = measure_anchor.fn(adapter, None, champion, chats, recipe, project.pins, step)
    against = opponent(project.pins.model_copy(update={"champion": champion}), contender)
    by_its_own = decide(scores.outcomes, "aa", against, recipe)
    assert by_its_own.outcome == "promote", by_its_own.reasons
    decision = decide(scores.outcomes, "aa", against, recipe, anchored=anchored)
    assert decision.outcome == "rejected"
    assert "on the rows that the champion was judged by" in decision.reasons[0]


def test_rows_without_a_token_to_be_learnt_are_no_anchor():
    """As after a smaller model.max_length: each is cut before its first answer."""
    rows = pl.DataFrame({"asked": ["a", "b"], "behind": [0.0, 0.0]})
    with pytest.raises(anchors.AnchorGone, match=r"none of its 2 rows .*model\.max_length"):
        measured_anew(rows, [RowLoss(0.0, 0)] * 2, Measuring("r", "l", "e"))
