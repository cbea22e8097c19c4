"""`plan` and `status` say the same about what is left; a misspelt verb is answered with the right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.__main__ import main


@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_plan_and_status_agree(
    profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEVICE", "cpu")
    argv = ["crd-table1", "--profile", profile, "--pairs", "resnet56:resnet20", "--seeds", "1"]
    argv += ["--results", str(tmp_path)]
    numbers = []
    for verb in ("plan", "status"):
        assert main([verb, *argv, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        numbers.append(printed.get("left", printed))
    names = ("missing", "packs", "hours", "assumptions", "device")
    assert [numbers[0][n] for n in names] == [numbers[1][n] for n in names]
    texts = []
    for verb in ("plan", "status"):
        assert main([verb, *argv]) == 0
        texts.append(capsys.readouterr().out)
    (time,) = [line for line in texts[0].splitlines() if " to do in " in line]
    assert f"about {time.partition('about ')[2].partition(',')[0]}" in texts[1]


@pytest.mark.parametrize(
    ("argv", "meant"),
    [(["statsu"], "status"), (["bench", "cels"], "cells"), (["plan", "crd-table1", "--keep", "alll"], "all")],
)
def test_a_misspelt_word_is_answered_with_the_one_that_was_meant(
    argv: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{argv[-1]}' (did you mean {meant}?)" in line
