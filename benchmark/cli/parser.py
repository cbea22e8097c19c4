"""The command line's parser. It imports nothing large: `--help` and a mistyped verb are answered at once."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from benchmark.cli.output import fitted
from benchmark.cli.verbs import summary_of
from benchmark.errors import hint
from benchmark.text import program_name

PROGRAM = program_name()


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the help of an option without breaking names at their hyphens, and lists sub-commands
    in a column."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            # argparse forgets their indentation, and would put the help of long names on the next line.
            self._action_max_length += 4

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """Reports wrong input in one line, with exit code 2."""

    default_command = ""
    """The sub-command to use where none is named."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit. argparse would print the usage too."""
        self.exit(2, fitted(f"error: {message} (see {self.prog} --help)\n", sys.stderr))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Report a value that is not allowed with the most similar one that is. argparse does not."""
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            message = f"unknown '{value}'{hint(str(value), allowed)}; allowed: {', '.join(allowed)}"
            raise argparse.ArgumentError(action, message)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse an empty value: `--out "$OUT"` would mean something else where OUT is not set."""
        if action.nargs != argparse.PARSER and not all(text.strip() for text in arg_strings):
            or_else = (
                "" if action.required else f", or leave {'the option' if action.option_strings else 'it'} out"
            )
            raise argparse.ArgumentError(action, f"the value is empty; give one{or_else}")
        return super()._get_values(action, arg_strings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.default_command and args is not None:
            first = next(iter(args), "-")
            if first.startswith("-") and first not in ("-h", "--help"):
                args = [self.default_command, *args]
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:  # reported here, so that the message names the help of this verb
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def wrap(text: str) -> str:
    """Wrap a paragraph for a terminal of 80 columns."""
    return textwrap.fill(text, 79, break_on_hyphens=False)


def add_verb(verbs: Any, name: str, *, summary: str = "", details: str, example: str) -> Parser:
    """Add a verb (or a sub-command of one) to the command line.

    summary: one line for the list of sub-commands; a verb's line is in `benchmark.cli.verbs`.
    details: what the verb does, for its own help. example: the arguments of a typical call.
    """
    return verbs.add_parser(
        name,
        help=summary or summary_of(name),
        description=wrap(details),
        epilog=f"example:\n  {PROGRAM} {example}",
        formatter_class=HelpFormatter,
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
