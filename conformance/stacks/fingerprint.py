"""The fingerprint of a stack: everything in it that can change a measurement, and a digest of that.

Two stacks of one digest hold the same bytes, wherever they lie and whatever they are called. What depends on the
machine or its environment as well, such as the instruction set that oneDNN takes, is no part of it: the record of a
case has that, as the subject told it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.stacks import Stack

DIGITS = 16


def fingerprint(stack: Stack) -> dict[str, Any]:
    """Return Python, packages with their hashes, pluggable devices, Horovod, MPI, SynapseAI and driver of a stack."""
    return {
        "python": stack.python_version,
        "packages": stack.packages,
        "hashes": stack.hashes,
        "plugins": list(stack.plugins),
        "horovod_built": list(stack.horovod_built),
        "mpi": stack.mpi,
        "synapse": stack.synapse,
        "driver": stack.driver,
    }


def digest(told: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the sha256 of a fingerprint as canonical JSON."""
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGITS]
