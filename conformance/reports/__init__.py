"""From runs to an HTML page, CSV and Markdown; what is heavy is imported when a report is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.errors import HarnessFault, UsageError
from conformance.records import Run
from conformance.reports.changes import change_rows, changes_csv
from conformance.reports.markdown import markdown

if TYPE_CHECKING:
    from conformance.reports.history import Shifts


def write_report(
    runs: Sequence[Run],
    html: Path | None,
    csv: Path | None,
    md: Path | None = None,
    shifts: Shifts | None = None,
) -> tuple[Path, ...]:
    """Write page, table and Markdown of the given runs, each whole or not at all, and return what was written.

    ``shifts`` says what changed, by the first run that is different, case, stack and batch. Comparisons have a table
    of their own beside that of the measurements. Raises UsageError when there is nothing to report or to make it with,
    HarnessFault when a file cannot be written.
    """
    _refuse_empty(runs)
    written = []
    try:
        for path, text in _texts(runs, html, csv, md, shifts):
            write_file(path, text)
            written.append(path)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("conformance"):  # a bug here, no package to install
            raise
        message = f"A report needs the package {error.name!r}, which is not installed."
        raise UsageError(message, "pip install 'tf-conformance[reports]'") from None
    return tuple(written)


def comparisons_path(csv: Path) -> Path:
    """Return where the comparisons stand beside a table of measurements.

    >>> comparisons_path(Path("out/report.csv")).name
    'report-comparisons.csv'
    """
    return csv.with_name(f"{csv.stem}-comparisons{csv.suffix}")


def _texts(
    runs: Sequence[Run],
    html: Path | None,
    csv: Path | None,
    md: Path | None,
    shifts: Shifts | None,
) -> Iterator[tuple[Path, str]]:
    if html is not None:
        from conformance.reports.page import page

        yield html, page(runs, shifts)
    if csv is not None:
        from conformance.reports.frame import csv_text, tidy

        yield csv, csv_text(tidy(runs))
        compared = [row for run in runs for row in change_rows(run.header.run, run.comparisons)]
        if compared:
            yield comparisons_path(csv), changes_csv(compared)
        else:
            _forget(comparisons_path(csv))
    if md is not None:
        yield md, markdown(runs)


def _forget(comparisons: Path) -> None:
    """Remove what an earlier report of this name wrote there: it would be taken for a part of the new one."""
    heads = changes_csv([])
    try:
        with comparisons.open(encoding="utf-8", newline="") as file:
            ours = file.read(len(heads)) == heads
        if ours:
            comparisons.unlink()
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessFault(
            f"{str(comparisons)!r} is of an earlier report and cannot be removed: {error}.", "Remove it."
        ) from None


def _refuse_empty(runs: Sequence[Run]) -> None:
    if not runs:
        raise UsageError("There is no run to report.", "Give the directory of at least one run.")
    for run in runs:
        if not run.records:
            message = f"Run {run.header.run!r} holds no record: there is nothing to report."
            raise UsageError(message, "Look into its logs, and run the suites again.")


def write_file(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", newline="")
        os.replace(draft, path)
    except OSError as error:
        raise HarnessFault(
            f"Cannot write the report {str(path)!r}: {error.strerror or error}.",
            "Free space there, or give another file.",
        ) from None
    finally:
        if draft.is_file():
            draft.unlink()
