"""Stand-in for `llama-perplexity`, run as a script: perplexity, kept logits and KL divergence.

It computes what llama.cpp's `tools/perplexity/perplexity.cpp` computes, on the same chunks, and
reads and writes the same files of logits.
"""

import argparse
import math
import struct
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np

from retune.llamacpp.measurement import KeptLogits
from retune.llamacpp.prebuilt.library import Model, Refused
from retune.llamacpp.prebuilt.texts import chunks_of

STEPS = 65535  # of a kept logit
SPAN = 16  # nats below the likeliest token that are kept
LEAST_LOG = -16  # log-probabilities below count for nothing in a divergence


def log_sum_exp(logits: np.ndarray) -> np.float32:
    """Return the logarithm of the sum over `logits`, less their maximum, of the exponentials."""
    return np.float32(np.log(np.exp(logits - logits.max()).sum(dtype=np.float64)))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of `values` and its standard error."""
    spread = np.square(values).mean() - values.mean() ** 2
    return float(values.mean()), math.sqrt(max(spread, 0) / (len(values) - 1))


def rows_of(model: Model, chunks: np.ndarray, threads: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the logits of each token that is scored, with the token that followed it."""
    context = chunks.shape[1]
    first = context // 2
    for chunk, logits in zip(chunks, model.logits(chunks, first, threads), strict=True):
        # The last one's successor is in the next chunk, if anywhere.
        yield from zip(logits[:-1], chunk[first + 1 :], strict=True)


def packed(logits: np.ndarray) -> bytes:
    """Return the log-probabilities in 16 bits each: a scale, the least, and steps above it."""
    top, log_sum = logits.max(), log_sum_exp(logits)
    least = max(logits.min(), top - SPAN)
    scale = np.float32((top - least) / STEPS)
    steps = np.zeros(len(logits) + len(logits) % 2, np.uint16)
    if scale:
        steps[: len(logits)] = np.rint(np.maximum(logits - least, 0) * (1 / scale))
    return struct.pack("<2f", scale, least - top - log_sum) + steps.tobytes()


def unpacked(row: np.ndarray, vocabulary: int) -> np.ndarray:
    """Return the log-probabilities (float32) in a row of uint16 that `packed` made."""
    scale, least = row[:4].view(np.float32)
    return row[4 : 4 + vocabulary] * scale + least


def perplexity(model: Model, text: Path, context: int, threads: int, keep: Path | None) -> None:
    """Print the perplexity on `text`; write the logits to `keep` if that is given."""
    chunks = chunks_of(model, text, context)
    losses = []
    with keep.open("wb") if keep else nullcontext() as file:
        if file:
            head = KeptLogits.HEAD.pack(b"_logits_", context, model.vocabulary, len(chunks))
            file.write(head + chunks.tobytes())
        for logits, token in rows_of(model, chunks, threads):
            losses.append(logits.max() + log_sum_exp(logits) - logits[token])
            if file:
                file.write(packed(logits))
    mean, error = mean_and_error(np.array(losses, np.float64))
    value = math.exp(mean)
    print(f"Final estimate: PPL = {value:.6f} +/- {value * error:.6f}", file=sys.stderr)


def divergence(model: Model, kept: Path, threads: int) -> None:
    """Print how far the model is from the one whose logits are `kept`."""
    head = KeptLogits.read(kept)
    if head.vocabulary != model.vocabulary:
        sys.exit(f"the vocabulary has {model.vocabulary} tokens, that of {kept} {head.vocabulary}")
    compared = []
    with kept.open("rb") as file:
        file.seek(KeptLogits.HEAD.size)
        chunks = np.fromfile(file, np.int32, head.chunks * head.context)
        chunks = chunks.reshape(head.chunks, head.context)
        for logits, token in rows_of(model, chunks, threads):
            compared.append(compare(logits, base_row(file, head.vocabulary), token))
    print_statistics(np.array(compared, np.float64).T)


def base_row(file: BinaryIO, vocabulary: int) -> np.ndarray:
    """Read the next row of kept log-probabilities."""
    row = np.fromfile(file, np.uint16, 4 + vocabulary + vocabulary % 2)
    return unpacked(row, vocabulary)


def compare(logits: np.ndarray, base: np.ndarray, token: int) -> tuple[float, float, float, bool]:
    """Return both losses on `token`, the KL divergence from `base`, and if the top one is the same.

    `base` holds log-probabilities.
    """
    ours = logits - (logits.max() + log_sum_exp(logits))
    likely = base > LEAST_LOG
    divergence = np.exp(base[likely]) @ (base[likely] - ours[likely]).astype(np.float64)
    return -ours[token], -base[token], divergence, ours.argmax() == base.argmax()


def print_statistics(compared: np.ndarray) -> None:
    """Print of llama-perplexity's statistics what retune reads; `compared`: see `compare`."""
    losses, base_losses, divergences, same = compared
    mean, error = mean_and_error(divergences)
    median, high = np.percentile(divergences, (50, 99))
    value, ratio = math.exp(losses.mean()), math.exp(losses.mean() - base_losses.mean())
    print(f"Mean PPL(Q) : {value:.6f}")
    print(f"Mean PPL(Q)/PPL(base) : {ratio:.6f}")
    print(f"Mean KLD: {mean:.6f} ± {error:.6f}")
    print(f"Maximum KLD: {divergences.max():.6f}")
    print(f"99.0% KLD: {high:.6f}")
    print(f"Median KLD: {median:.6f}")
    print(f"Same top p: {100 * same.mean():.3f}")


def main() -> None:
    """Read the arguments that retune gives to llama-perplexity, and do what they say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", type=Path, required=True)
    parser.add_argument("-c", type=int, required=True)
    parser.add_argument("-t", type=int, required=True)
    parser.add_argument("--no-escape", action="store_true", required=True)
    parser.add_argument("-f", type=Path)
    parser.add_argument("--kl-divergence-base", type=Path)
    parser.add_argument("--kl-divergence", action="store_true")
    parser.add_argument("--check-tensors", action="store_true")
    arguments = parser.parse_args()
    model = Model(arguments.m, check_tensors=arguments.check_tensors)
    base = arguments.kl_divergence_base
    if arguments.kl_divergence:
        divergence(model, base, arguments.t)
        return
    try:
        perplexity(model, arguments.f, arguments.c, arguments.t, base)
    except Refused as error:
        print(error, file=sys.stderr)  # and the status is 0, as llama-perplexity's


if __name__ == "__main__":
    main()
