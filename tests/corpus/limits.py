"""What the gate is known to get wrong: cases that belong into the corpus once it does not."""

from tests.corpus.bad_rows import ENGLISH
from tests.corpus.good import good, picture, several
from tests.corpus.parts import answer, every

FALSE_ALARMS = (
    # One in some hundred thousand of its letters begins what looks like an AWS key.
    good("dna", every(answer(lambda _, rng: "".join(rng.choices("ACGT", k=3000))))),
    # Of an answer that is mostly base64 there is no language.
    good("english_with_pictures", every(answer(several(picture, 1, 2))), ENGLISH),
)

CASES_OPEN = FALSE_ALARMS
