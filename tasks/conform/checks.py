"""What is checked of a tokenizer and its chat template before anything is trained with them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from retune.chat import END, START, decode, encode, gives_back, special_tokens
from retune.labels import IGNORED, labels_of
from retune.loaders import Departure, load_config
from retune.records import Check
from retune.templates import Refusal, outcomes, rendering
from retune.templates.differences import (
    ALWAYS,
    Deviation,
    Site,
    differences,
    template_sites,
)
from tasks.conform.tools import tool_checks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]

# `model_type`s with recurrent layers, and how layers are called that are.
RECURRENT = {
    *("mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "falcon_h1", "nemotron_h", "zamba"),
    *("zamba2", "recurrent_gemma", "granitemoehybrid"),
}
RECURRENT_LAYERS = {"mamba", "linear_attention", "recurrent", "hybrid"}
RECURRENT_THAT_WORK = {"granitemoehybrid"}

ANSWER = "It is 42.\nThat is all."
TOOLS = """Answer briefly.

<tools>
{"type": "function", "function": {"name": "thermometer", "parameters": {"type": "object"}}}
</tools>"""
CALL = '<tool_call>\n{"name": "thermometer", "arguments": {"city": "Łódź"}}\n</tool_call>'
# One of each form that the format stage makes; all end with the assistant's turn.
CHATS: dict[str, Chat] = {
    "a single turn": [
        {"role": "user", "content": "Is 9.11 larger than 9.9?"},
        {"role": "assistant", "content": ANSWER},
    ],
    "several turns": [
        {"role": "user", "content": "Grüß Gott 👋🏽"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "def f(x):\n\treturn x  # ?"},
        {"role": "assistant", "content": ANSWER},
    ],
    "a system message": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好，世界！"},
        {"role": "assistant", "content": ANSWER},
    ],
    "tool calls": [
        {"role": "system", "content": TOOLS},
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": CALL},
        {"role": "tool", "content": '{"celsius": 21}'},
        {"role": "assistant", "content": ANSWER},
    ],
}
OPTIONAL_ROLES = ("system", "tool")
FIX_TEMPLATE = (
    "repair chat_template in the base's tokenizer_config.json or chat_template.jinja, or remove it: "
    "ChatML's own is used then"
)
FIX_CONTENT = (
    "look whether this is wanted: a model learns it, and programs with a template of their own do not "
    "do it"
)


def tokenizer_checks(
    tokenizer: "PreTrainedTokenizerBase", chat_tokens: str, train_on: str = "all"
) -> Iterator[Check]:
    """Yield what is to be known from the tokenizer and its template alone."""
    with rendering():
        yield _control_tokens(tokenizer, chat_tokens)
        renderings = [_rendering(tokenizer, form, chat) for form, chat in CHATS.items()]
        yield from renderings
        if text := rendered(tokenizer, CHATS["a single turn"]):
            yield _end_of_turn(tokenizer, text)
            yield _one_bos(tokenizer, text)
        yield _default_system_message(tokenizer)
        if train_on == "responses":
            yield from _learned(tokenizer)
        yield from content_checks(tokenizer)
        yield from tool_checks(tokenizer)


def reads_as_its_file(found: Departure | None) -> Check:
    """Other programs, llama.cpp among them, read `tokenizer.json`; so does everything here."""
    return Check(
        name="transformers reads text as tokenizer.json says",
        passed=found is None,
        seen=f"{found}; the file's own reading is trained and served"
        if found
        else "the same tokens in every text that was tried",
        fix="nothing here: load the trained model's tokenizer from its own files elsewhere too",
        severity="info",
    )


def mergeable(base: str, revision: str | None) -> Check:
    """An adapter is merged on floats; of few bits merge reads bitsandbytes' 4-bit weights alone."""
    stored = getattr(load_config(base, revision), "quantization_config", None) or {}
    if isinstance(stored, str):
        stored = {"quant_method": stored}
    in_4bit = (
        stored.get("load_in_4bit") and stored.get("quant_method", "bitsandbytes") == "bitsandbytes"
    )
    method = str(stored.get("quant_method", "bitsandbytes' 8 bits"))
    return Check(
        name="an adapter can be merged with the base's weights",
        passed=not stored or bool(in_4bit),
        seen=f"stored by {method}" if stored and not in_4bit else "stored as floats or NF4",
        fix="name the model with 16-bit weights as model.base (model.load_in_4bit is for any), or set "
        "merging.save_method=lora: then the adapter is all there is",
    )


