"""What every command is made with: a parser that answers in the words of the project, and two columns."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from conformance.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Subparsers = _SubParsersAction["Parser"]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UsageErrors, with the nearest of the known names.

    One that ``passes_on`` leaves what stands after ``--`` in ``passed_on``, for another program.
    """

    passes_on = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = list(args) if args is not None else sys.argv[1:]
        end = words.index("--") if self.passes_on and "--" in words else len(words)
        known, unknown = super().parse_known_args(words[:end], namespace)
        if self.passes_on:
            known.passed_on = words[end + 1 :]
        return known, unknown

    def error(self, message: str) -> NoReturn:
        hint = f"See `{self.prog} --help`."
        choice = re.search(r"invalid choice: (['\"])(.*?)\1.*\(choose from (.*)\)", message)
        if choice:
            option = re.match(r"argument (--[\w-]+)", message)
            what = f"value of {option[1]}" if option else "command"
            message = unknown_name(what, choice[2], re.findall(r"[\w-]+", choice[3]))
        raise UsageError(f"{message[:1].upper()}{message[1:].rstrip('.')}.", hint)

    def refuse(self, argument: str) -> NoReturn:
        """Raise UsageError for an argument that this command does not know."""
        if not argument.startswith("-"):
            self.error(f"`{self.prog}` takes no argument {argument!r}")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        self.error(unknown_name("option", argument.partition("=")[0], known))


def command(subparsers: Subparsers, name: str, run: Any, about: str) -> Parser:
    """Add a command that runs ``run`` with its parsed arguments."""
    made = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
    made.set_defaults(run=run, parser=made)
    return made


def max_slowdown(parser: argparse.ArgumentParser) -> None:
    """Add the option of all that judges a change."""
    from conformance.fixtures.options import slowdown
    from conformance.judging.change import MAX_SLOWDOWN

    parser.add_argument(
        "--max-slowdown", metavar="SHARE", type=slowdown, default=MAX_SLOWDOWN, help="such as 3%% (default: 3%%)"
    )


def group(subparsers: Subparsers, name: str, about: str) -> Subparsers:
    """Add a command that only has commands of its own, and return where they are added."""
    made = subparsers.add_parser(name, help=about, description=about, allow_abbrev=False)
    made.set_defaults(parser=made)
    return made.add_subparsers(metavar="COMMAND", required=True)


def add_stack(parser: Parser) -> None:
    """Let a command that starts a subject be told in which stack."""
    about = "who does it: tox environment or path of a Python that has TensorFlow (default: this)"
    parser.add_argument("--stack", metavar="NAME", default="", help=about)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print two columns, the second wrapped under itself."""
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0) + 2
    for name, value in rows:
        text = textwrap.wrap(value, 100 - width, break_long_words=False, break_on_hyphens=False)
        print(f"{name:<{width}}" + f"\n{'':<{width}}".join(text))
