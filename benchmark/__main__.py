"""The command line: `kd-tables VERB` or `python -m benchmark VERB`.

Exit codes: 0 done, 1 a check or a run failed, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmark import longwork, package_names

package_names.exit_on_conflict()  # before importing packages that another distribution may have replaced

from benchmark.cli import (
    bench,
    clean,
    cluster,
    judge,
    logs,
    methods,
    plan,
    published,
    report,
    running,
    status,
    tables,
    teachers,
)
from benchmark.cli.options import PROGRAM, HelpFormatter, Parser, wrap
from benchmark.errors import InputError
from benchmark.provenance import version_line
from benchmark.training.processes import ProcessLost
from models import WeightsError
from results.published import PublishedError

VERBS = (
    plan,
    running,
    cluster,
    status,
    logs,
    clean,
    tables,
    report,
    published,
    judge,
    methods,
    teachers,
    bench,
)
"""The modules that define verbs, in the order of `--help`."""


class _Version(argparse.Action):
    """Print the version and exit. The line is made only on request, because it needs git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_line())
        parser.exit()


def parser() -> Parser:
    """Return the parser of all verbs."""
    p = Parser(
        prog=PROGRAM,
        description=wrap(
            "Regenerate the tables of knowledge-distillation papers, and compare them with the papers."
        ),
        epilog=f"`{PROGRAM} VERB --help` describes one verb.",
        formatter_class=HelpFormatter,
    )
    p.add_argument("--version", action=_Version, nargs=0, help="print the version and the commit")
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.register(verbs)
    return p


def _allow_any_encoding() -> None:
    """Print `?` for characters that the terminal or pipe cannot encode.

    The tables contain arrows and signs, and a command must not fail while it prints its result.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. argv: the arguments; None: those of the process."""
    _allow_any_encoding()
    longwork.show(True)
    try:
        args = parser().parse_args(argv)
        return int(args.do(args))
    except (InputError, PublishedError, WeightsError) as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except ProcessLost as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; everything up to the last finished epoch is kept; the same command continues",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {_one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
