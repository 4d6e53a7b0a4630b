"""What is wrong with the ends of lines and files: `python -m infra.text_files FILE…`.

Names what is wrong and changes nothing. Ends with status 1 if there is anything.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

CONFLICT = re.compile(rb"^(<{7} |={7}$|>{7} )", re.MULTILINE)
BLANKS = re.compile(rb"[ \t]+$", re.MULTILINE)


def main(names: list[str]) -> int:
    faults = [f"{name}: {fault}" for name in names for fault in faults_of(Path(name).read_bytes())]
    print("\n".join(faults), end="\n" if faults else "")
    return int(bool(faults))


def faults_of(content: bytes) -> Iterator[str]:
    """Yield what is wrong with a text file, in words."""
    if b"\r" in content:
        yield "has line breaks of Windows"
    if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
        yield "does not end with exactly one line break"
    for pattern, words in ((BLANKS, "ends with blanks"), (CONFLICT, "is a conflict marker")):
        if match := pattern.search(content):
            yield f"line {content[: match.start()].count(10) + 1} {words}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
