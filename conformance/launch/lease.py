"""Leases on cores: two timed cases on one core never run at the same time on this machine."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conformance.errors import HarnessFault
from conformance.hardware.host import cpu_list

_POLL_S = 0.05


class Leases:
    """Locks in a directory, one file for each core, shared by all processes of a user.

    The kernel releases a lock when its holder dies, however it dies. No file is ever removed:
    two processes would lock two files of one name.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = default_directory() if directory is None else directory

    @contextmanager
    def hold(
        self,
        alternatives: Sequence[frozenset[int]],
        on_wait: Callable[[str], None] | None = None,
        case: str = "",
    ) -> Iterator[int]:
        """Hold every core of one alternative, and give that alternative's index.

        The first that is free is taken. While none is, ``on_wait`` is told once who holds the
        cores. Raises HarnessFault when the directory cannot be used.
        """
        self._require_directory()
        index, locks = self._wait(alternatives, on_wait, f"pid {os.getpid()} {case}".rstrip())
        try:
            yield index
        finally:
            _release(locks)

    def _wait(
        self, alternatives: Sequence[frozenset[int]], on_wait: Callable[[str], None] | None, holder: str
    ) -> tuple[int, list[int]]:
        while True:
            for index, cores in enumerate(alternatives):
                locks = self._take(cores, holder)
                if locks is not None:
                    return index, locks
            if on_wait is not None:
                on_wait(self._waited_for(alternatives))
                on_wait = None
            time.sleep(_POLL_S)

    def _take(self, cores: frozenset[int], holder: str) -> list[int] | None:
        """Lock all cores in ascending order, or none of them and give None.

        Files are opened close-on-exec, as Python does, so that no child keeps a lock.
        """
        locks: list[int] = []
        try:
            for core in sorted(cores):
                locks.append(os.open(self._path(core), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(locks[-1], 0)
                os.pwrite(locks[-1], holder.encode(), 0)
        except BlockingIOError:
            _release(locks)
            return None
        except OSError as error:
            _release(locks)
            raise _unusable(self.directory, error.strerror) from None
        return locks

    def _path(self, core: int) -> Path:
        return self.directory / f"cpu-{core}.lock"

    def _waited_for(self, alternatives: Sequence[frozenset[int]]) -> str:
        cores = sorted(frozenset().union(*alternatives))
        holders = {self._path(core).read_text(encoding="utf-8") for core in cores if self._path(core).exists()}
        known = ", ".join(sorted(holders - {""})) or "another process"
        return f"Waiting for cores {cpu_list(cores)}, held by {known}."

    def _require_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.lstat()
        except OSError as error:
            raise _unusable(self.directory, error.strerror) from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise _unusable(self.directory, f"it is not a directory of user {os.getuid()}")


def default_directory() -> Path:
    """Return one place for all sessions of a user, whether or not they come from a login."""
    return Path(tempfile.gettempdir()) / f"tf-conformance-leases-{os.getuid()}"


def _release(locks: Sequence[int]) -> None:
    for lock in locks:
        os.close(lock)


def _unusable(path: Path, why: str | None) -> HarnessFault:
    return HarnessFault(f"Leases on cores cannot be kept in {str(path)!r}: {why}.", "Remove it, or set TMPDIR.")
