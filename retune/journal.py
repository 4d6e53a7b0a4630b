"""Results kept as they come, in a file of JSON lines: an attempt goes on where the last was killed."""

import json
import threading
from pathlib import Path
from typing import Any


class Journal:
    """Results by key in a file, `known` those so far. All else that determines a result determines the
    folder of the file. Several threads may add."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                entry = json.loads(line)
                self.known[str(entry["key"])] = entry["value"]
            except (ValueError, LookupError, TypeError):  # cut when the process was killed
                continue

    def add(self, *entries: tuple[str, Any]) -> None:
        """Keep results with their keys, each in a line. A new line comes first: the last one may have
        been cut."""
        lines = [json.dumps({"key": key, "value": value}) for key, value in entries]
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")
            self.known |= dict(entries)
