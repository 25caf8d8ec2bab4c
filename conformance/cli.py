"""The command ``conformance``.

Exit status 0 when it did what was asked, 4 with one sentence and a hint when it could not. What judges, `compare` and
`history`, exits as a gate does: see conformance.judging.exit_status.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import conformance
from conformance.commands import calibrate, ci, compare, data, graphs, history, profiles, report
from conformance.commands.parser import Parser
from conformance.errors import ConformanceError, HarnessFault

OK, FAULT, USAGE = 0, 3, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        status = _run(argv)
        sys.stdout.flush()
    except ConformanceError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return FAULT if isinstance(error, HarnessFault) else USAGE
    except BrokenPipeError:  # the reader has seen enough: `conformance profiles list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return status


def _run(argv: Sequence[str] | None) -> int:
    try:
        args, unknown = make_parser().parse_known_args(argv)
    except SystemExit as done:  # --help and --version, which print and exit 0
        return int(done.code or OK)
    if unknown:
        args.parser.refuse(unknown[0])
    return int(args.run(args) or OK)


def make_parser() -> Parser:
    about = "Judges TensorFlow image models on Xeon and Gaudi. Cases are run by `pytest suites`."
    parser = Parser(prog="conformance", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"conformance {conformance.__version__}")
    parser.set_defaults(parser=parser)
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    for commands in (calibrate, ci, compare, data, graphs, history, profiles, report):
        commands.add(groups)
    return parser


if __name__ == "__main__":
    sys.exit(main())
