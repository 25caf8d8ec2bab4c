"""Subjects side by side: started, heard, held to their limits, and always ended."""

from __future__ import annotations

import os
import re
import signal
import socket
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
_LOG_END_BYTES = 64 * 1024

# How mpirun and horovodrun tell which rank was the first to end badly.
_FIRST_ENDED = (
    re.compile(r"process rank (?P<rank>\d+) with PID \d+ on node \S+ exited on signal (?P<signal>\d+)"),
    re.compile(r"Process name: (?:\[\[\d+,\d+\],)?(?P<rank>\d+)\]?\s+Exit code:\s+(?P<status>\d+)"),
)
# How mpirun, which ends by itself then, tells of a machine that went silent, and both launchers of one out of reach.
_WENT_SILENT = re.compile(r"lost communication with a remote daemon\.\s+HNP daemon.*\s+Remote daemon.* on node (\S+)")
_NOT_REACHED = (
    re.compile(r"^ssh not successful for host (?P<host>\S+):\n(?P<why>.*)", re.MULTILINE),
    re.compile(r"(?:(?P<why>.*)\n)?-+\nORTE was unable to reliably start one or more daemons"),
)
# How Horovod tells, every HOROVOD_STALL_CHECK_TIME_SECONDS, whom the others wait for.
_MISSING = re.compile(r"Missing ranks:((?:\s+\d+: \[.*)+)")
_TAG = re.compile(r"\[[\d,]+\]<std(?:err|out)>:")  # of a launcher, on each line or each piece of one
_ASK_SLURM_S = 2.0
# What libraries print before they abort a process, where memory runs out among others.
_ABORTING = re.compile(r"(?:what\(\): |\b[A-Z]+ ERROR: |Check failed: ).*\S")
_STEPS = 10  # as long as so many of the longest steps may one take that is held up by something else on the machine
_REGROUPING_S = 60.0  # until the ranks that are left of an elastic launch are together again
_HUNG_GRACE_S = 2.0  # a rank that waits for one that hangs cannot write a checkpoint
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
    """How long a subject may take, may send no event, and may take to end when told; in seconds.

    ``standstill_limit_s`` is for ranks that told how far they are in a phase, steps of training for example: if none of
    them comes further for so long, nor for ten of the longest steps so far, one hangs or their network is gone. It
    does not hold before the first step of a phase, which traces and may take minutes.
    """

    time_limit_s: float
    silence_limit_s: float = 60.0
    standstill_limit_s: float = 45.0
    grace_s: float = 2.0
    poll_s: float = 0.03


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one subject ended: exactly one of ``result`` and ``failure`` is given.

    ``result`` holds the fields of the result event. ``exit_status`` is negative for a signal.
    ``events`` are all that were heard, also of a subject that failed; of several ranks, each event names its own.
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
        return next((event for event in self.events if event["event"] == wire.STARTED and _is_first(event)), None)


def run_subjects(starts: Sequence[Start], limits: Limits, on_event: OnEvent) -> tuple[Outcome, ...]:
    """Run subjects side by side until all ended; when one fails, the others are ended at once.

    ``on_event`` hears every event of a subject, or of its first rank, with the subject's index. Whatever
    is raised, also by it, nothing of the process groups is left, nor of the ranks on this machine. Raises
    UsageError for a program that is not here and HarnessFault for a file that cannot be written.
    """
    for start in starts:
        groups.require_programs(start.launched, os.environ)
    subjects: list[_Subject] = []
    try:
        for index, start in enumerate(starts):
            subjects.append(_begin(index, start))
        _watch(subjects, limits, on_event)
        _end(subjects, limits)
        for subject in subjects:
            subject.hear(on_event)  # what came between the last look and the end
    finally:
        _end(subjects, limits)
        for subject in subjects:
            subject.close()
    return tuple(subject.outcome() for subject in subjects)


