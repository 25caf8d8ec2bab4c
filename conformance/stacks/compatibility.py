"""What is known of the versions that meet in a stack: a table of rows, each with its source.

A combination in no row is unknown, and said to be: nothing is guessed from a neighbouring version.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from conformance.tables import read_table

TABLE = Path(__file__).with_name("compatibility.toml")
TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "intel-tensorflow")
NAMES = {
    "python": "Python",
    "tensorflow": "TensorFlow",
    "synapse": "SynapseAI",
    "numpy": "NumPy",
    "openmpi": "Open MPI",
}


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"met": "with"}):
    """What is known of ``versions`` of one part where it meets others: a pattern list for each of these.

    ``why`` and ``install``, words for pip that mend it, stand in rows of what does not work.
    """

    part: str
    versions: tuple[str, ...]
    met: dict[str, tuple[str, ...]]
    works: bool
    source: str
    why: str = ""
    install: str = ""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    row: tuple[Row, ...]


class Compatibility(msgspec.Struct, frozen=True, kw_only=True):
    """What the table knows of a stack, in a sentence; ``install`` is what pip mends it with where it does not work."""

    known: Literal["supported", "broken", "unverified"]
    text: str
    install: str = ""
    source: str = ""


@functools.cache
def rows() -> tuple[Row, ...]:
    """Read the table, once."""
    return read_table(TABLE, _Table).row


def check(packages: Mapping[str, str], python_version: str, synapse: str | None = None) -> Compatibility:
    """Return what is known of a stack with these packages (name -> version, names as the package index writes them).

    ``synapse`` is the version that the driver of the machine tells, None where there is none. One row of what does
    not work decides; a part that is in the table, but not with what it meets here, makes a stack unverified.
    """
    versions = {**packages, "python": python_version, **({"synapse": synapse} if synapse else {})}
    of_tensorflow = {name: packages[name] for name in TENSORFLOWS if name in packages}
    versions.update({f"package {name}": version for name, version in of_tensorflow.items()})
    versions["tensorflow"] = next(iter(of_tensorflow.values()), "none")
    parts = [name for name in dict.fromkeys(row.part for row in rows()) if name in versions]
    matching = [row for row in rows() if row.part in parts and _matches(row, versions)]
    broken = next((row for row in matching if not row.works), None)
    if broken is not None:
        text = f"{_told(broken, versions)} is known not to work: {broken.why}."
        return Compatibility(known="broken", text=text, install=broken.install, source=broken.source)
    unknown = [part for part in parts if part not in {row.part for row in matching}]
    if unknown:
        told = " ".join(_unknown(part, versions) for part in unknown)
        return Compatibility(known="unverified", text=told)
    sources = tuple(dict.fromkeys(row.source for row in matching))
    told = ", ".join(f"{_name(part)} {versions[part]}" for part in parts)
    return Compatibility(known="supported", text=f"{told}: known to work together.", source="; ".join(sources))


def _matches(row: Row, versions: Mapping[str, str]) -> bool:
    """Tell whether a row is about these versions.

    A part that a stack has not does not stop another from working, and cannot break it.
    """
    met = (_fits(versions[name], given) if name in versions else row.works for name, given in row.met.items())
    return _fits(versions[row.part], row.versions) and all(met)


def _fits(version: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a version is one of the patterns, or none of those that begin with an exclamation mark.

    >>> _fits("2.15.0.post1", ("2.15",)), _fits("2.1", ("2.15",)), _fits("2.8.4", ("!2.8.2", "!2.9.1"))
    (True, False, True)
    """
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    if excluded:
        return not any(_is(version, pattern) for pattern in excluded)
    return any(_is(version, pattern) for pattern in patterns)


def _is(version: str, pattern: str) -> bool:
    return (version + ".").startswith(pattern + ".")


def _unknown(part: str, versions: Mapping[str, str]) -> str:
    """Say that a part is in no row with what it meets here, and with what it is known instead."""
    known = [row for row in rows() if row.part == part and row.works and _fits(versions[part], row.versions)]
    here = _told(known[0], versions) if known else f"{_name(part)} {versions[part]}"
    if not known:
        return f"Nothing is known of {here}."
    others = " or ".join(", ".join(f"{_name(n)} {'/'.join(v)}" for n, v in row.met.items()) for row in known)
    return f"Nothing is known of {here}; it is known with {others}."


def _told(row: Row, versions: Mapping[str, str]) -> str:
    met = ", ".join(f"{_name(name)} {versions[name]}" for name in row.met if name in versions)
    return f"{_name(row.part)} {versions[row.part]} with {met}"


def _name(name: str) -> str:
    return NAMES.get(name, name)
