"""The exit status of a session, as a table that is read from the top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

JUDGED_INSIDE, MISSED, INTERRUPTED, FAULT, NOTHING_JUDGED = 0, 1, 2, 4, 5

MEANINGS = {
    JUDGED_INSIDE: "everything that was judged is inside its bands",
    MISSED: "a case is outside, invalid or failed; with --require-all also unjudged, unstable or not run",
    INTERRUPTED: "interrupted",
    FAULT: "wrong usage, or a fault of the harness",
    NOTHING_JUDGED: "nothing was judged: no metric came out inside or outside",
}


class Session(NamedTuple):
    """What a session came to: case verdicts counted, and pytest's own exit status.

    ``judged_any`` is true when any metric of any case came out inside or outside.
    """

    verdicts: Mapping[str, int]
    judged_any: bool
    require_all: bool
    pytest_status: int

    def has(self, *verdicts: str) -> bool:
        return any(self.verdicts.get(verdict, 0) for verdict in verdicts)


# The first row that fits decides. pytest's 2 is an interrupt, 3 an internal error, 4 wrong usage.
TABLE: tuple[tuple[int, Callable[[Session], bool]], ...] = (
    (INTERRUPTED, lambda session: session.pytest_status == 2),
    (FAULT, lambda session: session.pytest_status in (3, 4)),
    (MISSED, lambda session: session.pytest_status not in (0, 5)),
    (MISSED, lambda session: session.has("outside", "invalid")),
    (MISSED, lambda session: session.require_all and session.has("unjudged", "unstable", "not run")),
    (NOTHING_JUDGED, lambda session: not session.judged_any),
    (JUDGED_INSIDE, lambda session: True),
)


def exit_status(verdicts: Mapping[str, int], judged_any: bool, require_all: bool, pytest_status: int) -> int:
    """Return the status that the session exits with; ``MEANINGS`` says what each means."""
    session = Session(verdicts, judged_any, require_all, int(pytest_status))
    return next(status for status, fits in TABLE if fits(session))
