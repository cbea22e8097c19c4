"""What `export` writes has the logits of the run, and states where it comes from."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from cli_kit import refused

import models
from benchmark import data
from benchmark.__main__ import main
from benchmark.data.class_names import CIFAR10, CIFAR100
from benchmark.export import curves, hub, weights
from benchmark.export.about import about
from benchmark.training import finished
from results.logs import read as read_log
from results.store import REFERENCE, Store

PLAIN, SIMKD = "none-resnet8/plain", "simkd"


def export(
    finished_runs: tuple[Path, str, str], run: str, to: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> list[Path]:
    argv = ["export", run, "--to", to, "--out", str(out), "--results", str(finished_runs[0])]
    assert main(argv) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def expected_logits(folder: Path, key: str, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of a run that predicts with the student alone, read without `finished`."""
    net = models.build("resnet8", 10)
    models.load_weights(net, folder / key / "last.pt")
    with torch.no_grad():
        return net.eval()(x)


@pytest.mark.parametrize("to", ["torch", "safetensors"])
def test_weights_that_evaluate_reads(
    finished_runs: tuple[Path, str, str], to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key, _ = finished_runs
    (path,) = export(finished_runs, PLAIN, to, tmp_path, capsys)
    record = Store(folder).record(key)
    assert record is not None and path.parent.name == key.replace("/", "_")
    net = models.build("resnet8", 10)
    models.load_weights(net, path)
    assert models.weights_hash(net) == record["weights"]["last"]
    argv = ["evaluate", str(path), "--dataset", "digits", "--json", "--device", "cpu"]
    assert main([*argv, "--results", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["normalise"] == record["settings"]["normalise"] and result["protocol"] == ""
    assert result["says"]["key"] == key and result["says"]["weights"] == record["weights"]["last"]


def test_files_are_for_images_of_the_size_of_the_data_set(tmp_path: Path) -> None:
    """An ONNX model that was made from images of 32 pixels takes no others."""
    net = finished.Predictor(models.build("resnet8", 1000), {}).eval().requires_grad_(False)
    shapes: list[tuple[int, ...]] = []
    net.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[1:])))
    record = dict.fromkeys(("method", "protocol", "profile", "seed"), "")
    record |= {"dataset": "imagenet64", "student": "resnet8", "teacher": "none", "device_name": "a|b\n# c"}
    settings = {"normalise": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    run = finished.Finished("key", {**record, "settings": settings}, "last", tmp_path, net)
    weights.write(run, "torch", tmp_path / "net.pt", {})
    assert set(shapes) == {(3, 64, 64)}
    facts = about(run, [])
    assert facts["input"].startswith("RGB images [B, 3, 64, 64] ")
    lines = hub.card(run, facts).splitlines()
    assert "| device, precision | a\\|b # c, None |" in lines, "a text of the record stays in its row"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_runs_without_the_suite(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key, _ = finished_runs
    (path,) = export(finished_runs, PLAIN, "torchscript", tmp_path, capsys)
    files = {"kd-tables.json": ""}
    program, x = torch.jit.load(str(path), _extra_files=files), torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(program(x), expected_logits(folder, key, x), rtol=1e-4, atol=1e-4)
    stated = json.loads(files["kd-tables.json"])
    assert stated["key"] == key and stated["classes"] == [str(digit) for digit in range(10)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_method_that_predicts_goes_along(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The logits are those of the method's modules, computed here from SimKD's formula."""
    folder, _, key = finished_runs
    (path,) = export(finished_runs, SIMKD, "torchscript", tmp_path, capsys)
    run, x = finished.load(Store(folder), key, "last"), torch.randn(2, 3, 32, 32)
    content = torch.load(folder / key / "last.pt", weights_only=True)["at_test_simkd"]
    with torch.no_grad():
        maps = run.net.student.features(x).stages[-1]
        projected = run.net.at_test["simkd"].projector(maps)
        expected = projected.mean(dim=(2, 3)) @ content["head.weight"].T + content["head.bias"]
        torch.testing.assert_close(torch.jit.load(str(path))(x), expected, rtol=1e-4, atol=1e-4)
    (tensors,) = export(finished_runs, SIMKD, "safetensors", tmp_path, capsys)
    argv = ["evaluate", str(tensors), "--results", str(tmp_path)]
    assert "predicts with modules of method simkd" in refused(argv, capsys)


@pytest.mark.filterwarnings("ignore")
def test_onnx(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript"):  # more than 100 MB, so not in the extra dev
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    folder, key, _ = finished_runs
    (path,) = export(finished_runs, PLAIN, "onnx", tmp_path, capsys)
    session, x = runtime.InferenceSession(str(path)), torch.randn(5, 3, 32, 32)
    (logits,) = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(logits), expected_logits(folder, key, x), rtol=1e-4, atol=1e-4
    )
    assert json.loads(session.get_modelmeta().custom_metadata_map["kd-tables"])["key"] == key
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_with_other_logits_is_not_kept(
    finished_runs: tuple[Path, str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (path,) = export(finished_runs, PLAIN, "torch", tmp_path, capsys)
    before = path.read_bytes()

    def wrong(net: torch.nn.Module, path: Path, **extra: Any) -> None:
        state = {name: tensor * 1.01 for name, tensor in net.state_dict().items()}
        torch.save({"model": state, **extra}, path)

    monkeypatch.setattr(models, "save_weights", wrong)
    argv = ["export", PLAIN, "--to", "torch", "--out", str(tmp_path), "--results", str(finished_runs[0])]
    assert "gives other logits than the run's network" in refused(argv, capsys)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_for_the_hub(
    finished_runs: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key, _ = finished_runs
    (path,) = export(finished_runs, PLAIN, "hf", tmp_path, capsys)
    assert {entry.name for entry in path.iterdir()} == set(hub.FILES)
    record = Store(folder).record(key)
    assert record is not None
    net = models.build("resnet8", 10)
    models.load_weights(net, path / "model.safetensors")
    assert models.weights_hash(net) == record["weights"]["last"]
    card = (path / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    values = [float(line.split(": ")[1]) for line in front.splitlines() if line.strip().startswith("value:")]
    assert values == [record["top1_last"], record["top5_last"]]
    assert f"| run | `{key}` |" in text and f"weights {record['weights']['last']}" in text
    assert json.loads((path / "config.json").read_text())["settings"] == record["settings"]


def test_front_matter_is_yaml() -> None:
    value = {"a": [{"b": [1, "x: y"], "c": None}, "d"], "e": {"f": True}}
    lines = ["a:", "  - b:", "      - 1", '      - "x: y"', "    c: null", '  - "d"', "e:", "  f: true"]
    assert list(hub._yaml(value)) == lines
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load("\n".join(lines)) == value


def test_names_of_the_classes_are_those_of_the_reference_records() -> None:
    records = [json.loads(path.read_text()) for path in REFERENCE.rglob("*/imported/*/record.json")]
    named = [
        list(record["per_class"])
        for record in records
        if record["dataset"] == "cifar100" and not record.get("measure")
    ]
    assert named and all(names == CIFAR100 for names in named)
    assert sorted(CIFAR10) == CIFAR10  # torchvision's labels are in alphabetical order
    assert len(CIFAR10) == data.info("cifar10").num_classes


# --- curves -------------------------------------------------------------------------------------------------


@pytest.fixture
def two_stages(tmp_path: Path) -> Store:
    """A run in training, whose method has an initialisation stage, and one with the main stage only."""
    store = Store(tmp_path / "runs")
    for name, rows in (
        ("ab", "init,1,0.1,2.5,,4.0\nmain,1,0.1,1.5,50.0,8.0\nmain,2,0.01,,55.0,2.0\n"),
        ("kd", "main,1,0.1,1.5,40.0,8.0\n"),
    ):
        path = store.path(f"digits/crd/quick/a-b/{name}/seed0-1") / "curve.csv"
        path.parent.mkdir(parents=True)
        path.write_text("stage,epoch,lr,train_loss,test_acc,seconds\n" + rows)
    return store


def test_all_curves_in_one_csv(two_stages: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["export", "a:b", "--to", "csv", "--out", str(tmp_path), "--results", str(two_stages.folder)]
    assert "matches 2 runs" in refused(argv, capsys)
    assert main([*argv, "--all"]) == 0
    table = pd.read_csv(capsys.readouterr().out.strip())
    assert table.columns[0] == "key" and len(table) == 4
    assert table[table.key.str.contains("/ab/")].test_acc.tolist()[1:] == [50.0, 55.0]


def test_points_count_over_all_stages(two_stages: Store) -> None:
    ab = curves.read(two_stages, "digits/crd/quick/a-b/ab/seed0-1")
    points = list(ab.points())
    assert [step for step, _, _ in points] == [1, 2, 3]
    assert [time - ab.ended for _, time, _ in points] == pytest.approx([-10.0, -2.0, 0.0])
    assert points[0][2] == {"init/lr": 0.1, "init/train_loss": 2.5, "init/seconds": 4.0}
    assert points[2][2] == {
        "lr": 0.01,
        "test_acc": 55.0,
        "seconds": 2.0,
    }  # a loss that was not finite is left out
    assert ab.summary == {"state": "absent"} and not math.isnan(ab.ended)


def test_tensorboard_reads_its_files(
    two_stages: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")  # 50 MB, so not in the extra dev
    argv = ["export", "/kd/", "--to", "tensorboard", "--out", str(tmp_path)]
    for _ in range(2):  # the second export replaces the first
        assert main([*argv, "--results", str(two_stages.folder)]) == 0
    path = Path(capsys.readouterr().out.split()[-1])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    (log,) = read_log(path.parent)
    assert [(e.epoch, e.test_acc, e.train_loss) for e in log.epochs] == [(1, 40.0, 1.5)]


def test_wandb_and_trackio_get_every_epoch(
    two_stages: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By stand-ins for the packages, which are large."""
    calls: list[tuple[str, Any]] = []

    class Run:
        summary: dict[str, Any] = {}

        def log(self, values: dict[str, float], step: int) -> None:
            calls.append(("log", (step, values["test_acc"])))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**options: Any) -> Run:
        calls.append(("init", options["name"]))
        return Run()

    run = Run()
    wandb = types.SimpleNamespace(init=init, Settings=lambda **_: None)
    trackio = types.SimpleNamespace(init=init, log=run.log, finish=run.finish)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setenv("TRACKIO_DIR", "")
    for to in ("wandb", "trackio"):
        calls.clear()
        argv = ["export", "/kd/", "--to", to, "--out", str(tmp_path), "--results", str(two_stages.folder)]
        assert main(argv) == 0
        key = "digits/crd/quick/a-b/kd/seed0-1"
        assert calls == [("init", key), ("log", (1, 40.0)), ("finish", None)]


def test_wrong_input_is_one_line(
    finished_runs: tuple[Path, str, str],
    two_stages: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, running = ["--results", str(finished_runs[0])], ["--results", str(two_stages.folder)]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    cases = [
        ([PLAIN, "--to", "onxx", *here], "unknown 'onxx' (did you mean onnx?)"),
        (["vgg8", "--to", "torch", *here], "matches 0 runs"),
        (["", "--to", "csv", "--all", *here], "the value is empty; give one"),
        ([PLAIN, "/", "--to", "csv", "--all", *here], "the run '/' is empty"),
        (["/kd/", "--to", "torch", *running], "matches 0 runs"),
        ([PLAIN, "--to", "csv", "--epoch", "best", *here], "leave --epoch out"),
        ([PLAIN, "--to", "wandb", *here], "pip install 'kd-tables[wandb]'"),
        ([PLAIN, "--to", "csv", "--results", str(tmp_path / "none")], "RESULTS: no folder"),
    ]
    for argv, expected in cases:
        assert expected in refused(["export", *argv, "--out", str(tmp_path)], capsys), argv