def without_recurrence(base: str, revision: str | None) -> Check:
    """Of models with recurrent layers, transformers and llama.cpp agree on Granite 4's alone.

    Of the others a tiny model cannot be made, or is not converted; so they are refused by their name
    rather than by what goes wrong.
    """
    config = load_config(base, revision).get_text_config()
    kind = config.model_type
    layers = {*(getattr(config, "layer_types", None) or ()), *(_block_types(config))}
    recurrent = kind in RECURRENT or bool(layers & RECURRENT_LAYERS)
    refused = recurrent and kind not in RECURRENT_THAT_WORK
    return Check(
        name="the layers are ones that can be merged and converted",
        passed=not refused,
        seen=f"{kind} has recurrent layers (Mamba's, or linear attention)" if refused else kind,
        fix="choose a model.base of attention layers alone or one of Granite 4's hybrids, or set "
        "merging.save_method=lora: then the adapter is all there is",
    )


def _block_types(config: object) -> tuple[str, ...]:
    return tuple(getattr(config, "layers_block_type", None) or ())


def rendered(tokenizer: "PreTrainedTokenizerBase", chat: Chat, prompt: bool = False) -> str | None:
    """Return `chat` as text, `prompt` for one that asks for an answer; None if it is refused."""
    (outcome,) = outcomes(tokenizer, [chat], add_generation_prompt=prompt)
    return None if isinstance(outcome, Refusal) else outcome


def content_checks(tokenizer: "PreTrainedTokenizerBase") -> Iterator[Check]:
    """Yield where the template depends on what a message says, with what that makes of it.

    Such templates are in use (reasoning is cut out of earlier turns, white space stripped), so this
    is told and refuses nothing. A condition is told even if no text was found that meets it.
    """
    sites = template_sites(tokenizer)
    if isinstance(sites, Refusal):
        yield Check(
            name="the template can be read", passed=False, seen=str(sites), fix=FIX_TEMPLATE
        )
        return
    deviations: list[Deviation] = []
    for site in sites:
        site_deviations = list(differences(tokenizer, site.triggers() or ALWAYS))
        deviations += site_deviations
        yield _content_check(site, site_deviations)
    deviations += [] if deviations else differences(tokenizer, ALWAYS)
    yield Check(
        name="the template writes messages as they are",
        passed=not deviations,
        seen=str(deviations[0]) if deviations else "in every text that was tried",
        fix=FIX_CONTENT,
        severity="info" if sites and all(site.kind == "trim" for site in sites) else "warning",
    )


