"""What can go wrong, each with a hint.

A ``ConformanceError`` is somebody's mistake or a fact of the machine, never a
bug: it is shown as one sentence and a next step, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConformanceError(Exception):
    """One sentence with the value and what is allowed, and the next step in ``hint``."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}"

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(ConformanceError):
    """An option, a file or a name that the user gave is wrong (exit 4)."""


class HardwareMismatch(ConformanceError):
    """This machine is not the one that ``--hw`` asserts (exit 4)."""


class HarnessFault(ConformanceError):
    """The harness cannot go on: a full disk, a directory that cannot be written (exit 3)."""


class CannotRun(ConformanceError):
    """A case that cannot run here, for a reason that is no fault: verdict ``not run``."""


class SubjectFailed(ConformanceError):
    """The child process crashed, hung, was killed or said that it failed."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not among the known ones, with the nearest of them.

    >>> unknown_name("profile", "xeon-8", ["xeon-8s", "generic-cpu"])
    "Unknown profile 'xeon-8' (did you mean 'xeon-8s'?); known: generic-cpu, xeon-8s."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"Unknown {what} {name!r}{meant}; known: {', '.join(names) or 'none'}."
