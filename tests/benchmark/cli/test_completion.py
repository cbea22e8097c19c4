"""The completion scripts are those of the parser, and bash completes by them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from benchmark.__main__ import main, parser
from benchmark.cli import completion
from benchmark.spec import matrix, profiles


def complete(script: str, *line: str) -> list[str]:
    """Return what bash offers for the last word of a command line."""
    typed = " ".join(f"'{word}'" for word in ("kd-tables", *line))
    ask = f'COMP_WORDS=({typed}); COMP_CWORD={len(line)}; _kd_tables; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.split()


@pytest.fixture(scope="module")
def bash() -> str:
    verbs = next(action for action in parser()._actions if action.dest == "verb")
    assert isinstance(verbs.choices, dict)
    return completion.script("bash", verbs.choices)


def test_verbs_and_their_options(bash: str) -> None:
    assert {"run", "report", "reproduce", "retry"} <= set(complete(bash, "r"))
    assert complete(bash, "evalu") == ["evaluate"]
    assert {"--results", "--pairs", "--profile"} <= set(complete(bash, "run", "--"))
    assert "--pairs" not in complete(bash, "merge", "--")


def test_names_of_tables_and_values(bash: str) -> None:
    assert complete(bash, "run", "crd-") == [name for name in matrix.table_names() if name.startswith("crd-")]
    assert complete(bash, "run", "crd-table1", "--profile", "") == list(profiles.PROFILES)
    assert complete(bash, "export", "kd", "--to", "o") == ["onnx"]
    assert complete(bash, "completion", "z") == ["zsh"]


def test_the_command_prints_a_script_that_the_shell_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=30)
    assert script.startswith("autoload -U +X bashcompinit")


def test_a_name_that_the_shell_would_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "table_names", lambda: ["mine", "$(touch hacked)", "a b", 'c"d'])
    verbs = next(action for action in parser()._actions if action.dest == "verb")
    assert isinstance(verbs.choices, dict)
    assert "mine" in completion.words(verbs.choices["run"])
    assert not {"$(touch hacked)", "a b", 'c"d'} & set(completion.words(verbs.choices["run"]))
    assert "hacked" not in completion.script("bash", verbs.choices)
