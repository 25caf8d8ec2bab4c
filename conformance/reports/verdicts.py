"""Every case with its verdict: the table that is filtered and sorted, and what the browser needs for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from conformance.records import CHANGE_GRAVITY, GRAVITY, Judgement, Record
from conformance.reports.entries import ROWS, Entry
from conformance.reports.tables import Cell, Row, Table, heading, heads, table, verdict_cell

REST_CHARACTERS = 1_200_000  # of the sentences of all rows that the table does not hold, those in small included
_FACETS: dict[str, Callable[[Record], str]] = {
    "verdict": lambda record: record.verdict,
    "precision": lambda record: record.precision,
    "mode": lambda record: record.mode,
    "suite": lambda record: record.suite,
    "stack": lambda record: record.stack,
    "profile": lambda record: record.profile,
}


class Facet(NamedTuple):
    """What a select offers: ``place`` is that of its words in the ``facets`` of each row."""

    name: str
    place: int
    words: tuple[str, ...]


class Verdicts(NamedTuple):
    """The section: the first rows as a table, selects for what differs between cases, and all rows as JSON.

    In the JSON, ``words`` holds every text once. ``facets`` has, for each row of the table and then for each row that
    the table does not hold, the numbers of the words of its facets; ``rest`` has the numbers of the words of each cell
    of the rows that the table does not hold, and ``small`` those of what stands in small beneath them. Where there are
    thousands, their texts are cut short.
    """

    table: Table
    facets: tuple[Facet, ...]
    data: str
    total: int


def verdicts(listed: Sequence[Entry], several: bool) -> Verdicts:
    """Return all cases, of which the first stand in the table: a browser takes long to lay out thousands of rows."""
    rows = [_row(entry, several) for entry in listed]
    traits = [tuple(of(entry.record) for of in _FACETS.values()) for entry in listed]
    columns = (*heads(several), "Precision", "Verdict", "Measured, and its band", "Source")
    first = table("Every case, the gravest verdict first", columns, rows[:ROWS], stacked=True, sortable=True)
    return Verdicts(first, tuple(_facets(traits)), _json(traits, rows[ROWS:]), len(rows))


def gravity() -> str:
    """Return all verdicts, the gravest first, in the order in which tables sort them."""
    return "|".join(dict.fromkeys([*GRAVITY, *CHANGE_GRAVITY]))


def _row(entry: Entry, several: bool) -> Row:
    record = entry.record
    measured, kind, others = _measured_against(record)
    return Row(
        (
            *heading(entry, several),
            Cell(record.precision),
            verdict_cell(record.verdict),
            Cell(measured, kind, others),
            Cell(_sources(record), "quiet"),
        )
    )


def _facets(traits: Sequence[tuple[str, ...]]) -> list[Facet]:
    words = [tuple(dict.fromkeys(trait[place] for trait in traits)) for place in range(len(_FACETS))]
    return [Facet(name, place, words[place]) for place, name in enumerate(_FACETS) if len(words[place]) > 1]


def shorten(text: str, longest: int) -> str:
    """
    >>> shorten("top-1 is 0.9725; allowed", 17), shorten("short", 17)
    ('top-1 is 0.9725;\\u2026', 'short')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _json(traits: Sequence[tuple[str, ...]], rest: Sequence[Row]) -> str:
    """Return what the script reads, with no character in it that could end an element."""
    words: dict[str, int] = {}

    def number(word: str) -> int:
        return words.setdefault(word, len(words))

    facets = [[number(word) for word in trait] for trait in traits]
    third = max(40, REST_CHARACTERS // (3 * max(1, len(rest))))
    cells = [[number(shorten(cell.text, 2 * third)) for cell in row.cells] for row in rest]
    small = [[number(shorten(cell.small, third)) for cell in row.cells] for row in rest]
    data = {"words": list(words), "facets": facets, "rest": cells, "small": small}
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _measured_against(record: Record) -> tuple[str, str, str]:
    """Return the sentence that decided the case, the cell's kind, and the other sentences in small."""
    first, *others = [_without_source(judgement) for judgement in _deciding_first(record)] or [record.reason]
    return first or "Nothing was judged.", "sentence", " ".join(others)


def _deciding_first(record: Record) -> list[Judgement]:
    return sorted(record.judgements, key=lambda judgement: judgement.verdict != record.verdict)


def _without_source(judgement: Judgement) -> str:
    """Return a judgement's sentence without the source of its band, which has a column of its own."""
    return judgement.text.replace(f" ({judgement.source})", "") if judgement.source else judgement.text


def _sources(record: Record) -> str:
    """Return the source of the band that decided, and that of the case where no band did."""
    deciding = [judgement.source for judgement in _deciding_first(record)[:1] if judgement.source]
    return deciding[0] if deciding else record.source
