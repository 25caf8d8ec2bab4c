"""A launch as one line for a shell."""

from __future__ import annotations

import shlex

from conformance.records import Launched


def plan_line(launched: Launched) -> str:
    """Return the copyable line that starts what the launch starts: ``env -u X A=b argv``."""
    unset = [word for name, value in launched.env.items() if value is None for word in ("-u", name)]
    assigned = [f"{name}={value}" for name, value in launched.env.items() if value is not None]
    env = ["env", *unset, *assigned] if unset or assigned else []
    return shlex.join([*env, *launched.argv])
