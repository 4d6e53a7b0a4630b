"""Conversations that are two: their last texts share nothing with what was said before, as where two
sessions were joined under one number.

People change the subject as well; of a set of conversations few end so.
"""

from itertools import product
from typing import TYPE_CHECKING

from expectations.data.profile.alarms import LEAST_GROUP, Alarm, share_alarm
from expectations.data.profile.pairing import fit_of
from expectations.data.profile.talks import Talks

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_matrix

_WORDS, _OPENING = 20, 8  # of four letters, of a pair and of a first question that has a topic
_ALIKE = 0.1  # of how much the last pair has in common with what stands above it usually
_SHARE = 0.06


def joined(talks: Talks | None) -> list[Alarm]:
    """Return an alarm for conversations whose last pair, or last two, share hardly a word with any text
    above."""
    import numpy as np

    if talks is None:
        return []
    asked, before, earlier, opening, said, replied = talks[1:7]
    long = (talks.words[0] + talks.words[4] >= _WORDS) & (talks.words[1] + talks.words[5] >= _WORDS)
    last = _nearest((asked, said), (before, replied, earlier, opening))
    both = _nearest((asked, said, before, replied), (earlier, opening))
    both[talks.are_two | (talks.words[3] < _OPENING)] = np.inf
    least = _ALIKE * float(np.median(last))
    apart = long & (np.minimum(last, both) < least)
    if apart.sum() < max(LEAST_GROUP, _SHARE * len(talks.rows)):
        return []
    words = "end about something else than all that was said before, as if two had been joined"
    rows, total = talks.rows[apart], len(talks.rows)
    return [share_alarm("doubtful_masses", rows, total, words, "question", "conversations")]


def _nearest(below: "tuple[csr_matrix, ...]", above: "tuple[csr_matrix, ...]") -> "np.ndarray":
    """Return the cosine of the two texts that have most in common, one of them below and one above."""
    import numpy as np

    found: np.ndarray = np.maximum.reduce([fit_of(*pair) for pair in product(below, above)])
    return found
