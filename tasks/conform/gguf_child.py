"""A child process of conform: the GGUF of a tiny model, and how its tokenizer reads what is compared.

One process for both: to read a vocabulary of 150,000 tokens takes a core more than a second.
"""

import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from retune.child import main
from retune.llamacpp import converter
from retune.llamacpp.conversion import ConversionJob
from tasks.conform.readings import TokenReading, reading


def convert(job: ConversionJob) -> dict[str, Any]:
    """Return what the converter does, with the `reading`, or the `failure` to make one."""
    readings: list[Future[TokenReading]] = []
    # Half of a reading is the tokenizer's own work, during which Python is free to convert.
    with ThreadPoolExecutor(1) as pool:
        result = converter.convert(
            job, lambda tokenizer: readings.append(pool.submit(reading, tokenizer))
        )
    try:
        return result | {"reading": readings[0].result().model_dump()}
    except Exception:  # not the converter's, which would be the base's fault
        return result | {"failure": traceback.format_exc()}


if __name__ == "__main__":
    main(ConversionJob, convert)
