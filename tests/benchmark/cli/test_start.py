"""What answers at once: help, wrong verbs and the published values import no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.__main__ import parser
from benchmark.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[3]

CALLS = """
import sys
from benchmark.__main__ import main
for line in {lines}:
    try:
        main(line.split())
    except SystemExit:
        pass
print(*sorted({{"torch", "scipy", "matplotlib"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("lines", "imported"),
    [
        (["--help", "nonsense", "pla", "", "published --pair resnet56:resnet20 --method kd"], ""),
        (["methods kd"], "torch"),  # so the right-hand side above can differ from ""
    ],
)
def test_what_is_imported(lines: list[str], imported: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS.format(lines=lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == imported


def test_every_verb_is_defined_by_its_module() -> None:
    complete = parser()
    actions = [a for a in complete._actions if a.dest == "verb"]
    assert list(actions[0].choices or ()) == [v.name for v in VERBS]
    for verb in VERBS[::6]:
        alone = next(a for a in parser(verb.name)._actions if a.dest == "verb").choices
        assert alone is not None and list(alone) == [v.name for v in VERBS]
        assert alone[verb.name].format_help() == actions[0].choices[verb.name].format_help()
        assert alone[verb.name].description
