"""A launch as one line for a shell."""

from __future__ import annotations

import shlex

from conformance.launch.rules import Composed
from conformance.records import Launched


def plan_line(launched: Launched) -> str:
    """Return the copyable line that starts what the launch starts: ``env -u X A=b argv``."""
    unset = [word for name, value in launched.env.items() if value is None for word in ("-u", name)]
    assigned = [f"{name}={value}" for name, value in launched.env.items() if value is not None]
    env = ["env", *unset, *assigned] if unset or assigned else []
    return shlex.join([*env, *launched.argv])


def plan_text(composed: Composed, notes: tuple[str, ...] = ()) -> str:
    """Return what a plan shows of a launch: its notes as comments of a shell, then the line or the script of Slurm.

    A process by itself has its line only, unless there is a note of the plan's own.
    """
    if not composed.launched.ranks and not notes:
        return plan_line(composed.launched)
    told = "\n".join(f"# {note}" for note in (*composed.notes, *notes))
    what = composed.script.rstrip() if composed.script else plan_line(composed.launched)
    return f"{told}\n{what}" if told else what