@dataclass
class _Stream:
    """The events of a subject, or of one of its ranks."""

    path: Path
    file: FileIO
    heard_s: float
    pending: bytes = b""
    garbage: str | None = None
    ended: bool = False
    further_s: float | None = None  # when it last told how far it is in its phase
    longest_s: float = 0.0  # between two such

    def read(self) -> Iterator[Event]:
        """Yield the events that came since, up to the first line that is none."""
        self.pending += self.file.read()
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
            for event in events:
                self.ended |= event["event"] in (wire.RESULT, wire.FAILED)
                self._note(event["event"])
                yield event

    def _note(self, kind: str) -> None:
        if kind == wire.PHASE:
            self.further_s = None
        elif kind == wire.PROGRESS:
            self.longest_s = max(self.longest_s, self.heard_s - (self.further_s or self.heard_s))
            self.further_s = self.heard_s


@dataclass
class _Subject:
    """A running subject, what was heard of it, and how it ended."""

    index: int
    start: Start
    process: subprocess.Popen[bytes]
    streams: tuple[_Stream, ...]
    log_offset: int
    began_s: float
    guard: subprocess.Popen[bytes] | None = None
    ended_s: float | None = None
    events: list[Event] = field(default_factory=list)
    failure: SubjectFailed | None = None
    hung: bool = False
    left: tuple[int, ...] = ()  # the ranks that went on without others, the first one first; empty while all are there
    asked_s: float = 0.0
    slurm_state: str | None = None

    def hear(self, on_event: OnEvent) -> None:
        """Take in the events that came since, of each rank, and pass on those of the first."""
        for rank, stream in enumerate(self.streams):
            for event in stream.read():
                if len(self.streams) > 1:
                    event["rank"] = rank
                self.events.append(event)
                if event["event"] == wire.LEFT:
                    self._go_on_with(event["ranks"])
                if rank == self._first:
                    on_event(self.index, event)

    @property
    def _is_elastic(self) -> bool:
        return "--min-np" in self.start.launched.argv

    @property
    def _first(self) -> int:
        return self.left[0] if self.left else 0

    def _go_on_with(self, left: Sequence[int]) -> None:
        self.left = tuple(left)
        for rank, stream in enumerate(self.streams):
            stream.ended |= rank not in left

    def close(self) -> None:
        for stream in self.streams:
            stream.file.close()
        if self.guard is not None:
            groups.stop(self.guard)

    def look(self, limits: Limits, on_event: OnEvent) -> None:
        """Hear what is new, and find out whether the subject ended or has to be ended."""
        status = self._status()  # before hearing, so that its last words are heard
        self.hear(on_event)
        if status is not None and self.ended_s is None:
            self.ended_s = time.monotonic()
        if self.failure is None:
            self.failure = self._garbled() or (self._overdue(limits) if status is None else self._ended_badly(status))

    def _status(self) -> int | None:
        """Return the exit status of a subject, None while it runs; that of the job where Slurm runs it.

        No limit counts the time that a job waits in the queue.
        """
        status, now = groups.peek(self.process), time.monotonic()
        if self.start.launched.argv[0] != "sbatch":
            return status
        if now - self.asked_s < _ASK_SLURM_S:
            return None
        self.asked_s = now
        state, exit_status = groups.slurm_job(self.start.launched)
        if state in groups.SLURM_ENDED:
            self.slurm_state = state
            return exit_status
        if state in groups.SLURM_WAITS:
            self.began_s = now
            for stream in self.streams:
                stream.heard_s = now
        return None if state else status  # sbatch ends with 0 while a job that was cancelled is being cleared up

    def last(self, kind: str) -> Event | None:
        of_first = (event for event in reversed(self.events) if event.get("rank", 0) == self._first)
        return next((event for event in of_first if event["event"] == kind), None)

    @property
    def failed(self) -> Event | None:
        """The failed event that the others follow from: the first that is no consequence, by the clock of the host.

        That of a rank which the others do without is none.
        """
        there = self.left or range(len(self.streams))
        found = [event for event in self.events if event["event"] == wire.FAILED and event.get("rank", 0) in there]
        own = [event for event in found if not event.get("consequence")]
        return min(own or found, key=lambda event: float(event["monotonic_s"]), default=None)

    @property
    def is_ready(self) -> bool:
        return any(event["event"] == wire.PHASE and event.get("name") == "ready" for event in self.events)

    def outcome(self) -> Outcome:
        result = self.last(wire.RESULT) if self.failure is None else None
        header = ("event", "pid", "monotonic_s", "rank")
        return Outcome(
            result=None if result is None else {k: v for k, v in result.items() if k not in header},
            failure=self.failure,
            events=tuple(self.events),
            duration_s=(self.ended_s or time.monotonic()) - self.began_s,
            exit_status=self.process.wait(),
            log_tail=self._log_tail(),
        )

    def _garbled(self) -> SubjectFailed | None:
        broken = next((stream for stream in self.streams if stream.garbage is not None), None)
        if broken is None:
            return None
        hint = f"Only the subject writes events; see who else writes to {broken.path}."
        return SubjectFailed(f"The event stream is broken: {broken.garbage}.", hint)

    def _overdue(self, limits: Limits) -> SubjectFailed | None:
        """Return the failure of a subject that still runs, None while it may."""
        now = time.monotonic()
        failed = self.failed
        grace_s = max(limits.grace_s, _REGROUPING_S) if self._is_elastic else limits.grace_s
        if failed and now - self.streams[failed.get("rank", 0)].heard_s > grace_s:
            return self._own_failure(failed)
        if now - self.began_s > limits.time_limit_s:
            limit = f"{limits.time_limit_s:g} s, its time limit"
            return SubjectFailed(
                f"The subject was not done after {limit}; {self._last_words()}.",
                "Raise time_limit_s of the case, or ask for fewer steps.",
            )
        found = self._mute(limits.silence_limit_s, now) or self._standing_still(limits, now)
        self.hung = found is not None
        return self._own_failure(failed) if found and failed else found

    def _mute(self, limit_s: float, now: float) -> SubjectFailed | None:
        """Return the failure of a subject, or of a rank, that sent no event for so long."""
        for rank, stream in enumerate(self.streams):
            if not stream.ended and now - stream.heard_s > limit_s:
                if self.start.launched.hosts and not self.events:
                    return self._out_of_reach(None, f"nothing was heard of any for {limit_s:g} s")
                words = f"no event for {max(limit_s, int(now - stream.heard_s)):g} s; {self._last_words(rank)}"
                return SubjectFailed(f"{self._name(rank)} hung: {words}.", self._log_hint())
        return None

    def _standing_still(self, limits: Limits, now: float) -> SubjectFailed | None:
        """Return the failure of ranks that came further in a phase, and of which none does any more."""
        further = [stream.further_s for stream in self.streams if not stream.ended]
        known = [at_s for at_s in further if at_s is not None]
        limit_s = max(limits.standstill_limit_s, _STEPS * max(stream.longest_s for stream in self.streams))
        if len(self.streams) == 1 or not known or len(known) < len(further) or now - max(known) <= limit_s:
            return None
        mute = self._mute(limit_s / 2, now)
        if mute is not None:
            return mute
        told = _MISSING.findall(_TAG.sub("", "\n".join(self._log_end())))
        ranks = [int(rank) for rank in re.findall(r"(\d+): \[", told[-1])] if told else []
        phase = next(event["name"] for event in reversed(self.events) if event["event"] == wire.PHASE)
        still = f"for {now - max(known):.0f} s in the phase {phase!r}"
        if not ranks:
            return SubjectFailed(f"The {len(self.streams)} ranks hung: none came further {still}.", self._log_hint())
        names = ", ".join(self._name(self.left[rank] if self.left else rank) for rank in ranks)
        return SubjectFailed(f"{names} hung: the others waited for it {still}.", self._log_hint())

    def _ended_badly(self, status: int) -> SubjectFailed | None:
        """Return the failure of a subject that ended by itself, None for one that succeeded."""
        if self.slurm_state not in (None, "COMPLETED", "FAILED"):
            return SubjectFailed(f"Slurm ended the job: {self.slurm_state}.", self._log_hint())
        lost = (self._lost_machine() or self._first_to_end()) if status and self.start.launched.ranks else None
        if lost is not None:
            return lost
        failed, result = self.failed, self.last(wire.RESULT)
        if failed:
            return self._own_failure(failed)
        if status == 0 and result:
            return None
        if status < 0:
            return self._killed("The subject", -status, " after its result" if result else "")
        when = "after its result" if result else "without a result"
        tail = self._log_tail()
        said = f"; its log ends with {tail[-1]!r}" if tail else ""
        return SubjectFailed(f"The subject exited with status {status} {when}{said}.", self._log_hint())

    def _killed(self, who: str, number: int, when: str) -> SubjectFailed:
        hint = _HINTS.get(number, self._log_hint())
        said = _ABORTING.findall("\n".join(self._log_end())) if number == signal.SIGABRT else []
        why = f"; its log says {said[-1]!r}" if said else ""
        return SubjectFailed(f"{who} was killed by {_signal_words(number, when)}{why}.", hint)

    def _lost_machine(self) -> SubjectFailed | None:
        """Return the failure of a launch whose launcher says that it does not reach a machine, or no longer does."""
        log, hosts = "\n".join(self._log_end()), self.start.launched.hosts
        silent = _WENT_SILENT.search(log)
        if silent is not None:
            name = silent[1]
            there = [r for r, host in enumerate(hosts) if host == name or host.startswith(f"{name}.")]
            who = ", ".join(map(self._name, there)) or f"The machine {name}"
            told = f"{who} went silent: mpirun lost its connection to that machine."
            return SubjectFailed(told, "See whether that machine and the network between are up.")
        out_of_reach = next(filter(None, (pattern.search(log) for pattern in _NOT_REACHED)), None)
        if out_of_reach is None:
            return None
        return self._out_of_reach(out_of_reach.groupdict().get("host"), out_of_reach["why"])

    def _out_of_reach(self, name: str | None, why: str | None) -> SubjectFailed:
        others = dict.fromkeys(host for host in self.start.launched.hosts if host != socket.gethostname())
        where = name or " or ".join(others) or "another machine"
        told = f"{where}: {why.strip().rstrip('.')}" if why else where
        hint = "`ssh HOST true` has to work without a question; OMPI_MCA_plm_rsh_agent names mpirun another agent."
        return SubjectFailed(f"No rank could be started on {told}.", hint)

    def _first_to_end(self) -> SubjectFailed | None:
        """Return the failure of the rank that the launcher names, where that rank had no chance to tell it itself."""
        log = "\n".join(self._log_end())
        found = next(filter(None, (pattern.search(log) for pattern in _FIRST_ENDED)), None)
        if found is None:
            return None
        rank = int(found["rank"])
        told = [event["event"] for event in self.events if event.get("rank", 0) == rank]
        if wire.FAILED in told:
            return None
        named = found.groupdict()
        number = int(named.get("signal") or max(0, int(named.get("status") or 0) - 128))  # 128 + N: as shells tell N
        if number:
            return self._killed(self._name(rank), number, " after its result" if wire.RESULT in told else "")
        when = "after its result" if wire.RESULT in told else "without a result"
        return SubjectFailed(f"{self._name(rank)} exited with status {named['status']} {when}.", self._log_hint())

    def _own_failure(self, event: Event) -> SubjectFailed:
        message = str(event.get("message") or "The subject failed and did not say why.")
        hint = str(event.get("hint") or self._log_hint())
        if len(self.streams) == 1:
            return SubjectFailed(message, hint)
        silent = [self._name(rank) for rank, stream in enumerate(self.streams) if not stream.ended]
        if event.get("consequence") and silent:
            told = f"{', '.join(silent)} ended or hung without a word"
            return SubjectFailed(f"{told}, and the others could not go on: {message}", hint)
        if event.get("consequence"):
            where = " and ".join(dict.fromkeys(self.start.launched.hosts))
            told = f"The ranks{' on ' if where else ''}{where} lost each other: each ended because another did."
            return SubjectFailed(told, f"See whether the network between them is up, and read {self.start.log_path}.")
        return SubjectFailed(f"{self._name(event['rank'])}: {message}", hint)

    def _name(self, rank: int) -> str:
        if len(self.streams) == 1:
            return "The subject"
        hosts = self.start.launched.hosts
        return f"Rank {rank} of {len(self.streams)}" + (f" on {hosts[rank]}" if hosts else "")

    def _last_words(self, rank: int | None = None) -> str:
        events = [event for event in self.events if rank is None or event.get("rank", 0) == rank]
        if not events:
            return "nothing was ever heard of it"
        event = events[-1]
        name = f" {event['name']!r}" if "name" in event else ""
        return f"its last event was {event['event']}{name}"

    def _log_hint(self) -> str:
        return f"Read its log, {self.start.log_path}."

    def _log_tail(self) -> tuple[str, ...]:
        return tuple(line for line in self._log_end() if line.strip())[-_LOG_TAIL_LINES:]

    def _log_end(self) -> list[str]:
        with open(self.start.log_path, "rb") as log:
            log.seek(max(self.log_offset, log.seek(0, os.SEEK_END) - _LOG_END_BYTES))
            return log.read().decode("utf-8", "replace").splitlines()


