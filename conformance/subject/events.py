"""What a subject says while it works: one JSON line an event, appended to the job's file."""

import os
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Optional

from conformance import wire

HEARTBEAT_S = 2.0
PROGRESS_S = 1.0
# Where a launcher of ranks tells each its own; the one that started it is inside of the others, so that it comes first.
RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "SLURM_PROCID")


def events_path(path: str, environment: Mapping[str, str]) -> str:
    """Return where a rank writes its events: the job's file for the first, beside it for the others."""
    rank = next((environment[name] for name in RANKS if name in environment), "0")
    return path if rank == "0" else "%s.rank%s" % (path, rank)


class Events:
    """An append-only stream of events; each is one write, so that ranks may share a file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._shown = 0.0
        self._ended: Optional[str] = None

    def send(self, kind: str, **fields: Any) -> None:
        os.write(self._fd, wire.event_line(kind, fields))

    def phase(self, name: str) -> None:
        self.send(wire.PHASE, name=name)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Tell how far it is, at most once a second, and once more at the end; ``total`` is 0 where it is unknown."""
        now = time.monotonic()
        ended = unit if done == total else None
        if now - self._shown >= PROGRESS_S or ended not in (None, self._ended):
            self._shown, self._ended = now, ended
            self.send(wire.PROGRESS, done=done, total=total, unit=unit, note=note)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Send a heartbeat from a thread of its own for as long as the block runs."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                self.send(wire.ALIVE)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
