"""The exit statuses of a session, and what each means."""

from __future__ import annotations

JUDGED_INSIDE, MISSED, INTERRUPTED, FAULT, USAGE, NOTHING_JUDGED, INCONCLUSIVE = range(7)

MEANINGS = {
    JUDGED_INSIDE: "everything that was judged is inside its bands, and nothing regressed",
    MISSED: "a case is outside, regressed, invalid or failed; with --require-all also unjudged, unstable or not run",
    INTERRUPTED: "interrupted",
    FAULT: "a fault of the harness, such as a full disk, or pytest's own internal error",
    USAGE: "wrong usage",
    NOTHING_JUDGED: "nothing was judged: no metric came out inside or outside, and no comparison was decided",
    INCONCLUSIVE: "with --strict, a comparison is inconclusive",
}
