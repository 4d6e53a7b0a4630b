"""The child process of scoring: what a sequence-classification model says of each conversation.

The output of the model is the score, as it is. The encoder computes in float16 on a GPU, the head
in float32: a whole model in bf16 rounds the scores to a few hundred values, and a bf16 encoder is 8
times as far off as a float16 one (BERT-base with random weights, errors in standard deviations of
the score: bf16 0.03 in the mean and 0.09 at most, float16 0.003 and 0.01), at the same speed.
float16 can overflow, so it is tried on a batch first, and float32 takes over where it fails.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel

from retune.child import emit, main
from retune.errors import HubUnreachable, RetuneError
from retune.loaders import load_classifier, load_config, load_tokenizer
from retune.models import device
from retune.recipe import Classifier

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SETTING = "validation.classifier"
TOLERANCE = 0.01  # between float16 and float32 scores, on the classifier's scale
CHECKED_ROWS = 64
# A batch that keeps the device busy ends where rows are shorter than this share of its longest.
ENOUGH_TOKENS = {"cuda": 8192, "cpu": 1024}
LIKE_LENGTH = 7 / 8
ALIGNMENT = 8  # tokens; SDPA's masked kernels and the tensor cores want rows of such lengths
PROGRESS_SECONDS = 5.0

Item = TypeVar("Item")


class ClassifierRefused(RetuneError):
    """A classifier that cannot score as the recipe asks for."""


class ScoringJob(BaseModel):
    """Score the rows `numbers` of the Parquet file `rows` and write each shard into `folder`.

    `version` identifies the weights of `config.model`; it is part of the shards' names.
    """

    rows: Path
    numbers: list[int]
    config: Classifier
    version: str
    shard_rows: int
    folder: Path


class Shard(NamedTuple):
    """Rows that are scored and written together: their `row` values and their texts."""

    numbers: list[int]
    texts: list[str]

    def file(self, version: str, max_length: int) -> str:
        """Return the name of the file with this shard's scores: a digest of what decides them."""
        identity = [version, max_length, self.numbers, [*map(len, self.texts)]]
        digest = hashlib.sha256(json.dumps(identity).encode())
        for text in self.texts:
            digest.update(text.encode())
        return f"{digest.hexdigest()[:32]}.parquet"


def shards(rows: Path, numbers: "Sequence[int] | pl.Series", size: int) -> Iterator[Shard]:
    """Yield the rows whose `row` is in `numbers`, `size` at a time, in the order of the file.

    Streams: no more than a shard and one batch of the file is in memory.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    selected = np.unique(np.asarray(numbers, dtype=np.int64))
    pending = Shard([], [])
    with pq.ParquetFile(rows, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["row", "messages"]):
            batch = batch.filter(pa.array(among(batch["row"].to_numpy(), selected)))
            pending.numbers.extend(batch["row"].to_pylist())
            pending.texts.extend(map(text_of, batch["messages"].to_pylist()))
            while len(pending.numbers) >= size:
                yield Shard(pending.numbers[:size], pending.texts[:size])
                pending = Shard(pending.numbers[size:], pending.texts[size:])
    if pending.numbers:
        yield pending


def among(numbers: "np.ndarray", ordered: "np.ndarray") -> "np.ndarray":
    """Return which numbers are among others, which are in order: a set of millions takes a GiB."""
    import numpy as np

    places = np.searchsorted(ordered, numbers)
    there = places < len(ordered)
    there[there] = ordered[places[there]] == numbers[there]
    return there


def text_of(messages: list[dict[str, Any]] | None) -> str:
    """Return what is scored of a conversation: all contents in order, a blank line between them.

    Roles are left out, as the classifier judges prose; no messages are an empty text.
    """
    return "\n\n".join(message["content"] or "" for message in messages or [])


def score(job: ScoringJob) -> dict[str, Any]:
    """Score and write every shard; return `commit`, `precision` and the throughput of it all."""
    scorer = load(job.config)
    meter = Meter(report=lambda numbers: emit("progress", **numbers))
    pending = shards(job.rows, job.numbers, job.shard_rows)
    for shard, scores in scored(scorer, pending, meter.count):
        path = job.folder / shard.file(job.version, job.config.max_length)
        write(path, shard.numbers, scores)
        meter.tell()
    return {"commit": scorer.commit, "precision": scorer.precision} | meter.numbers()


class Meter:
    """Counts rows and tokens since it was made, and reports at most every few seconds."""

    def __init__(self, report: Callable[[dict[str, float]], None]) -> None:
        self._report = report
        self._rows = self._tokens = 0
        self._start = self._told = time.monotonic()

    def count(self, rows: int, tokens: int) -> None:
        """Add what was scored; report if it is time to."""
        self._rows += rows
        self._tokens += tokens
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Report now."""
        self._told = time.monotonic()
        self._report(self.numbers())

    def numbers(self) -> dict[str, float]:
        """Return the rows so far, and rows and tokens (padding not counted) per second."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return {
            "rows": self._rows,
            "rows_per_second": self._rows / seconds,
            "tokens_per_second": self._tokens / seconds,
        }


def write(path: Path, numbers: list[int], scores: "np.ndarray") -> None:
    """Write a shard's scores, to a partial file first: a killed process leaves none or all of it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"row": pa.array(numbers, pa.int64()), "score": scores.astype(np.float64)})
    # Two runs may write the same shard at the same time, each to a partial file of its own.
    partial = path.with_suffix(f".{os.getpid()}.partial")
    pq.write_table(table, partial)
    partial.replace(path)


