"""One look over a dataset of rows: the numbers of each, the record of all, and what is to be named."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expectations.data.batches import batches, detached, spread
from expectations.data.masking import masked
from expectations.data.messages import explode
from expectations.data.profile.alarms import LEAST_GROUP, LEAST_ROWS, Alarm, share_alarm
from expectations.data.profile.bags import Bags, bags, one_hot, told
from expectations.data.profile.elsewhere import elsewhere, silent
from expectations.data.profile.gaps import far_group
from expectations.data.profile.joined import joined
from expectations.data.profile.languages import language, other_languages
from expectations.data.profile.letters import unlikely_letters
from expectations.data.profile.masses import masses
from expectations.data.profile.numbers import numbers, pairs
from expectations.data.profile.pairing import lagging, shuffled, strangers, unknown_words
from expectations.data.profile.questions import LONGEST
from expectations.data.profile.record import Profile, profile
from expectations.data.profile.residues import residues
from expectations.data.profile.roles import exchanged
from expectations.data.profile.sayings import contradictions, recitals
from expectations.data.profile.signs import LEAST_MOVE, Trait, shares
from expectations.data.profile.speech import PARTS
from expectations.data.profile.strays import unrelated
from expectations.data.profile.talks import out_of_place, talks
from expectations.data.profile.triggers import triggers
from expectations.data.profile.vocabulary import HEAD, packed, vocabulary
from expectations.data.tables import Columns, alongside, column, occurrences, parts, writing
from retune.overlap import ahead
from retune.temporary import temporary_folder

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

SAMPLE = 5_000  # pairs whose words are compared
_BLOCK = 100  # rows next to each other that are sampled together: neighbours are compared
_LANGUAGES = 1_500  # pairs whose languages are guessed
_TOLD = 0.72  # area under the curve from which the question tells who is in a group
_STRANGE = 0.05  # least share of answers that say nothing of their question
_TELLING = 8  # words of an answer of which the share that no other text has is taken
_UNKNOWN = 0.3  # least distance of these shares
_UNLIKELY = 0.45  # nats per letter, likewise; other languages in Latin letters are 0.2 away
_QUOTED = 60  # characters
_TEXTS = ("question", "answer", "system", "before", "earlier", "replied", "opening")
_AGAIN = 4_000  # rows with a context that others have too which are read


class Survey(NamedTuple):
    """The record of the numbers of all rows that have a question and an answer, alarms, the signs that
    another dataset may have had less of, and the vocabulary of each of `speech.PARTS`."""

    profile: Profile
    alarms: list[Alarm]
    signs: list[Trait]
    words: "dict[str, pl.DataFrame]"


def survey(rows: Path, table: "pl.LazyFrame", path: Path) -> Survey:
    """Look at the rows of a Parquet file that are not quarantined in `table`, its feature table, and
    write the numbers of each into the file `path`."""
    import polars as pl

    with temporary_folder(str(path.parent)) as scratch:
        looked = scratch / "looked.parquet"
        sample, spaced = _look(rows, table, looked)
        frame = _with_repeated(pl.scan_parquet(looked), path)
        sources = column(pl.scan_parquet(looked), "source")
    of_sample = sources.filter(frame["row"].is_in(sample["row"].implode()))
    part = spread(sample, _LANGUAGES)
    spoken = [language(text) for text in part["question"]]
    alarms, signs = _alarms(rows, frame, sample, of_sample, part, spoken)
    words = {
        "answers": vocabulary(spaced["row"], spaced["answer"]),
        "questions": vocabulary(spaced["row"], spaced["question"]),
    }
    record = profile(frame, sources, sample, spoken).model_copy(
        update={"signs": shares(signs)}
        | {PARTS[part]: packed(found) for part, found in words.items()}
    )
    shown = [sign for sign in signs if sign.alarm.value >= LEAST_MOVE]
    quoted = _quoted(rows, [*alarms, *(sign.alarm for sign in shown)])
    told = [
        sign.model_copy(update={"alarm": alarm})
        for sign, alarm in zip(shown, quoted[len(alarms) :], strict=True)
    ]
    return Survey(record, quoted[: len(alarms)], told, words)


def _look(rows: Path, table: "pl.LazyFrame", path: Path) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Write the numbers of the rows and their `source` into a file; return the pairs of a sample in
    blocks of neighbours, and of one as large whose rows stand apart: words of neighbours go together."""
    import polars as pl

    told = table.select("row", "source", sound=pl.col("disposition") != "quarantined")
    sound = column(told.filter("sound"), "row")
    sampled, spaced = _sampled(sound), sound.gather_every(max(1, -(-len(sound) // SAMPLE)))

    def look(
        both: "tuple[pl.DataFrame, pl.DataFrame]",
    ) -> "tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]":
        batch, lines = both
        found = pairs(explode(batch.filter(lines["sound"])))
        of_rows = numbers(found).join(
            lines.select("row", "source"), on="row", maintain_order="left"
        )
        texts = found.filter(pl.col("row").is_in(sampled.implode()))
        apart = found.filter(pl.col("row").is_in(spaced.implode()))
        return of_rows, _detached(texts, LONGEST), apart.select("row", *_spoken_words())

    samples: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    with writing(path) as write:
        for found, neighbours, apart in ahead(look, alongside(batches(rows), parts(told))):
            write(found)
            samples.append((neighbours, apart))
    return pl.concat(one for one, _ in samples), pl.concat(one for _, one in samples)


def _spoken_words() -> "list[pl.Expr]":
    """Return questions and answers as far as their words are looked at, and a bit beyond: what begins
    before that end is masked as a whole."""
    import polars as pl

    return [detached(pl.col(name).str.head(2 * HEAD)) for name in ("question", "answer")]


def _with_repeated(table: "pl.LazyFrame", path: Path) -> Columns:
    """Write the numbers of all rows into a file, with whether another row has the same answer."""
    import polars as pl

    repeated = pl.Series("repeated", occurrences(column(table, "answer").to_numpy()) > 1)
    place = 0
    with writing(path) as write:
        for lines in parts(table.drop("source")):
            write(lines.with_columns(repeated[place : place + len(lines)]))
            place += len(lines)
    return Columns(pl.scan_parquet(path))


def _sampled(rows: "pl.Series") -> "pl.Series":
    """Return at most SAMPLE of the row numbers, in blocks spread evenly."""
    import numpy as np

    step = max(1, -(-len(rows) // SAMPLE))
    return rows.filter(np.arange(len(rows)) // _BLOCK % step == 0)


def _alarms(
    rows: Path,
    frame: Columns,
    sample: "pl.DataFrame",
    sources: "pl.Series",
    part: "pl.DataFrame",
    spoken: list[str | None],
) -> tuple[list[Alarm], list[Trait]]:
    """Return what is to be named, and what groups of answers do; `sources` are those of the sample,
    `spoken` the languages of the questions of `part` of it."""
    if len(frame) < LEAST_ROWS:
        return [], []
    words, numbers_of = bags(sample), sample["row"].to_numpy()
    again = _again(rows, frame)
    asks, led = _Told(frame, sample, words, sources), talks(sample)
    numbers_of_part = part["row"].to_numpy()
    found = residues(sample, asks.by_source)
    alarms = [
        *masses(frame, asks.of_frame),
        *other_languages(part, spoken, lambda group: asks.of_rows(numbers_of_part, group)),
        *_odd_words(numbers_of, sample["answer"], words, asks),
        *found.alarms(asks.of_sample),
        *(
            shuffled(numbers_of, words)
            or lagging(sample)
            or elsewhere(numbers_of, words)
            or out_of_place(led)
        ),
        *joined(led),
        *silent(sample, words, lambda group: asks.of_rows(numbers_of, group)),
        *exchanged(sample, words),
        *triggers(sample, words),
        *recitals(sample),
        *contradictions(again, len(frame)),
        *unrelated(again, words, len(frame)),
    ]
    return alarms, found.signs()


def _odd_words(rows: "np.ndarray", answers: "pl.Series", words: Bags, asks: "_Told") -> list[Alarm]:
    """Return alarms for answers that say nothing of the question, in words that no other text has, or
    of letters that no language puts so."""
    import numpy as np

    found = []
    many = np.diff(words.answer.indptr) >= _TELLING
    unknown = far_group(unknown_words(words)[many], _UNKNOWN)
    odd = np.zeros(len(rows), dtype=bool)
    if unknown is not None:
        odd[np.flatnonzero(many)[unknown]] = True
    scrambled = np.zeros(len(rows), dtype=bool)
    cost = unlikely_letters(answers)
    known = np.flatnonzero(~np.isnan(cost))
    far = far_group(cost[known], _UNLIKELY)
    if far is not None and cost[known[far]].mean() > cost[known[~far]].mean():
        scrambled[known[far]] = True
    for group, text in (
        (strangers(words), "share no word with their question, where the others do"),
        (odd, "are made of words that stand in no other row"),
        (scrambled, "are made of letters that do not follow each other as in the other answers"),
    ):
        common = _STRANGE <= group.mean() <= 1 - _STRANGE
        if common and group.sum() >= LEAST_GROUP and not asks.of_rows(rows, group):
            found.append(share_alarm("doubtful_masses", rows[group], len(rows), text, "both"))
    return found


class _Told:
    """Whether the question, its length or the source tells which rows are in a group."""

    def __init__(
        self, frame: Columns, sample: "pl.DataFrame", words: Bags, sources: "pl.Series"
    ) -> None:
        import numpy as np
        from scipy.sparse import hstack

        self._rows = sample["row"].to_numpy()
        self._frame_rows = frame["row"].to_numpy()
        sampled = frame["row"].is_in(sample["row"].implode())
        lengths = frame["question_chars"].filter(sampled).to_numpy()
        names = sources.fill_null("").to_numpy().astype(str)
        self._sources = one_hot(names)
        self._features = hstack(
            [
                words.every_question,
                one_hot(np.floor(lengths * 1.5).astype(int)),
                self._sources,
                one_hot(frame["turns"].filter(sampled).to_numpy()),
            ]
        ).tocsr()

    def by_source(self, group: "np.ndarray") -> bool:
        """Tell whether the source alone tells of a group of the sample."""
        return told(group, self._sources) >= _TOLD

    def of_frame(self, group: "np.ndarray") -> bool:
        """Tell it of a group of all rows."""
        return self.of_rows(self._frame_rows, group)

    def of_sample(self, group: "np.ndarray", among: "np.ndarray | None" = None) -> bool:
        """Tell it of a group of the sample, among a part of it or all."""
        inside = slice(None) if among is None else among
        return self.of_rows(self._rows[inside], group[inside])

    def of_rows(self, rows: "np.ndarray", group: "np.ndarray") -> bool:
        """Tell it of `group`, a boolean for each of the row numbers `rows`."""
        import numpy as np

        places = np.flatnonzero(np.isin(self._rows, rows))
        inside = np.isin(self._rows[places], rows[group])
        if inside.sum() < LEAST_GROUP:
            return True
        return told(inside, self._features[places]) >= _TOLD


def _again(rows: Path, frame: Columns) -> "pl.DataFrame":
    """Return `row`, `context`, `question` and `answer` of rows that share all but the answer with
    another."""
    import polars as pl

    several = occurrences(frame["context"].to_numpy()) > 1
    shared = pl.DataFrame([frame[name].filter(several) for name in ("row", "context", "answer")])
    shared = shared.filter(~shared.select("context", "answer").is_duplicated())
    texts = _texts(rows, shared["row"].head(_AGAIN))
    columns = ("row", "context", "question", "answer")
    return texts.join(shared.select("row", "context"), on="row").select(columns)


def _texts(rows: Path, numbers_of: "pl.Series") -> "pl.DataFrame":
    """Return the pairs of some rows."""
    import polars as pl

    return pl.concat([_detached(_pairs(batch, numbers_of)) for batch in batches(rows)])


def _pairs(batch: "pl.DataFrame", numbers_of: "pl.Series") -> "pl.DataFrame":
    """Return the pairs of those rows of a batch that have one of these numbers."""
    import polars as pl

    return pairs(explode(batch.filter(pl.col("row").is_in(numbers_of.implode()))))


def _detached(texts: "pl.DataFrame", longest: int | None = None) -> "pl.DataFrame":
    """Return pairs whose texts, of at most `longest` characters, do not keep their batch in memory."""
    import polars as pl

    cut = (pl.col(name) if longest is None else pl.col(name).str.head(longest) for name in _TEXTS)
    return texts.with_columns(map(detached, cut))


def _quoted(rows: Path, alarms: list[Alarm]) -> list[Alarm]:
    """Add the masked example to each sentence."""
    import polars as pl

    wanted = pl.Series([alarm.row for alarm in alarms if alarm.row is not None], dtype=pl.Int64)
    if wanted.is_empty():
        return alarms
    texts = _texts(rows, wanted.unique())
    shown = texts.select("row", masked(texts["question"]), masked(texts["answer"]))
    quotes = {row: (question, answer) for row, question, answer in shown.rows()}
    return [_with_quote(alarm, *quotes.get(alarm.row, ("", ""))) for alarm in alarms]


def _with_quote(alarm: Alarm, question: str, answer: str) -> Alarm:
    question, answer = (" ".join(text.split()) for text in (question, answer))
    quote = {
        "question": f"{question[:_QUOTED]!r}",
        "answer": f"{answer[:_QUOTED]!r}",
        "end": f"{'…' + answer[-_QUOTED:]!r}",
        "both": f"{question[:_QUOTED]!r}: {answer[:_QUOTED]!r}",
        "": "",
    }[alarm.quote]
    sentence = f"{alarm.sentence}, e.g. row {alarm.row} ({quote})" if quote else alarm.sentence
    return alarm.model_copy(update={"sentence": sentence})
