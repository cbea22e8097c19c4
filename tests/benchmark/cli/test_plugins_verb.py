"""The verb `plugins`: it lists everything that the files define, and checks all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins_kit import TINY, use

import models
from benchmark import methods
from benchmark.__main__ import main


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


def test_everything_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from benchmark.methods import Method\nclass Toy(Method):\n    name = 'toy'\n    formula = 'CE'\n"
    teachers = (
        '[[teachers]]\nnetwork = "resnet8"\ndataset = "digits"\nfile = "r.pth"\npair = "resnet8:tiny"\n'
    )
    folder = use(
        tmp_path / "p",
        monkeypatch,
        toy=code,
        tiny=TINY,
        long_toml='base = "crd"\ntitle = "long one"\n',
        teachers_toml=teachers,
    )
    net = models.build("resnet8", 10)
    models.save_weights(net, folder / "r.pth")
    assert main(["plugins", "--json"]) == 0
    rows = {(r["kind"], r["name"]): r["about"] for r in json.loads(capsys.readouterr().out)}
    assert rows == {
        ("method", "toy"): f"CE ({folder / 'toy.py'})",
        ("network", "tiny"): rows["network", "tiny"],
        ("network", "bare"): rows["network", "bare"],
        ("protocol", "long"): "long one",
        ("teacher", "resnet8"): (
            f"digits, pair resnet8:tiny: weights {models.weights_hash(net)} ({folder / 'r.pth'})"
        ),
    }
    assert "stages 8x4x4, 8x2x2 (" in rows["network", "tiny"]
    assert "stages 8x4x4, 8x2x2; no pre-activations (" in rows["network", "bare"]
    assert main(["plugins"]) == 0
    assert "protocol  long     long one\n" in capsys.readouterr().out


def test_a_mistake_in_what_no_table_uses_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(tmp_path / "p", monkeypatch, tiny=TINY.replace('stages=["one"', 'stages=["three"'))
    assert main(["plugins"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "network bare: it has no sub-module three" in line


def test_without_folders_it_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert "KD_PLUGINS is not set" in capsys.readouterr().err
