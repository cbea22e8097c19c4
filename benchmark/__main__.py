"""The command line: `kd-tables VERB` or `python -m benchmark VERB`.

Exit codes: 0 done, 1 a check or a run failed, 2 the input was wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmark import longwork, package_names

package_names.exit_on_conflict()  # before importing packages that another distribution may have replaced

from benchmark.cli.output import print_note
from benchmark.cli.parser import PROGRAM, HelpFormatter, Parser, wrap
from benchmark.cli.verbs import VERBS, Verb
from benchmark.errors import InputError


class _Version(argparse.Action):
    """Print the version and exit. The line is made only on request, because it needs git and PyTorch."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from benchmark.provenance import version_line

        print(version_line())
        parser.exit()


def parser(verb: str | None = None) -> Parser:
    """Return the parser of all verbs.

    verb: the only verb that will be parsed. The others then have their lines in `--help` but no options, and
    their modules are not imported. "": no verb has options. None: every verb has its options.
    """
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
    modules = {v.module for v in VERBS if verb is None or v.name == verb}
    for v in VERBS:
        if v.module not in modules:
            verbs.add_parser(v.name, help=v.summary)
        elif v.name not in verbs.choices:
            importlib.import_module(f"benchmark.cli.{v.module}").register(verbs)
    return p


def _verb(argv: Sequence[str]) -> Verb | None:
    """Return the verb of a command line, None if it has none."""
    first = next((text for text in argv if not text.startswith("-")), "")
    return next((v for v in VERBS if v.name == first), None)


def _needed(verb: Verb | None) -> str | None:
    """Return the only verb that `parser` must know for a command line, "" for none, None for all."""
    if verb is None:
        return ""
    return None if verb.reads_all else verb.name


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Say on a terminal that the command is at work while its modules are imported; then remove the line."""
    shown = sys.stderr.isatty()
    if shown:
        print("starting ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that is reported in one line, None for one that is a fault of ours.

    The errors of modules that were not imported cannot have been raised.
    """
    reported = [(InputError, 2)]
    for module, name, code in (
        ("models", "WeightsError", 2),
        ("results.published", "PublishedError", 2),
        ("benchmark.training.processes", "ProcessLost", 1),
    ):
        if module in sys.modules:
            reported.append((getattr(sys.modules[module], name), code))
    return next((code for kind, code in reported if isinstance(error, kind)), None)


def _open_closed_streams() -> None:
    """Let a command run whose standard output or error is closed (`>&-`). Python sets these to None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # open until the process ends


def _allow_any_encoding() -> None:
    """Print `?` for characters that the terminal or pipe cannot encode.

    The tables contain arrows and signs, and a command must not fail while it prints its result.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _one_line(text: str) -> str:
    """Return the text in one line, with `?` for what could steer a terminal: it may quote any file."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. argv: the arguments; None: those of the process."""
    _open_closed_streams()
    _allow_any_encoding()
    longwork.show(True)
    argv = sys.argv[1:] if argv is None else argv
    verb = _verb(argv)
    try:
        with _starting():
            p = parser(_needed(verb))
        args = p.parse_args(argv)
        return int(args.do(args))
    except KeyboardInterrupt:
        kept = "; everything up to the last finished epoch is kept; the same command continues"
        print_note(f"interrupted{kept if verb is not None and verb.trains else ''}")
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print_note(f"error: {_one_line(f'{where}{error.strerror or error}')}")
        return 2
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print_note(f"error: {_one_line(str(error))}")
        return code


if __name__ == "__main__":
    sys.exit(main())
