"""Teachers that are only described: tables find their students' records, nothing is trained with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import models
from benchmark.__main__ import main
from benchmark.spec import imported

ROOT = Path(__file__).resolve().parents[3]


def test_a_description_gives_the_same_keys_as_its_checkpoint(tmp_path: Path) -> None:
    net = models.build("resnet14", 100)
    (tmp_path / "real").mkdir()
    (tmp_path / "described").mkdir()
    models.save_weights(net, tmp_path / "real" / "resnet14.pth")
    described = {"network": "resnet14", "num_classes": 100, "weights": models.weights_hash(net), "top1": 1.0}
    (tmp_path / "described" / "resnet14.json").write_text(json.dumps(described))
    (real,), (other,) = (imported.read_folder(tmp_path / f).teachers for f in ("real", "described"))
    assert real.ref().identity == other.ref().identity
    assert (real.ref().description_only, other.ref().description_only) == (False, True)


WRONG = (
    "",
    "[]",
    "{}",
    '{"network": "resnet14", "num_classes": 5, "weights": "a"}',
    '{"network": "no", "num_classes": 10, "weights": "a"}',
)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_description_is_one_line_and_exit_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main(["plan", "crd-table1", "--teachers", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "x.json does not describe a teacher" in line


@pytest.mark.parametrize(
    ("profile", "pair", "problem"),
    [
        (
            "quick",
            "resnet56:resnet20",
            "its checkpoints are for cifar100, and profile quick trains on digits",
        ),
        ("short", "vgg13:vgg8", "it has none of this table's teachers"),
        ("short", "resnet56:resnet20", ""),
    ],
)
def test_unused_teachers_are_reported(
    profile: str, pair: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(tmp_path), "--teachers", str(ROOT / "results" / "reference" / "teachers")]
    assert main(["plan", "crd-table1", "--profile", profile, "--pairs", pair, *where]) == 0
    assert capsys.readouterr().err == (f"TEACHERS: {where[-1]} is not used: {problem}\n" if problem else "")


def test_nothing_is_trained_with_a_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "run",
        "crd-table1",
        "--profile",
        "short",
        "--pairs",
        "resnet56:resnet20",
        "--device",
        "cpu",
        "--results",
        str(tmp_path),
    ]
    assert main([*argv, "--teachers", str(ROOT / "results" / "reference" / "teachers")]) == 2
    assert "only describes resnet56" in capsys.readouterr().err.splitlines()[-1]


def test_descriptions_find_the_reference_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--results", str(tmp_path), "--teachers", str(ROOT / "results" / "reference" / "teachers")]
    argv = [
        "diff",
        "crd-table1",
        "--curves",
        "--profile",
        "paper",
        "--pairs",
        "resnet56:resnet20",
        "--methods",
        "kd",
        "--seeds",
        "3",
    ]
    assert main([*argv, *folders]) == 0
    out = capsys.readouterr().out
    assert out.count("resnet56-resnet20/kd/seed") >= 3 and "LeSN-Lab-1" in out