def _begin(index: int, start: Start) -> _Subject:
    """Start one subject with empty event streams and no go file of an earlier try."""
    paths = [start.events_path]
    paths += [Path(f"{start.events_path}.rank{rank}") for rank in range(1, len(start.launched.ranks))]
    streams: list[_Stream] = []
    try:
        if start.go_path is not None:
            start.go_path.unlink(missing_ok=True)
        log_offset = start.log_path.stat().st_size if start.log_path.exists() else 0
        for path in paths:
            streams.append(_Stream(path, FileIO(path, "w+"), heard_s=time.monotonic()))
    except OSError as error:
        raise HarnessFault(f"The event stream cannot be made: {error}.", "Choose a directory to write to.") from None
    launch = start.launched.env.get(groups.LAUNCH_VARIABLE)
    guard = None
    try:
        guard = groups.guard(launch, start.launched.argv[0]) if launch else None
        now = time.monotonic()
        process = groups.spawn(start.launched, start.cwd, start.log_path)
    except BaseException:
        for stream in streams:
            stream.file.close()
        if guard is not None:
            groups.stop(guard)
        raise
    return _Subject(index, start, process, tuple(streams), log_offset, began_s=now, guard=guard)


def _end(subjects: Sequence[_Subject], limits: Limits) -> None:
    """End the process groups, then what launchers of ranks left beside them."""
    grace_s = min(limits.grace_s, _HUNG_GRACE_S) if any(subject.hung for subject in subjects) else limits.grace_s
    try:
        groups.end([subject.process for subject in subjects], grace_s)
    finally:
        for launched in (subject.start.launched for subject in subjects):
            launch = launched.env.get(groups.LAUNCH_VARIABLE)
            if launch:
                groups.cancel(launch, launched.argv[0])
                groups.sweep(launch)


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


def _is_first(event: Event) -> bool:
    """Whether an event is of a subject by itself, or of the first of its ranks."""
    return bool(event.get("rank", 0) == 0)


def _go_paths(subjects: Sequence[_Subject]) -> Iterator[Path]:
    return (subject.start.go_path for subject in subjects if subject.start.go_path is not None)


def _signal_words(number: int, when: str) -> str:
    known = number in set(signal.Signals)
    name = f"{signal.Signals(number).name} (signal {number})" if known else f"signal {number}"
    memory = ", as the kernel does when memory runs out" if number == signal.SIGKILL else ""
    return f"{name}{when}{memory}"
