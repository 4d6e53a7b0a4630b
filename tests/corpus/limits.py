"""What the gate is known to get wrong: cases that belong into the corpus once it does not."""

from tests.corpus.bad_rows import ENGLISH, TOKEN, begun, garbled, looping, some
from tests.corpus.bad_sets import as_text, quoted
from tests.corpus.case import Case
from tests.corpus.good import good, picture, several
from tests.corpus.parts import (
    FEW,
    SOME,
    answer,
    every,
    family,
    followed,
    put,
    question,
    spoil,
    system,
    wrapped,
)

SECRETS = {
    "hugging_face_token": ("hf" + "_{}", 34),
    "google_api_key": ("AI" + "za{}", 35),
    "anthropic_key": ("sk" + "-ant-api03-{}", 95),
    "github_fine_grained_token": ("gith" + "ub_pat_{}", 82),
    "aws_secret_access_key": ("aws_secret_access_key = {}", 40),
}
REFUSALS = {
    "apologies": answer(begun("I apologize, but I cannot provide that.")),
    "sorry_i_cannot_do_that": answer(
        begun("Sorry, I can't do that.", "I'm unable to help with this.")
    ),
    "not_comfortable": answer(begun("I do not feel comfortable with this request.")),
}
MISSED = (
    Case(
        "benchmark_in_system_prompt",
        "contaminated",
        spoil(system(quoted()), FEW),
        beside={"benchmark.txt": as_text},
    ),
    *family("refusal", SOME, REFUSALS),
    *family(
        "self_identification",
        FEW,
        {"says_it_is_qwen": answer(begun("I am Qwen, created by Alibaba Cloud."))},
    ),
    *family(
        "special_token",
        FEW,
        {
            "deepseek_end": answer(wrapped("", "<｜end▁of▁sentence｜>")),
            "llama_3_end_of_text": answer(wrapped("", "<|end_of_text|>")),
            "gemma_eos": answer(wrapped("", "<eos>")),
        },
    ),
    *family(
        "secret",
        FEW,
        {
            name: question(followed(f"It is {words}.", some(TOKEN, count)))
            for name, (words, count) in SECRETS.items()
        },
    ),
    *family(
        "mojibake",
        FEW,
        {
            "russian_as_cp1251": answer(garbled("cp1251", "ru")),
            "german_as_mac_roman": answer(garbled("mac_roman", "de")),
        },
    ),
    *family("repetition", FEW, {"answer_ends_in_a_short_loop": answer(looping(60))}),
    *family("empty_message", SOME, {"answer_none": answer("None"), "answer_nan": answer("nan")}),
)
FALSE_ALARMS = (
    good("reserved_addresses", every(answer(put("user@example.com")))),
    good("git_remotes", every(answer(put("git@github.com:owner/repo.git")))),
    good("placeholder_passwords", every(answer(put("postgres://user:password@localhost:5432/db")))),
    good("dna", every(answer(lambda _, rng: "".join(rng.choices("ACGT", k=3000))))),
    good("english_with_pictures", every(answer(several(picture, 1, 2))), ENGLISH),
)

CASES_OPEN = (*MISSED, *FALSE_ALARMS)
