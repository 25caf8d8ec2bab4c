"""What is known of runs that reached their accuracy, for a run that is on its way: the job's argument ``early_check``.

The subject decides, between two epochs; ``conformance/subject/early_check.py`` says when.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from conformance.errors import UsageError, unknown_name
from conformance.tables import read_table

TABLE = Path(__file__).with_name("early_check.toml")


class Band(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The lowest top-1 of ``runs`` that reached ``target``, as (epoch, top-1); hopeless is ``margin`` below it."""

    name: str
    recipe: str
    target: float
    lowest: tuple[tuple[float, float], ...]
    margin: float
    runs: int
    source: str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    band: tuple[Band, ...]


@cache
def bands() -> dict[str, Band]:
    return {band.name: band for band in read_table(TABLE, Table).band}


def early_check(name: str) -> dict[str, Any]:
    """Return the job argument of a band; raises UsageError for a name that the table does not have."""
    if name not in bands():
        raise UsageError(unknown_name("early check", name, bands()), "Name the one whose recipe the run follows.")
    band = bands()[name]
    return {
        "target": band.target,
        "lowest": [list(point) for point in band.lowest],
        "margin": band.margin,
        "source": f"{band.runs} runs, {band.source}",
    }