def scored(
    scorer: "Scorer", shards: Iterable[Shard], count: Callable[[int, int], None]
) -> Iterator[tuple[Shard, "np.ndarray"]]:
    """Yield each shard with its scores (float32, in the shard's order).

    The next shard is read and tokenised meanwhile. `count` is told rows and tokens as they pass.
    """
    import numpy as np

    for shard, batches in ahead((shard, scorer.batches(shard.texts)) for shard in shards):
        scores = np.empty(len(shard.texts), np.float32)
        for batch, values in scorer.scores(batches):
            scores[batch.places] = values
            count(len(values), batch.tokens)
        yield shard, scores


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield `items`; a thread makes the next one while the caller works on the last."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item


@dataclass
class TokenBatch:
    """Rows for one forward pass: `places` in their shard, and `ids` (rows × longest), padded right.

    `mask` is 1 for tokens and 0 for padding; None where nothing is padded, which lets SDPA use its
    fastest kernel. `tokens` are those without padding.
    """

    places: list[int]
    ids: "np.ndarray"
    mask: "np.ndarray | None"
    tokens: int

    def first(self, rows: int) -> "TokenBatch":
        """Return a batch of the first rows only (its `tokens` are still all)."""
        mask = None if self.mask is None else self.mask[:rows]
        return TokenBatch(self.places[:rows], self.ids[:rows], mask, self.tokens)


