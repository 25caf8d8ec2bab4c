"""The exit status of a session, as a table that is read from the top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from conformance.records.exit_status import (
    FAULT,
    INCONCLUSIVE,
    INTERRUPTED,
    JUDGED_INSIDE,
    MISSED,
    NOTHING_JUDGED,
    USAGE,
)


class Session(NamedTuple):
    """What a session came to: verdicts of cases and of comparisons counted, and pytest's own exit status.

    ``judged_any`` is true when any metric of any case came out inside or outside. ``pytest_status`` is that of all
    tests but those that failed because ``strict`` was asked for.
    """

    verdicts: Mapping[str, int]
    judged_any: bool
    require_all: bool
    pytest_status: int
    changes: Mapping[str, int]
    strict: bool

    def has(self, *verdicts: str) -> bool:
        return any(self.verdicts.get(verdict, 0) for verdict in verdicts)

    def changed(self, *verdicts: str) -> bool:
        return any(self.changes.get(verdict, 0) for verdict in verdicts)


# The first row that fits decides. pytest's 2 is an interrupt, 3 an internal error, 4 wrong usage.
TABLE: tuple[tuple[int, Callable[[Session], bool]], ...] = (
    (INTERRUPTED, lambda session: session.pytest_status == 2),
    (FAULT, lambda session: session.pytest_status == 3),
    (USAGE, lambda session: session.pytest_status == 4),
    (MISSED, lambda session: session.pytest_status not in (0, 5)),
    (MISSED, lambda session: session.has("outside", "invalid") or session.changed("regressed", "invalid")),
    (MISSED, lambda session: session.require_all and session.has("unjudged", "unstable", "not run")),
    (INCONCLUSIVE, lambda session: session.strict and session.changed("inconclusive")),
    (NOTHING_JUDGED, lambda session: not (session.judged_any or session.changed("improved", "same"))),
    (JUDGED_INSIDE, lambda session: True),
)


def exit_status(
    verdicts: Mapping[str, int],
    judged_any: bool,
    require_all: bool,
    pytest_status: int,
    changes: Mapping[str, int] | None = None,
    strict: bool = False,
) -> int:
    """Return the status that the session exits with; ``MEANINGS`` says what each means."""
    session = Session(verdicts, judged_any, require_all, int(pytest_status), changes or {}, strict)
    return next(status for status, fits in TABLE if fits(session))
