"""What a conversion has finished: ``.conversion.jsonl`` in its directory, until dataset.json takes its place."""

import fcntl
import json
import os
from typing import Any, Dict, List

from conformance.data import manifest, storage
from conformance.wire import Refused

NAME = ".conversion.jsonl"


class Journal:
    """The plan of a conversion as the first line, then a line for each finished shard; held by one process at a time.

    Raises Refused for a directory that holds something else, or the conversion of another plan.
    """

    def __init__(self, directory: str, plan: Dict[str, Any]) -> None:
        self.directory, self.path = directory, os.path.join(directory, NAME)
        self.checksums: Dict[str, str] = {}  # MD5 by archive, once they were checked
        self.shards: Dict[str, Dict[str, Any]] = {}  # finished, by name
        storage.make_folder(directory)
        if not os.path.exists(self.path):
            storage.require_empty(directory)
        with storage.writing(self.path):
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock()
            self._read(plan)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: Any) -> None:
        os.close(self._fd)

    def add(self, line: Dict[str, Any]) -> None:
        """Append a line that outlives a kill."""
        with storage.writing(self.path):
            os.write(self._fd, json.dumps(line, sort_keys=True).encode() + b"\n")
            os.fsync(self._fd)

    def remove(self) -> None:
        os.unlink(self.path)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"Another process is writing to {self.directory!r}."
            raise Refused(message, "Wait for it, or name another directory.") from None

    def _read(self, plan: Dict[str, Any]) -> None:
        with open(self.path, "rb") as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        with storage.writing(self.path):
            os.truncate(self._fd, len(whole))  # a line that a kill cut short
        try:
            lines: List[Dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            message = f"{self.path!r} is damaged."
            raise Refused(message, f"Delete {self.directory!r} and convert again.") from None
        if not any("shard" in line for line in lines) and lines[:1] != [{"plan": plan}]:  # nothing is lost
            with storage.writing(self.path):
                os.truncate(self._fd, 0)
            self.add({"plan": plan})
            return
        refuse_other(self.directory, lines[0]["plan"], plan)
        for line in lines[1:]:
            self.checksums = line.get("md5", self.checksums)
            if "shard" in line and self._is_whole(line["shard"]):
                self.shards[line["shard"]["name"]] = line

    def _is_whole(self, shard: Dict[str, Any]) -> bool:
        try:
            manifest.check_shard(self.directory, shard)
        except Refused:
            return False
        return True


def refuse_other(directory: str, found: Dict[str, Any], wanted: Dict[str, Any]) -> None:
    """Raise Refused with the first fact in which what lies in a directory differs from what is wanted."""
    for key, value in wanted.items():
        if found.get(key) != value:
            message = f"{directory!r} holds the conversion of something else: its {key} is {found.get(key)!r}"
            raise Refused(f"{message}, not {value!r}.", "Give the same options, delete it, or name another directory.")
