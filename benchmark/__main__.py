"""The command line: `python -m benchmark VERB`.

Exit codes: 0 done, 1 a check or a run failed, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmark.cli import (
    bench,
    clean,
    cluster,
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
from models import WeightsError
from results.published import PublishedError

VERBS = (plan, running, cluster, status, logs, clean, tables, report, published, methods, teachers, bench)
"""The modules that define verbs, in the order of `--help`."""


def parser() -> Parser:
    p = Parser(
        prog=PROGRAM,
        description=wrap(
            "Regenerates the tables of knowledge-distillation papers, and compares them with the published ones."
        ),
        epilog=f"`{PROGRAM} VERB --help` describes one verb.",
        formatter_class=HelpFormatter,
    )
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.register(verbs)
    return p


def _allow_any_encoding() -> None:
    """Print `?` for characters that the terminal or pipe cannot encode.

    The tables have arrows and signs, and a finished command must not fail at printing them.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main(argv: Sequence[str] | None = None) -> int:
    _allow_any_encoding()
    try:
        args = parser().parse_args(argv)
        return int(args.do(args))
    except (InputError, PublishedError, WeightsError) as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        return 2
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
