"""The ends of the logs, for whoever asks why a case ended as it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conformance.records import Artefact, Run
from conformance.reports.answers import content
from conformance.reports.entries import Entry
from conformance.reports.pictures import Unreadable

LINES = 40
_LONGEST = 300  # characters of a line
PAGE_CHARACTERS = 120_000  # of all logs of a page


class Tail(NamedTuple):
    """The last lines of a log; ``title`` names its file."""

    title: str
    text: str


def log_tails(runs: Sequence[Run], listed: Sequence[Entry]) -> Mapping[str, tuple[Tail, ...]]:
    """Return by anchor the ends of a case's logs that are in its run's directory, the gravest cases first.

    What is past the room of a page has no log in it: its path is told all the same.
    """
    left, found = PAGE_CHARACTERS, {}
    for entry in listed:
        if not entry.anchor:
            break
        tails = [
            tail
            for name, artefact in entry.record.artefacts.items()
            if name.startswith("log") and (tail := _tail(Path(runs[entry.run - 1].directory), artefact.path))
        ]
        left -= sum(len(tail.text) for tail in tails)
        if left < 0:
            break
        found[entry.anchor] = tuple(tails)
    return found


def _tail(directory: Path, path: str) -> Tail | None:
    try:
        lines = content(directory, Artefact(path=path)).decode("utf-8", "replace").splitlines()
    except Unreadable:
        return None
    said = "\n".join(line[:_LONGEST] for line in lines[-LINES:])
    title = f"The last {LINES} of {len(lines):,} lines of {path}" if len(lines) > LINES else path
    return Tail(title, said) if said.strip() else None
