"""The front door: `python -m benchmark VERB`. Exit codes: 0 done, 1 a check or a run failed, 2 the input was wrong, 130 interrupted."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from benchmark.errors import InputError
from models import WeightsError
from results.published import PublishedError

FAMILIES = ("running", "status", "tables", "teachers", "cluster", "bench")
"""Modules of benchmark/cli, in the order of `--help`."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, exit code 2 (argparse would print the usage too)."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="python -m benchmark",
        description="Regenerates the top-1 tables of knowledge-distillation papers and diffs them.",
    )
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for family in FAMILIES:
        if importlib.util.find_spec(f"benchmark.cli.{family}"):
            importlib.import_module(f"benchmark.cli.{family}").register(verbs)
    return p


def _print_anything() -> None:
    """A terminal or pipe that is not UTF-8 shows `?` for what it lacks (the tables have arrows and signs): a finished command must not end there."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def main(argv: Sequence[str] | None = None) -> int:
    _print_anything()
    try:
        args = parser().parse_args(argv)
        return int(args.do(args))
    except (InputError, PublishedError, WeightsError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; everything up to the last finished epoch is kept, the same command goes on",
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
