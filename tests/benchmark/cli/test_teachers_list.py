"""`teachers`: what is measured of an imported checkpoint, by class too, and where the list finds it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from benchmark import data
from benchmark.__main__ import main
from benchmark.spec import protocols
from benchmark.training.evaluate import per_class, score
from results.store import Store

ROOT = Path(__file__).resolve().parents[3]


def test_accuracy_by_class_counts_each_class_by_itself() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2, 3])
    z = torch.eye(4)[torch.tensor([0, 0, 1, 2, 2, 0])]
    z[3] = math.nan  # a prediction that is no number is wrong
    by_class = per_class(z, labels)
    assert by_class[0] == pytest.approx(200 / 3) and by_class[2:] == [50.0, 0.0] and math.isnan(by_class[1])
    z, labels = torch.randn(50, 5), torch.arange(50) % 5
    assert sum(per_class(z, labels)) / 5 == pytest.approx(score(z, labels).top1)


def test_among_equal_logits_the_first_counts() -> None:
    """As they are in bf16, for every label, by a stable order and by `argmax`."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 100, generator=generator).bfloat16().float()
    order = z.sort(dim=1, descending=True, stable=True).indices
    for place in (0, 1, 4, 5):
        labels = order[:, place]
        result = score(z, labels)
        assert (result.top1, result.top5) == (100.0 * (place < 1), 100.0 * (place < 5))
    assert torch.equal(order[:, 0], z.argmax(dim=1))


@pytest.fixture
def ten_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Save a checkpoint with ten classes, and return the options that list it.

    A checkpoint with ten classes is taken for one of CIFAR-10; digits replace that data set here.
    """
    monkeypatch.setitem(data.DATASETS, "cifar10", dataclasses.replace(data.info("digits"), name="cifar10"))
    torch.manual_seed(0)
    (tmp_path / "teachers").mkdir()
    models.save_weights(models.build("resnet14", 10), tmp_path / "teachers" / "resnet14.pth")
    return [
        "--profile",
        "short",
        "--teachers",
        str(tmp_path / "teachers"),
        "--results",
        str(tmp_path / "runs"),
    ]


def test_a_checkpoint_is_measured_once_and_listed_with_its_classes(
    ten_classes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["teachers", "--dataset", "cifar10", *ten_classes]
    assert main(argv) == 0
    assert "not tested (--test)" in capsys.readouterr().out
    assert main([*argv, "--test", "--per-class"]) == 0
    out = capsys.readouterr().out
    assert "not tested" not in out and "tested" in out and "top-1 of each class" in out
    assert main([*argv, "--profile", "paper", "--json"]) == 0, "another profile finds it too"
    (row,) = [r for r in json.loads(capsys.readouterr().out) if r["origin"].startswith("imported")]
    assert row["state"] == "tested" and set(row["per_class"]) == set("0123456789")


def test_a_note_names_a_checkpoint_of_another_data_set(
    ten_classes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten classes mean CIFAR-10, not digits. Without a note the file would seem not to have been read."""
    assert main(["teachers", "--dataset", "digits", *ten_classes, "--test"]) == 0
    shown = capsys.readouterr()
    assert "imported" not in shown.out
    assert (
        shown.err.count("\n") == 1
        and "resnet14.pth" in shown.err
        and "cifar10" in shown.err
        and "digits" in shown.err
    )


def test_teachers_of_the_profile_in_the_environment_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the data set that the profile trains on; there are no runs of it on another."""
    monkeypatch.setenv("PROFILE", "quick")
    assert main(["teachers", "--results", str(tmp_path), "--json"]) == 0
    assert {r["key"].split("/")[0] + r["key"].split("/")[2] for r in json.loads(capsys.readouterr().out)} == {
        "digitsquick"
    }
    monkeypatch.setenv("PROFILE", "nope")
    assert main(["teachers", "--results", str(tmp_path)]) == 2


@pytest.mark.parametrize(("dataset", "ours"), [("cifar100", False), ("digits", False), ("imagenet", True)])
def test_teachers_of_imagenet_are_listed_for_imagenet_alone(
    dataset: str, ours: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["teachers", "--dataset", dataset, "--profile", "paper", "--results", str(tmp_path), "--json"]
    assert main(argv) == 0
    names = {row["network"] for row in json.loads(capsys.readouterr().out)}
    assert names and {name.endswith("_imagenet") for name in names} == {ours}


def test_the_reference_teacher_is_listed_as_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ROOT / "results" / "reference" / "teachers"
    assert main(["teachers", "--teachers", str(folder), "--results", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"wrn_40_2", "resnet56"} <= {r["network"] for r in rows} and "crnn_64" not in {
        r["network"] for r in rows
    }
    crd, row = (r for r in rows if r["origin"].startswith("imported"))
    assert (crd["protocol"], row["protocol"]) == ("crd", "sskd")
    assert crd["state"] == "not tested (--test)", "measured with SSKD's normalisation only"
    assert row["state"] == "tested (reference results)" and row["top1_best"] == 73.44 in row["published"]
    assert len(row["per_class"]) == 100 and sum(row["per_class"].values()) / 100 == pytest.approx(73.44)


def test_a_checkpoint_is_measured_with_the_normalisation_of_each_protocol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = data.load("digits")
    few = dataclasses.replace(digits, train=digits.train.take(20), test=digits.test.take(20))
    hundred = dataclasses.replace(
        data.info("cifar100"), train_images=20, test_images=20, load=lambda folder: few
    )
    monkeypatch.setitem(data.DATASETS, "cifar100", hundred)
    torch.manual_seed(0)
    models.save_weights(models.build("resnet56", 100), tmp_path / "x.pth")
    folders = ["--teachers", str(tmp_path / "x.pth"), "--results", str(tmp_path / "runs"), "--json"]

    def measured(*options: str) -> dict[str, dict[str, Any]]:
        assert main(["teachers", "--profile", "paper", *folders, *options]) == 0
        rows = [r for r in json.loads(capsys.readouterr().out) if r["origin"].startswith("imported")]
        return {r["protocol"]: r for r in rows}

    assert {p: r["state"] for p, r in measured("--test", "--protocol", "dlkd").items()} == {"dlkd": "tested"}
    assert {p: r["state"] for p, r in measured().items()} == {"crd": "not tested (--test)", "sskd": "tested"}
    rows = measured("--test")
    assert {p: r["state"] for p, r in rows.items()} == {"crd": "tested", "sskd": "tested"}
    for protocol, row in rows.items():
        record = Store(tmp_path / "runs").record(row["key"]) or {}
        assert tuple(record["settings"]["normalise"]["mean"]) == protocols.get_protocol(protocol).mean
        assert record["protocol"] == {"crd": "crd", "sskd": "dlkd"}[protocol], "dlkd normalises as sskd does"
    monkeypatch.setattr("benchmark.cli.teachers.train_pack", None)
    assert measured("--test") == rows, "what has a record is not measured again"
    assert main(["teachers", "--protocol", "nope", *folders]) == 2
