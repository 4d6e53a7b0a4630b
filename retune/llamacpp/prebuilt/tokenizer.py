"""Stand-in for `retune-tokenize` (see `infra/llamacpp/tokenize.cpp`), run as a script."""

import sys
from pathlib import Path

from retune.llamacpp.prebuilt.library import Model


def main() -> None:
    """Print the token ids of each text on stdin, a line per text."""
    gguf, add_special, parse_special = sys.argv[1:]
    model = Model(Path(gguf), vocab_only=True)
    while length := sys.stdin.buffer.readline():
        ids = model.tokenize(
            sys.stdin.buffer.read(int(length)),
            add_special=add_special == "1",
            parse_special=parse_special == "1",
        )
        print(*ids)


if __name__ == "__main__":
    main()
