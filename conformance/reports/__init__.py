"""From runs to an HTML page and a CSV file; what is heavy is imported when a report is written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from conformance.errors import HarnessFault, UsageError
from conformance.records import Run


def write_report(runs: Sequence[Run], html: Path | None, csv: Path | None) -> None:
    """Write the page and the table of the given runs, each whole or not at all.

    Raises UsageError when there is nothing to report or to make it with, HarnessFault when a file
    cannot be written.
    """
    _refuse_empty(runs)
    try:
        if csv is not None:
            from conformance.reports.frame import csv_text, tidy

            _replace(csv, csv_text(tidy(runs)))
        if html is not None:
            from conformance.reports.page import page

            _replace(html, page(runs))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("conformance"):  # a bug here, no package to install
            raise
        message = f"A report needs the package {error.name!r}, which is not installed."
        raise UsageError(message, "pip install 'tf-conformance[reports]'") from None


def _refuse_empty(runs: Sequence[Run]) -> None:
    if not runs:
        raise UsageError("There is no run to report.", "Give the directory of at least one run.")
    for run in runs:
        if not run.records:
            message = f"Run {run.header.run!r} holds no record: there is nothing to report."
            raise UsageError(message, "Look into its logs, and run the suites again.")


def _replace(path: Path, text: str) -> None:
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
