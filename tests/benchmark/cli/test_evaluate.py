"""`evaluate` measures files and finished runs, and stores nothing unless asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_kit import refused

import models
from benchmark.__main__ import main
from results.store import Store


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A nested file, with a prefix, as the papers' authors publish them."""
    torch.manual_seed(0)
    net = models.build("resnet8", 10)
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    path = tmp_path / "resnet8_authors.pth"
    torch.save({"model": state, "epoch": 240, "best_acc": torch.tensor(91.5)}, path)
    return path


def as_json(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main([*argv, "--json", "--device", "cpu", "--threads", "1"]) == 0
    return json.loads(capsys.readouterr().out)


def right_share(net: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the top-1 in percent, computed without the suite's evaluation."""
    with torch.no_grad():
        return float((net.eval()(images).argmax(1) == labels).double().mean() * 100)


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    from benchmark import data

    info, test = data.info("digits"), data.load("digits", "data").test.take(n)
    mean, std = torch.tensor(info.mean), torch.tensor(info.std)
    return ((test.images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous(), test.labels


def test_a_file_of_the_authors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESULTS", str(tmp_path / "runs"))
    result = as_json(["evaluate", str(checkpoint), "--dataset", "digits"], capsys)
    net = models.build("resnet8", 10)
    models.load_weights(net, checkpoint)
    assert result["top1"] == pytest.approx(right_share(net, *digits(400)), abs=1e-4)
    assert result["network"] == "resnet8" and result["test_images"] == 400
    assert result["weights"] == models.weights_hash(net)
    assert result["says"] == {"epoch": 240, "best_acc": 91.5}
    mean_of_classes = sum(result["per_class"].values()) / 10
    assert len(result["per_class"]) == 10 and mean_of_classes == pytest.approx(result["top1"], abs=0.5)
    assert not (tmp_path / "runs").exists()


def test_a_record_on_request(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "runs")
    argv = ["evaluate", str(checkpoint), "--dataset", "digits", "--record", "--results", str(store.folder)]
    result = as_json(argv, capsys)
    record = store.record(result["key"])
    assert record is not None and record["top1_last"] == pytest.approx(result["top1"], abs=1e-3)
    assert record["imported"]["weights"] == result["weights"]


def test_a_run_by_a_part_of_its_key(
    finished_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain, simkd = finished_runs
    for name, key in (("none:resnet8/plain", plain), ("simkd", simkd)):
        record = Store(folder).record(key)
        assert record is not None
        for epoch in ("last", "best"):
            result = as_json(["evaluate", name, "--epoch", epoch, "--results", str(folder)], capsys)
            assert result["run"] == key and result["test_images"] == record["test_images"] == 32
            assert result["top1"] == result["recorded_top1"] == record[f"top1_{epoch}"]
            assert result["weights"] == record["weights"][epoch]
        assert result["normalise"] == record["settings"]["normalise"]


def test_the_file_of_a_run_is_the_run(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, simkd = finished_runs
    argv = ["evaluate", str(folder / simkd / "best.pt"), "--results", str(folder)]
    assert main([*argv, "--per-class", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{simkd}, best epoch: resnet8 on digits, 32 test images\n")
    assert "its record states top-1" in out and "top-1 of each class" in out
    elsewhere = ["evaluate", str(folder / simkd / "best.pt"), "--results", str(tmp_path)]
    assert "predicts with modules of method simkd" in refused(elsewhere, capsys)


def test_a_reference_run_is_meant_where_no_run_of_the_user_matches(
    finished_runs: tuple[Path, str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference, plain, _ = finished_runs
    monkeypatch.setattr("benchmark.cli.evaluate.REFERENCE", reference)
    empty = ["--results", str(tmp_path), "--device", "cpu"]
    for target in ("none:resnet8/plain", str(reference / plain / "last.pt")):
        assert main(["evaluate", target, *empty]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{plain}, last epoch")
        assert (f"{plain} is a reference run" in captured.err) == (target == "none:resnet8/plain")
    assert "matches 0 runs" in refused(["evaluate", "vgg", *empty], capsys)


def test_wrong_input_is_one_line(
    finished_runs: tuple[Path, str, str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain, _ = finished_runs
    damaged, wrong = tmp_path / "resnet8_damaged.pth", tmp_path / "note.txt"
    damaged.write_bytes(checkpoint.read_bytes()[:1000])
    wrong.write_text("not weights")
    file, results = str(checkpoint), ["--results", str(folder)]
    cases = [
        ([str(tmp_path / "none.pth")], "no such file"),
        ([str(damaged)], "damaged, or not a checkpoint"),
        ([str(wrong)], "damaged, or not a checkpoint"),
        ([file, "--network", "resnet9"], "unknown network 'resnet9' (did you mean"),
        ([file, "--dataset", "cifar"], "unknown data set 'cifar' (did you mean"),
        ([file, "--dataset", "cifar100"], "no resnet8 with 100 classes"),
        ([file, "--network", "vgg8", "--dataset", "digits"], "weights of another network"),
        ([file, "--protocol", "none"], "unknown protocol"),
        ([file, "--epoch", "best"], "leave --epoch out"),
        (["vgg", *results], "matches 0 runs"),
        (["", *results], "the value is empty; give one"),
        (["/", *results], "the run '/' is empty"),
        (["seed0", *results], "matches 3 runs"),
        ([plain, "--network", "vgg8", *results], "leave the option out"),
        ([plain, "--record", *results], "has its record already"),
    ]
    for argv, expected in cases:
        assert expected in refused(["evaluate", *argv, "--device", "cpu"], capsys), argv


def test_damaged_and_missing_weights_of_a_run(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain, _ = finished_runs
    other = Store(tmp_path)
    record = Store(folder).record(plain)
    assert record is not None
    other.write_record(plain, record)
    argv = ["evaluate", plain, "--results", str(tmp_path), "--device", "cpu"]
    assert "has no last.pt (KEEP=none, or removed)" in refused(argv, capsys)
    net = models.build("resnet8", 10)
    models.save_weights(net, other.path(plain) / "last.pt", key=plain)
    assert "its record states" in refused(argv, capsys)
    other.write_record(plain, {**record, "student": "mine", "weights": {}})
    assert "is of the network mine, which is not known here" in refused(argv, capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": 3},
        {"settings": {"normalise": {"mean": [0.5] * 3, "std": 0.5}}},
        {"settings": {"normalise": {"mean": {}, "std": [1.0] * 3}}},
        {"settings": {"recipe": 7}},
        {"settings": {"method": {"components": {"kd": None}}}},
    ],
    ids=str,
)
def test_a_record_with_damaged_settings_is_named_by_every_verb_of_one_run(
    wrong: dict[str, Any],
    finished_runs: tuple[Path, str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, plain, _ = finished_runs
    record = json.loads((folder / plain / "record.json").read_bytes())
    damaged = {**record, **wrong}
    if "settings" in wrong:
        damaged["settings"] = {**record["settings"], **wrong["settings"]}
    path = tmp_path / "runs" / plain / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(damaged))
    results = ["--results", str(tmp_path / "runs")]
    for argv in (["evaluate", plain], ["export", plain, "--to", "torch", "--out", str(tmp_path / "out")]):
        assert "is not what this field holds" in refused([*argv, *results], capsys)
    merge = ["merge", str(tmp_path / "runs"), "--results", str(tmp_path / "all")]
    assert main(merge) == 1 and "is not what this field holds" in capsys.readouterr().out
