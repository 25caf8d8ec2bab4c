"""Figures that somebody measured on a machine of theirs: shown apart from what was measured here, and never a gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.reports.entries import ROWS, Entry, label, shown
from conformance.reports.tables import Cell, Row, Table, case_cell, table


def published_table(listed: Sequence[Entry]) -> Table | None:
    """Return every published figure once, whether its case ran here or not; None where there is none."""
    found = {
        (entry.record.case, *(str(figure.get(name, "")) for name in ("metric", "value", "machine"))): (entry, figure)
        for entry in listed
        for figure in entry.record.published
    }
    rows = [_row(entry, figure) for entry, figure in found.values()]
    more = f". The first {ROWS} of {len(rows):,}" if len(rows) > ROWS else ""
    columns = ("Case", "Metric", "Published", "On the machine", "Source")
    caption = f"Not measured here, and not by this harness{more}"
    return table(caption, columns, rows[:ROWS], sortable=True) if rows else None


def _row(entry: Entry, figure: dict[str, Any]) -> Row:
    metric, value = str(figure.get("metric", "")), figure.get("value")
    number = isinstance(value, (int, float))
    return Row(
        (
            case_cell(entry)._replace(small=""),
            Cell(label(metric)),
            Cell(shown(metric, value) if number else str(value), "number", key=value if number else None),
            Cell(str(figure.get("machine", "not named")), "sentence"),
            Cell(str(figure.get("source", "not named")), "quiet"),
        )
    )
