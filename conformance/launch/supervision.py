"""Subjects side by side: started, heard, held to their limits, and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from conformance import wire
from conformance.errors import HarnessFault, SubjectFailed
from conformance.launch import groups
from conformance.records import Launched

Event = dict[str, Any]
OnEvent = Callable[[int, Event], None]

_LOG_TAIL_LINES = 20
_HINTS: dict[int, str] = {
    signal.SIGKILL: "Try a smaller batch or a machine with more memory; dmesg names what the kernel killed.",
    signal.SIGILL: "This stack was built for another CPU; use a build for this one.",
}


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One subject to start; the file ``go_path`` is made when all subjects said that they are ready."""

    launched: Launched
    events_path: Path
    log_path: Path
    cwd: Path
    go_path: Path | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a subject may take, may send no event, and may take to end when told; in seconds."""

    time_limit_s: float
    silence_limit_s: float = 60.0
    grace_s: float = 2.0
    poll_s: float = 0.03


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one subject ended: exactly one of ``result`` and ``failure`` is given.

    ``result`` holds the fields of the result event. ``exit_status`` is negative for a signal.
    ``events`` are all that were heard, also of a subject that failed.
    """

    result: Event | None
    failure: SubjectFailed | None
    events: tuple[Event, ...]
    duration_s: float
    exit_status: int
    log_tail: tuple[str, ...]

    @property
    def started(self) -> Event | None:
        """The event in which the subject told its versions and threads."""
        return next((event for event in self.events if event["event"] == wire.STARTED), None)


def run_subjects(starts: Sequence[Start], limits: Limits, on_event: OnEvent) -> tuple[Outcome, ...]:
    """Run subjects side by side until all ended; when one fails, the others are ended at once.

    ``on_event`` hears every event with the index of its subject. Whatever is raised, also by
    it, nothing of the process groups is left. Raises UsageError for a program that is not
    here and HarnessFault for a file that cannot be written.
    """
    for start in starts:
        groups.require_programs(start.launched, os.environ)
    subjects: list[_Subject] = []
    try:
        for index, start in enumerate(starts):
            subjects.append(_begin(index, start))
        _watch(subjects, limits, on_event)
        groups.end([subject.process for subject in subjects], limits.grace_s)
        for subject in subjects:
            subject.hear(on_event)  # what came between the last look and the end
    finally:
        groups.end([subject.process for subject in subjects], limits.grace_s)
        for subject in subjects:
            subject.stream.close()
    return tuple(subject.outcome() for subject in subjects)