def _content_check(site: Site, deviations: list[Deviation]) -> Check:
    tried = ", ".join(f"{text!r:.40}" for text in site.triggers()[:3])
    nothing = f"nothing that was tried{f' ({tried})' if tried else ''} made a difference"
    return Check(
        name=f"line {site.line} of the template does not depend on content",
        passed=not deviations and site.kind != "condition",
        seen=f"{site.excerpt!r}: {deviations[0] if deviations else nothing}",
        fix=FIX_CONTENT,
        severity="info" if site.kind == "trim" else "warning",
    )


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", chat_tokens: str) -> Check:
    """`<|im_start|>` may be plain text where the EOS alone was renamed."""
    control = {
        token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    needed = [END] if chat_tokens == "map_eos" and START not in control else [START, END]
    wrong = {}
    for token in needed:
        ids = tokenizer(f"a{token}b", add_special_tokens=False).input_ids
        if token not in control or ids.count(control[token]) != 1 or tokenizer.unk_token_id in ids:
            wrong[token] = ids
    observed = ", ".join(f"a{token}b is read as {ids}" for token, ids in wrong.items())
    return Check(
        name="ChatML's tokens are control tokens",
        passed=not wrong,
        seen=observed or f"{' and '.join(needed)} are one token each",
        fix="try another way for them in model.chat_tokens, or choose another model.base",
    )


def _rendering(tokenizer: "PreTrainedTokenizerBase", form: str, chat: Chat) -> Check:
    """What is trained must begin with what will be asked, and the ids must represent the text."""
    name, fix = f"the template renders {form}", FIX_TEMPLATE
    (text,) = outcomes(tokenizer, [chat])
    (prompt,) = outcomes(tokenizer, [chat[:-1]], add_generation_prompt=True)
    for outcome in (text, prompt):
        if isinstance(outcome, Refusal):
            # Many have no system messages or tools; rows with these are counted by format's gate.
            optional = any(message["role"] in OPTIONAL_ROLES for message in chat)
            return Check(
                name=name,
                passed=False,
                seen=f"the template refuses it: {outcome}",
                fix="rows with such a message are left out" if optional else fix,
                severity="warning" if optional else "critical",
            )
    assert isinstance(text, str)
    assert isinstance(prompt, str)
    lost = [message["content"] for message in chat if message["content"] not in text]
    header = text.removeprefix(prompt).partition(ANSWER)[0]  # before the answer, by the template
    ids, prompt_ids = encode(tokenizer, [text, prompt])
    back = decode(tokenizer, [ids])[0]
    problem = ""
    if "\0" in text + prompt:
        problem = f"{text!r} holds NUL, where programs in C end a text"
    elif lost:
        problem = f"{lost[0]!r} is not in {text!r}"
    elif not text.startswith(prompt) or "assistant" in header:
        problem = (
            f"trained is {text!r}, asked would be {prompt!r}, which is not what it begins with"
        )
    elif not gives_back(back, text, special_tokens(tokenizer)):
        problem = f"{text!r} comes back from its token ids as {back!r}"
        fix = "choose a model.base whose tokenizer is lossless"
    elif ids[: len(prompt_ids)] != prompt_ids:
        problem = f"the prompt's token ids {prompt_ids} are not how those of the whole begin, {ids}"
    return Check(name=name, passed=not problem, seen=problem or f"{len(ids)} tokens", fix=fix)


def _default_system_message(tokenizer: "PreTrainedTokenizerBase") -> Check:
    """Some templates begin every conversation without a system message with one of their own."""
    text = _own_system_message(tokenizer)
    return Check(
        name="the template adds no system message",
        passed=not text,
        seen=f"conversations without one begin with {text!r}, in training, evaluation and where it is "
        f"served"
        if text
        else "conversations without one have none",
        fix="give the rows a system message of their own, if the template's is not wanted",
        severity="info",
    )


def _own_system_message(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return what the template says as system where a conversation has no such message, or ""."""
    single = CHATS["a single turn"]
    mark = "Mark7c1f"
    marked = rendered(tokenizer, [{"role": "system", "content": mark}, *single])
    plain = rendered(tokenizer, single)
    if not marked or not plain:
        return ""
    before, _, after = marked.partition(mark)
    # Turns of the conversation follow; a template may write more than the message itself.
    if not after or not plain.startswith(before) or not plain.endswith(after):
        return ""
    return plain[len(before) : len(plain) - len(after)].strip()


def _learned(tokenizer: "PreTrainedTokenizerBase") -> Iterator[Check]:
    """Yield whether of each form exactly the answers are learned, each with the end of its turn."""
    for form, chat in CHATS.items():
        text = rendered(tokenizer, chat)
        if text is None:
            continue
        (ids,) = encode(tokenizer, [text])
        labels = labels_of(ids, tokenizer, "responses")
        learned = [label for label in labels if label != IGNORED]
        words = decode(tokenizer, [learned])[0]
        answers = [message["content"] for message in chat if message["role"] == "assistant"]
        others = [message["content"] for message in chat if message["role"] != "assistant"]
        missing = [answer for answer in answers if answer not in words]
        foreign = [other for other in others if other in words]
        ends = learned.count(tokenizer.eos_token_id)
        yield Check(
            name=f"answers are learned in {form}",
            passed=not missing and not foreign and ends == len(answers),
            seen=f"{words!r} is learned of {text!r}",
            fix="set training.train_on=all, or let the template write turns as ChatML does",
        )


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", text: str) -> Check:
    """Generation stops at EOS alone: what follows an answer must begin with it."""
    after = text.partition(ANSWER)[2]
    first = tokenizer(after, add_special_tokens=False).input_ids[:1]
    first_token = tokenizer.convert_ids_to_tokens(first)
    return Check(
        name="EOS ends an assistant's turn",
        passed=first == [tokenizer.eos_token_id],
        seen=f"an answer is followed by {after!r}, whose first token is {first_token}; EOS is "
        f"{tokenizer.eos_token!r}",
        fix=f"let the template end a turn with {tokenizer.eos_token!r}: {FIX_TEMPLATE}",
    )


def _one_bos(tokenizer: "PreTrainedTokenizerBase", text: str) -> Check:
    """Others tokenise what the template wrote with the tokenizer's defaults, and get both."""
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    writes = bos is not None and text.startswith(bos)
    ids = encode(tokenizer, [text])[0]
    leading = next((n for n, id_ in enumerate(ids) if id_ != tokenizer.bos_token_id), len(ids))
    writers = [writer for writer, does in (("tokenizer", adds), ("template", writes)) if does]
    return Check(
        name="one BOS",
        passed=len(writers) < 2 and leading == len(writers),
        seen=f"{bos!r} is written by {' and '.join(writers) or 'nobody'}; a conversation begins with "
        f"{leading} of it",
        fix="remove bos_token from chat_template, or set add_bos_token to false in "
        "tokenizer_config.json (and remove it from the post_processor in tokenizer.json)",
    )
