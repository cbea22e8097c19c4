"""Update the blocks of documents that commands print. `make docs` writes them, `--check` only compares.

A block begins with the command that makes it and ends with `<!-- end -->`:

    <!-- python -m benchmark methods --markdown -->
    ...
    <!-- end -->

Commands run from the root of the project, without the user's environment variables and with an empty results
folder. So they show the committed reference results, or what needs no results. Markdown is inserted as it is,
other output as a code block.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    *("README.md", "docs/methods.md", "docs/running.md"),
    *("docs/reading-the-diff.md", "docs/reference-results.md"),
)
BLOCK = re.compile(r"<!-- (python -m [^>]+?) -->\n(.*?)<!-- end -->", re.DOTALL)
VARIABLES = (
    *("PROFILE", "SEEDS", "PROTOCOL", "DATA", "TEACHERS", "RESULTS", "PRECISION", "THREADS"),
    *("STUDENT_THREADS", "KEEP", "TEACHER_CACHE", "KD_METHODS", "KD_PLUGINS", "KD_PUBLISHED", "KD_GPU_NORMS"),
)
"""The environment variables that commands read."""


def output(command: str) -> str:
    """Return the output of a command in the form of the documents. Raises `RuntimeError` if it fails."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | settings(empty)
        done = subprocess.run(
            [sys.executable, *shlex.split(command)[1:]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    return block(command, done.stdout, done.returncode, done.stderr)


def settings(results: str) -> dict[str, str]:
    """Return the environment variables with which commands run."""
    return {"RESULTS": results, "DEVICE": "cpu", "COLUMNS": "140"}


def block(command: str, printed: str, exit_code: int, errors: str) -> str:
    """Return what a command printed in the form of the documents. Raises `RuntimeError` if it failed."""
    found_differences = exit_code == 1 and " diff " in command
    if exit_code != 0 and not found_differences:
        raise RuntimeError(f"{command}: exit code {exit_code}: {errors.strip()}")
    text = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return f"{text}\n" if "markdown" in command or "--format md" in command else f"```\n{text}\n```\n"


def fill(text: str, run: Callable[[str], str] = output) -> str:
    """Return the document with the current output of its commands in the blocks."""
    return BLOCK.sub(lambda m: f"<!-- {m[1]} -->\n{run(m[1])}<!-- end -->", text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill in the parts of documents that commands print.")
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 if one is stale")
    check = parser.parse_args().check
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            stale.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
