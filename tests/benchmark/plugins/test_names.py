"""The names of KD_PLUGINS in lists, help and completion; a file that is wrong does not break these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins_kit import TINY, use

import models
from benchmark import data, methods
from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.spec import protocols
from benchmark.spec.runs import network_info

TOY = "from benchmark.methods import Method\nclass Toy(Method):\n    name = 'toy'\n    formula = 'CE'\n"
DATA = """
from benchmark.data import UserDataset
def load(folder):
    raise AssertionError("a list of names loads no images")
dataset = UserDataset(name="mine", load=load)
"""
LONG = 'base = "crd"\ntitle = "long one"\n'


@pytest.fixture(autouse=True)
def plugins_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    yield use(tmp_path / "p", monkeypatch, toy=TOY, tiny=TINY, mine=DATA, longer_toml=LONG)
    methods.clear_cache()


def words_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    return set(re.findall(r"[\w-]+", capsys.readouterr().out))


def test_they_are_listed_in_help(plugins_of_each_kind: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"longer", "sskd"} <= words_of_help("judge", capsys)
    for verb in ("teachers", "evaluate"):
        assert {"mine", "cifar100"} <= words_of_help(verb, capsys)
    (plugins_of_each_kind / "mine.py").write_text("nonsense")
    methods.clear_cache()
    words = words_of_help("teachers", capsys)
    assert "cifar100" in words and "mine" not in words


def test_they_are_completed(plugins_of_each_kind: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    for case, name in (
        ("teachers --dataset", "mine"),
        ("run --protocol", "longer"),
        ("evaluate --network", "tiny"),
        ("run --methods", "toy"),
        ("judge ", "toy"),
    ):
        (line,) = (x for x in script.splitlines() if x.strip().startswith((f'"{case}")', f'"{case}"*)')))
        assert name in re.findall(r"[\w-]+", line), case
    (plugins_of_each_kind / "mine.py").write_text("nonsense")
    methods.clear_cache()
    assert main(["completion", "bash"]) == 0
    shown = capsys.readouterr()
    assert "resnet20" in shown.out and "longer" not in shown.out and shown.err.count("\n") == 1
    assert "names of KD_PLUGINS are left out" in shown.err


def test_published_and_teachers_know_them(
    plugins_of_each_kind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["published", "--pair", "resnet56:tiny", "--method", "toy"]) == 0
    entry = '[[teachers]]\nnetwork = "resnet8"\ndataset = "digits"\n'
    (plugins_of_each_kind / "teachers.toml").write_text(
        f'{entry}file = "r.pth"\n{entry}file = "r.pth"\npair = "resnet8:tiny"\ntable = "t"\n'
        f'{entry}file = "nowhere.pth"\ntable = "t"\n'
    )
    net = models.build("resnet8", 10)
    models.save_weights(net, plugins_of_each_kind / "r.pth")
    methods.clear_cache()
    argv = ["teachers", "--dataset", "digits", "--profile", "quick", "--results", str(tmp_path / "runs")]
    assert main(argv) == 0
    shown = capsys.readouterr()
    line = f"imported: r.pth (weights {models.weights_hash(net)}), for all pairs and resnet8:tiny in table t"
    assert shown.out.count(line) == 1
    assert shown.err.startswith("left out: ") and "nowhere.pth" in shown.err and shown.err.count("\n") == 1


def test_an_unknown_name_says_what_may_not_be_set(
    plugins_of_each_kind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message() -> list[str]:
        methods.clear_cache()
        errors = []
        for ask in (
            lambda: methods.get("nope"),
            lambda: methods.parse("nope"),
            lambda: protocols.get_protocol("nope"),
            lambda: data.check_name("nope"),
            lambda: network_info("nope", 10),
        ):
            with pytest.raises(InputError) as error:
                ask()
            errors.append(str(error.value))
        return errors

    assert not any("KD_PLUGINS" in line for line in message())
    monkeypatch.delenv("KD_PLUGINS")
    assert all(
        line.endswith("; for names in your own files, set KD_PLUGINS to their folder") for line in message()
    )