@dataclass
class _Subject:
    """A running subject, what was heard of it, and how it ended."""

    index: int
    start: Start
    process: subprocess.Popen[bytes]
    stream: FileIO
    log_offset: int
    began_s: float
    heard_s: float
    ended_s: float | None = None
    pending: bytes = b""
    garbage: str | None = None
    events: list[Event] = field(default_factory=list)
    failure: SubjectFailed | None = None

    def hear(self, on_event: OnEvent) -> None:
        """Pass on the events that came since, up to the first line that is none."""
        self.pending += self.stream.read()
        *lines, self.pending = self.pending.split(b"\n")
        for line in lines:
            if self.garbage is not None:
                return
            try:
                events = wire.parse_events(line or b" ")  # an empty line is no event either
            except ValueError as error:
                self.garbage = str(error)
                return
            self.heard_s = time.monotonic()
            self.events += events
            for event in events:
                on_event(self.index, event)

    def look(self, limits: Limits, on_event: OnEvent) -> None:
        """Hear what is new, and find out whether the subject ended or has to be ended."""
        status = groups.peek(self.process)  # before hearing, so that its last words are heard
        self.hear(on_event)
        if status is not None and self.ended_s is None:
            self.ended_s = time.monotonic()
        if self.failure is None:
            self.failure = self._garbled() or (self._overdue(limits) if status is None else self._ended_badly(status))

    def last(self, kind: str) -> Event | None:
        return next((event for event in reversed(self.events) if event["event"] == kind), None)

    @property
    def is_ready(self) -> bool:
        return any(event["event"] == wire.PHASE and event.get("name") == "ready" for event in self.events)

    def outcome(self) -> Outcome:
        result = self.last(wire.RESULT) if self.failure is None else None
        header = ("event", "pid", "monotonic_s")
        return Outcome(
            result=None if result is None else {k: v for k, v in result.items() if k not in header},
            failure=self.failure,
            events=tuple(self.events),
            duration_s=(self.ended_s or time.monotonic()) - self.began_s,
            exit_status=self.process.wait(),
            log_tail=self._log_tail(),
        )

    def _garbled(self) -> SubjectFailed | None:
        if self.garbage is None:
            return None
        hint = f"Only the subject writes events; see who else writes to {self.start.events_path}."
        return SubjectFailed(f"The event stream is broken: {self.garbage}.", hint)

    def _overdue(self, limits: Limits) -> SubjectFailed | None:
        """Return the failure of a subject that still runs, None while it may."""
        now = time.monotonic()
        failed = self.last(wire.FAILED)
        if failed and now - self.heard_s > limits.grace_s:
            return self._own_failure(failed)
        if now - self.began_s > limits.time_limit_s:
            limit = f"{limits.time_limit_s:g} s, its time limit"
            return SubjectFailed(
                f"The subject was not done after {limit}; {self._last_words()}.",
                "Raise time_limit_s of the case, or ask for fewer steps.",
            )
        if now - self.heard_s > limits.silence_limit_s:
            return SubjectFailed(
                f"The subject hung: no event for {limits.silence_limit_s:g} s; {self._last_words()}.",
                self._log_hint(),
            )
        return None

    def _ended_badly(self, status: int) -> SubjectFailed | None:
        """Return the failure of a subject that ended by itself, None for one that succeeded."""
        failed, result = self.last(wire.FAILED), self.last(wire.RESULT)
        if failed:
            return self._own_failure(failed)
        if status == 0 and result:
            return None
        if status < 0:
            when = " after its result" if result else ""
            hint = _HINTS.get(-status, self._log_hint())
            return SubjectFailed(f"The subject was killed by {_signal_words(-status, when)}.", hint)
        when = "after its result" if result else "without a result"
        tail = self._log_tail()
        said = f"; its log ends with {tail[-1]!r}" if tail else ""
        return SubjectFailed(f"The subject exited with status {status} {when}{said}.", self._log_hint())

    def _own_failure(self, event: Event) -> SubjectFailed:
        message = str(event.get("message") or "The subject failed and did not say why.")
        return SubjectFailed(message, str(event.get("hint") or self._log_hint()))

    def _last_words(self) -> str:
        if not self.events:
            return "nothing was ever heard of it"
        event = self.events[-1]
        name = f" {event['name']!r}" if "name" in event else ""
        return f"its last event was {event['event']}{name}"

    def _log_hint(self) -> str:
        return f"Read its log, {self.start.log_path}."

    def _log_tail(self) -> tuple[str, ...]:
        with open(self.start.log_path, "rb") as log:
            log.seek(max(self.log_offset, log.seek(0, os.SEEK_END) - 64 * 1024))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return tuple(line for line in lines if line.strip())[-_LOG_TAIL_LINES:]


def _begin(index: int, start: Start) -> _Subject:
    """Start one subject with an empty event stream and no go file of an earlier try."""
    try:
        if start.go_path is not None:
            start.go_path.unlink(missing_ok=True)
        log_offset = start.log_path.stat().st_size if start.log_path.exists() else 0
        stream = FileIO(start.events_path, "w+")
    except OSError as error:
        raise HarnessFault(f"The event stream cannot be made: {error}.", "Choose a directory to write to.") from None
    try:
        now = time.monotonic()
        process = groups.spawn(start.launched, start.cwd, start.log_path)
    except BaseException:
        stream.close()
        raise
    return _Subject(index, start, process, stream, log_offset, began_s=now, heard_s=now)


def _watch(subjects: Sequence[_Subject], limits: Limits, on_event: OnEvent) -> None:
    """Look at the subjects until all ended or one failed, and open the barrier between."""
    closed = True
    while any(subject.ended_s is None for subject in subjects):
        for subject in subjects:
            if subject.ended_s is None:
                subject.look(limits, on_event)
        failed = next((subject for subject in subjects if subject.failure is not None), None)
        if failed is not None:
            _blame(failed, subjects)
            return
        if closed and all(subject.is_ready for subject in subjects):
            closed = False
            for path in _go_paths(subjects):
                path.touch()
        time.sleep(limits.poll_s)


def _blame(failed: _Subject, subjects: Sequence[_Subject]) -> None:
    """Give the subjects that have not ended yet the failure of the one that ends them."""
    assert failed.failure is not None
    why = f"The subject was ended because subject {failed.index} failed: {failed.failure.message}"
    for subject in subjects:
        if subject.ended_s is None and subject.failure is None:
            subject.failure = SubjectFailed(why, failed.failure.hint)


def _go_paths(subjects: Sequence[_Subject]) -> Iterator[Path]:
    return (subject.start.go_path for subject in subjects if subject.start.go_path is not None)


def _signal_words(number: int, when: str) -> str:
    known = number in set(signal.Signals)
    name = f"{signal.Signals(number).name} (signal {number})" if known else f"signal {number}"
    memory = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
    return f"{name}{when}{memory}"
