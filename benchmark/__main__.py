"""The command line: `kd-tables VERB` or `python -m benchmark VERB`.

Exit codes: 0 done, 1 a check or a run failed, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmark import package_names

package_names.exit_on_conflict()  # before the imports of packages that may be somebody else's

from benchmark.errors import InputError
from benchmark.provenance import version_line
from benchmark.text import program_name
from models import WeightsError
from results.published import PublishedError

FAMILIES = ("running", "state", "tables", "inform", "cluster", "bench")
"""Modules of benchmark/cli, in the order of `--help`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, exit code 2 (argparse would print the usage too)."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


class _Version(argparse.Action):
    """`--version`. The line is made only when it is asked for: it needs git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_line())
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    p = _Parser(
        prog=program_name(),
        description="Regenerate tables of knowledge-distillation papers and compare them with the papers.",
    )
    p.add_argument("--version", action=_Version, nargs=0, help="print the version and the commit")
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for family in FAMILIES:
        importlib.import_module(f"benchmark.cli.{family}").register(verbs)
    return p


def _print_anything() -> None:
    """Show `?` for characters that a terminal or pipe cannot encode (tables contain arrows): output must not
    raise."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    _print_anything()
    try:
        args = parser().parse_args(argv)
        return int(args.do(args))
    except (InputError, PublishedError, WeightsError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; all finished epochs are kept, and the same command continues after the last one",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {' '.join(f'{where}{error.strerror or error}'.split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
