"""`bench`: it measures the trainer's real step, its statistics are right, and wrong input is one line.

No test depends on a measured time.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_kit import FP32, small_run

from benchmark.__main__ import main, parser
from benchmark.bench import cells, clock, drift, growth, ours, parts, plain
from benchmark.errors import InputError
from benchmark.training import pack_trainer
from benchmark.training.execution import Execution
from benchmark.training.lockstep import Lockstep


@pytest.mark.parametrize("forms", plain.loss_forms()[1:] + [plain.crd_forms(500, 64)], ids=lambda f: f.name)
def test_a_fast_loss_has_the_value_and_gradient_of_its_plain_form(forms: plain.LossForms) -> None:
    torch.manual_seed(1)
    student, teacher = (
        forms.inputs() if "crd" not in forms.name else (torch.randn(64, 128), torch.randn(500, 128))
    )
    (v1, g1), (v2, g2) = (
        plain.value_and_gradient(
            f,
            student[:16] if "crd" not in forms.name else student,
            teacher[:16] if "crd" not in forms.name else teacher,
        )
        for f in (forms.ours, forms.plain)
    )
    torch.testing.assert_close(v1, v2, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(g1, g2, rtol=1e-3, atol=1e-4 * float(g2.abs().max()))


def test_bench_steps_with_the_code_of_the_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert pack_trainer.Lockstep is Lockstep and ours.Lockstep is Lockstep
    run = small_run("kd")
    pack = ours.Ours([run, run], ours.random_split(64, 10, seed=0), FP32, tmp_path)
    assert [pack.step() for _ in range(5)] == [2 * run.recipe.batch_size] * 5, (
        "it continues after the end of an epoch"
    )
    a, b = (i.student for i in pack.active_runs)
    assert a is not None and b is not None
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y), "one run, opened twice, trains to the same weights"


def test_a_pack_has_every_method_of_the_table_that_the_pair_allows() -> None:
    similar = {r.method for r in ours.pair_runs("crd-table1", "wrn_40_2:wrn_16_2")}
    different = {r.method for r in ours.pair_runs("crd-table2", "vgg13:MobileNetV2")}
    assert {"kd", "crd", "crd+kd", "fsp"} <= similar and "fsp" not in different and "crd" in different
    assert not {"plain"} & (similar | different)


def test_speeds_are_summarised_as_medians_ratios_and_means() -> None:
    rows = cells.summary(
        {"naive": [10.0, 20.0, 5.0], "alone": [20.0, 20.0, 20.0], "pack": [60.0, 100.0, 20.0]}
    )
    assert rows["naive"]["images_per_second"] == 10
    assert (
        rows["alone"]["ratio"] == 2
        and rows["pack"]["turn_ratios"] == [6, 5, 4]
        and rows["pack"]["ratio"] == 5
    )
    assert rows["pack"]["quiet_ratio"] == 5
    rows = [{"table": "t", "pair": "p", **rows}, {"table": "t", "pair": "q", **rows}]
    assert cells.geometric_means(rows)["t"]["pack_ratio"] == pytest.approx(5)


def test_loops_take_turns() -> None:
    order: list[str] = []

    class Loop:
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self) -> int:
            order.append(self.name)
            return 7

    cells.take_turns({"a": Loop("a"), "b": Loop("b")}, cells.Effort(2, 1e-9), "cpu")
    assert order == ["a", "a", "b", "b", *("a", "a", "b", "b") * 2], (
        "warm-up and one timed step each, then turn by turn, one step uncounted"
    )


def test_the_cost_model_grows_linearly_with_the_students() -> None:
    run = next(r for r in ours.pair_runs("crd-table1", "resnet56:resnet20") if r.method == "kd")
    for device in ("cpu", "cuda"):
        four, eight, sixteen = (growth.model_ms(run, n, device) for n in (4, 8, 16))  # fewer leave a GPU idle
        assert sixteen - eight == pytest.approx(2 * (eight - four))
        assert eight < 2 * four


def mini(folder: Path) -> str:
    """A table of one small pair and two methods."""
    path = folder / "mini.toml"
    path.write_text(
        'title = "Mini"\npaper = "crd"\ntable = "table1"\ndataset = "cifar100"\nprotocol = "crd"\nseeds = 1\n'
        'columns = ["resnet14:resnet8"]\n'
        '[[rows]]\nlabel = "KD"\nmethod = "kd"\n[[rows]]\nlabel = "SSKD"\nmethod = "sskd"\n'
    )
    return str(path)


def test_parts_include_the_loss_of_every_method_of_the_table(tmp_path: Path) -> None:
    split = ours.random_split(200, 100, 0)
    rows = parts.measure_parts(mini(tmp_path), "resnet14:resnet8", split=split, execution=FP32, budget=1e-9)
    names = [r["part"] for r in rows]
    assert names[:5] == [
        "data, naive",
        "data, ours",
        "teacher pass, logits",
        "teacher cache, built",
        "teacher cache, read",
    ]
    assert names[-2:] == ["loss kd", "loss sskd"]


@pytest.mark.parametrize("method", ["plain", "kd", "at", "rkd", "crd", "tfkd_self"])
def test_a_few_steps_in_bf16_stay_near_fp32(method: str) -> None:
    rows = drift.measure(ours.small_run(method), drift.Reference(8), Execution("cpu", "bf16", threads=1))
    assert rows["within"], rows


def test_a_saved_reference_gives_the_same_row(tmp_path: Path) -> None:
    run, bf16 = ours.small_run("kd"), Execution("cpu", "bf16", threads=1)
    reference = drift.Reference(4)
    reference.add(run, False)
    reference.save(tmp_path / "reference.pt")
    again = drift.Reference.load(tmp_path / "reference.pt", 4)
    assert drift.measure(run, again, bf16) == drift.measure(run, drift.Reference(4), bf16)
    with pytest.raises(InputError, match="has 4 steps; give --steps 4"):
        drift.Reference.load(tmp_path / "reference.pt", 8)
    (tmp_path / "other.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is not a reference of `bench drift`"):
        drift.Reference.load(tmp_path / "other.pt", 4)


def test_biases_equal_those_of_drift_and_differ_by_seed() -> None:
    run = ours.small_run("kd")
    rows = drift.biases(run, 4)
    bf16 = Execution("cpu", "bf16", threads=torch.get_num_threads())
    assert rows["bf16"] == drift.measure(run, drift.Reference(4), bf16)["bias"]
    assert abs(rows["moved"]) > 0
    assert drift.biases(ours.small_run("kd", seed=1), 4) != rows


def test_a_row_names_an_unusual_student() -> None:
    assert drift.row_name(ours.small_run("plain"), init=False) == "plain"
    assert drift.row_name(ours.small_run("plain", student="vgg8"), init=False) == "plain, vgg8"


def test_gap_compares_step_by_step_and_bias_compares_means() -> None:
    assert drift.compare([1.0, 3.0], [2.0, 2.0]) == {"gap": 0.5, "bias": 0.0}
    assert drift.compare([3.0, 3.0], [2.0, 2.0]) == {"gap": 0.5, "bias": 0.5}


SMALL = ["--images", "200", "--threads", "1", "--budget", "0.001"]


def test_cells_are_measured_by_default_and_written_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    argv = ["--tables", mini(tmp_path), *SMALL, "--repeats", "1", "--json", str(file)]
    assert main(["bench", *argv]) == 0
    out = capsys.readouterr().out
    assert "resnet14:resnet8" in out and "torch" in out and "geometric mean" in out
    report = json.loads(file.read_text())
    (row,) = report["cells"]
    assert row["methods"] == ["kd", "sskd"] and row["pack"]["students"] == 2 and row["pack"]["ratio"] > 0
    assert {"precision", "threads", "cores_allowed", "versions", "device_name"} <= set(report["conditions"])
    assert set(report["geometric_means"]) == {row["table"]}


def test_students_are_measured_and_plotted(tmp_path: Path) -> None:
    file, plot = tmp_path / "a.json", tmp_path / "p.png"
    argv = ["--tables", mini(tmp_path), *SMALL, "--repeats", "1", "--json", str(file), "--plot", str(plot)]
    assert main(["bench", "students", "--counts", "1,2", *argv]) == 0
    assert plot.stat().st_size > 1000
    (measured,) = json.loads(file.read_text())["students"]
    assert [r["students"] for r in measured["rows"]] == [1, 2]


def test_a_saved_reference_is_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, file = str(tmp_path / "reference.pt"), tmp_path / "a.json"
    argv = ["bench", "drift", "--methods", "kd", "--steps", "4", "--threads", "1", "--device", "cpu"]
    assert main([*argv, "--save", reference]) == 0
    assert "within" not in capsys.readouterr().out
    assert main([*argv, "--reference", reference, "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["drift"]
    assert row["method"] == "kd" and row["within"] and "4 steps" in capsys.readouterr().out


def test_biases_are_paired_over_seeds(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    argv = ["--methods", "kd", "--steps", "2", "--seeds", "2", "--threads", "1", "--json", str(file)]
    assert main(["bench", "biases", *argv]) == 0
    rows = json.loads(file.read_text())["biases"]
    assert [(r["method"], r["of"], sorted(r["percent"])) for r in rows] == [
        ("kd", "bf16", ["0", "1"]),
        ("kd", "moved", ["0", "1"]),
    ]


WRONG = [
    ["--pairs", "resnet8:resnet9"],
    ["--pairs", "nope"],
    ["--tables", "nope"],
    ["--tables", ","],
    ["--repeats", "0"],
    ["--budget", "0"],
    ["--images", "1"],
    ["--json", "no-such-folder/x.json"],
    ["--precision", "fp7"],
    ["--threads", "-1"],
    ["--device", "cuda"],
    ["--device", "nope"],
    ["students", "--counts", "0"],
    ["students", "--counts", "a"],
    ["students", "--counts", ","],
    ["students", "--counts", "1", "--plot", "x.gif"],
    ["drift", "--methods", "nope"],
    ["drift", "--methods", "sskd_head"],
    ["finals", "--seeds", "1"],
    ["verdicts", "--draws", "0"],
]

MISPLACED = [
    ["parts", "drift"],
    ["--budget", "3", "parts"],
    ["--plot", "x.png"],
    ["--methods", "kd"],
    ["parts", "--methods", "kd"],
    ["finals", "--steps", "3"],
    ["biases", "--save", "x.pt"],
    ["nope"],
    ["--budget", "nan"],
    ["students", "--counts", ""],
]
"""Options and names that belong to another measurement, or to none, and a value that no option takes."""


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_wrong_input_is_one_line_and_exit_code_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if wrong == ["--device", "cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", *wrong]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("wrong", MISPLACED, ids=" ".join)
def test_an_option_of_another_measurement_is_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *wrong])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert "(see python -m benchmark bench" in error


def test_help_lists_the_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["bench", "--help"], ["bench", "-h"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        out = capsys.readouterr().out
        assert stop.value.code == 0
        for measurement in (
            *("cells", "parts", "students", "compile", "drift", "biases", "finals", "gpu", "verdicts"),
        ):
            assert f"\n    {measurement} " in out


def test_bench_takes_the_variables_of_the_other_verbs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make bench PRECISION=fp32` does."""
    given = {"DEVICE": "cpu", "PRECISION": "fp32", "THREADS": "3", "STUDENT_THREADS": "2"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for argv in (["bench"], ["bench", "parts"]):
        args = parser().parse_args(argv)
        assert (args.device, args.precision, args.threads, args.student_threads) == ("cpu", "fp32", 3, 2)
    assert parser().parse_args(["bench", "--threads", "1"]).threads == 1
    for name, wrong in (
        ("PRECISION", "fp7"),
        ("DEVICE", "nope"),
        ("THREADS", "-1"),
        ("STUDENT_THREADS", "0"),
    ):
        monkeypatch.setenv(name, wrong)
        test_wrong_input_is_one_line_and_exit_code_2([], capsys)
        monkeypatch.setenv(name, given[name])


def test_the_peak_includes_a_large_block() -> None:
    clock.start_peak("cpu")
    block = torch.ones(64, 1024, 1024)
    peak = clock.peak_bytes("cpu")
    assert peak is None or peak > block.nbytes
    assert clock.conditions(Execution("cpu", "fp32"))["cores_allowed"] >= 1