class Scorer:
    """A classifier and its tokenizer in memory, ready to score. Made by `load`."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", config: Classifier
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.commit: str | None = getattr(model.config, "_commit_hash", None)
        # Its decorator hides from type checkers that it is a method.
        self.exact = model.to(device()).eval()  # type: ignore[arg-type]
        self.fast = _with_half_encoder(self.exact) if device() == "cuda" else None
        self._checked = self.fast is None

    @property
    def precision(self) -> str:
        """What the encoder computes in: float16 or float32."""
        return "float16" if self.fast else "float32"

    def batches(self, texts: list[str]) -> list[TokenBatch]:
        """Tokenise, cut to max_length, and sort into batches of like lengths, the longest first."""
        rows = self._encoded(texts)
        return [self._batch(places, rows) for places in self._places([*map(len, rows)])]

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids, cut to max_length; at a GPU's side this is what takes the time."""
        length = self.config.max_length
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        backend = self.tokenizer.backend_tokenizer
        backend.enable_truncation(length)
        backend.no_padding()
        return [row.ids for row in backend.encode_batch_fast(texts)]

    def _places(self, lengths: list[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        longest = 0
        for place in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
            length = self._padded_length(lengths[place])
            is_full = (len(batch) + 1) * longest > self.config.batch_tokens
            is_enough = len(batch) * longest >= ENOUGH_TOKENS[device()]
            if batch and (is_full or (is_enough and length < LIKE_LENGTH * longest)):
                yield batch
                batch = []
            longest = longest if batch else length
            batch.append(place)
        if batch:
            yield batch

    def _padded_length(self, length: int) -> int:
        # An empty text without special tokens is one padding token; no model takes 0 tokens.
        return min(-(-max(length, 1) // ALIGNMENT) * ALIGNMENT, self.config.max_length)

    def _batch(self, places: list[int], rows: list[list[int]]) -> TokenBatch:
        import numpy as np

        lengths = np.array([len(rows[place]) for place in places])
        mask = np.arange(self._padded_length(lengths[0])) < lengths[:, None]
        ids = np.full(mask.shape, self.tokenizer.pad_token_id, np.int64)
        ids[mask] = np.fromiter(chain.from_iterable(rows[place] for place in places), np.int64)
        padded = None if mask.all() else mask.astype(np.int64)
        return TokenBatch(places, ids, padded, int(lengths.sum()))

    def scores(self, batches: Iterable[TokenBatch]) -> Iterator[tuple[TokenBatch, "np.ndarray"]]:
        """Yield each batch with its scores (float32), one batch behind the GPU's work."""
        waiting: tuple[TokenBatch, torch.Tensor] | None = None
        for batch in batches:
            if not self._checked:
                self._check(batch)
            launched = batch, self._forward(self.fast or self.exact, batch)
            if waiting:
                yield self._arrived(*waiting)
            waiting = launched
        if waiting:
            yield self._arrived(*waiting)

    def _check(self, batch: TokenBatch) -> None:
        """Drop the float16 encoder if it is off by more than TOLERANCE, or overflows."""
        few = batch.first(CHECKED_ROWS)
        assert self.fast is not None
        off = (self._forward(self.fast, few) - self._forward(self.exact, few)).abs().max().item()
        if not off <= TOLERANCE:  # NaN too
            print(f"float16 scores are off by {off:.4f}, so float32 it is")
            self.fast = None
        self._checked = True

    def _arrived(
        self, batch: TokenBatch, output: "torch.Tensor"
    ) -> tuple[TokenBatch, "np.ndarray"]:
        import numpy as np

        scores = output.cpu().numpy()
        if self.fast and not np.isfinite(scores).all():  # float16 ends at 65,504
            scores = self._forward(self.exact, batch).cpu().numpy()
        return batch, scores

    def _forward(self, model: "PreTrainedModel", batch: TokenBatch) -> "torch.Tensor":
        """Return the scores (float32) of a batch, on the device and perhaps still being computed."""
        import torch

        try:
            with torch.inference_mode():
                mask = None if batch.mask is None else _on_device(batch.mask)
                return model(input_ids=_on_device(batch.ids), attention_mask=mask).logits[:, 0]
        except torch.OutOfMemoryError:
            raise ClassifierRefused(
                f"{SETTING}.batch_tokens: {self.config.batch_tokens} tokens at a time are too many for "
                f"this GPU's memory; lower it"
            ) from None


def _on_device(array: "np.ndarray") -> "torch.Tensor":
    import torch

    tensor = torch.from_numpy(array)
    # A copy from memory that is not pinned would wait for all that the GPU has still to do.
    return tensor.pin_memory().to("cuda", non_blocking=True) if device() == "cuda" else tensor


def _with_half_encoder(model: "PreTrainedModel") -> "PreTrainedModel":
    """Return a copy of the model in float16, but for its pooler and head: these stay in float32."""

    def widened(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(value.float() for value in inputs)

    fast = deepcopy(model).half()
    encoder = fast.base_model
    heads = [module for module in fast.children() if module is not encoder]
    if getattr(encoder, "pooler", None) is not None:
        heads.append(encoder.pooler)
    for head in heads:
        head.float().register_forward_pre_hook(widened)
    return fast


def load(config: Classifier) -> Scorer:
    """Return the classifier in memory, its weights in float32, on the GPU if there is one.

    Attention is SDPA's where the architecture has it: transformers' default. Raises ClassifierRefused
    if the model cannot be had, has more than one output or no head, or reads less than max_length.
    """
    import torch

    shape = _pretrained(load_config, config)
    if shape.num_labels != 1:
        raise ClassifierRefused(
            f"{SETTING}.model: {config.model} has {shape.num_labels} outputs (num_labels); a score is "
            f"one number, so name a sequence-classification model with num_labels=1"
        )
    tokenizer = _pretrained(load_tokenizer, config)
    _require_length(config, tokenizer, shape)
    _set_padding(config, tokenizer, shape)
    model, loading = _pretrained(
        load_classifier,
        config,
        config=shape,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers makes up what a checkpoint lacks, at random.
    made_up = ", ".join(sorted(loading["missing_keys"]))
    if made_up:
        raise ClassifierRefused(
            f"{SETTING}.model: {config.model} lacks weights ({made_up}); "
            f"name a model that was trained for sequence classification"
        )
    return Scorer(model, tokenizer, config)


def _pretrained(load: Callable[..., Any], config: Classifier, /, **options: Any) -> Any:
    try:
        return load(config.model, config.revision, **options)
    except (OSError, ValueError, RetuneError) as error:
        if "couldn't connect" in str(error):
            raise HubUnreachable(f"{SETTING}.model: the Hub did not answer: {error}") from error
        reason = str(error).strip().partition("\n")[0]
        raise ClassifierRefused(
            f"{SETTING}.model: cannot load {config.model} at revision {config.revision or 'main'}; "
            f"correct the name or the path ({reason})"
        ) from error


def _require_length(
    config: Classifier, tokenizer: "PreTrainedTokenizerBase", shape: "PretrainedConfig"
) -> None:
    longest = min(
        tokenizer.model_max_length,
        getattr(shape, "max_position_embeddings", None) or tokenizer.model_max_length,
    )
    if config.max_length > longest:
        raise ClassifierRefused(
            f"{SETTING}.max_length: {config.max_length} tokens, but {config.model} reads {longest} at "
            f"most; lower it"
        )


def _set_padding(
    config: Classifier, tokenizer: "PreTrainedTokenizerBase", shape: "PretrainedConfig"
) -> None:
    """Agree on a padding token: decoders find a row's last token by it, encoders by the mask."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ClassifierRefused(
                f"{SETTING}.model: the tokenizer of {config.model} has neither a padding nor an end "
                f"token; set its pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    shape.pad_token_id = tokenizer.pad_token_id


if __name__ == "__main__":
    main(ScoringJob, score)
