"""What asks a training to end before its time: a signal to any of its ranks, or what its log cannot write."""

import signal
from typing import Any, Callable

from conformance.subject.ranks import Ranks


class Interrupted(Exception):
    """What asked the run to end, in words: a signal, or a fault of the log."""


class Interruption:
    """Takes SIGINT, SIGTERM and the fault of a log for the end, on all ranks, after the step that is being done."""

    def __init__(self, ranks: Ranks, fault: Callable[[], str]) -> None:
        self._ranks, self._name, self._fault = ranks, "", fault

    def check(self) -> None:
        if self._ranks.agreed:
            raise Interrupted(next(filter(None, self._ranks.gather(self._name or self._fault()))))

    def __enter__(self) -> "Interruption":
        def note(number: int, frame: Any) -> None:
            self._name, self._ranks.asked = signal.Signals(number).name, True

        self._before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
