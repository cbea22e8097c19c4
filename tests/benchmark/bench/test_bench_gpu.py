"""`bench gpu`: parts are kept, a call stops in time and the next one goes on; no test needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_kit import FP32

from benchmark.__main__ import main
from benchmark.bench import cells, drift, gpu, ours
from benchmark.bench.session import Part, Session
from benchmark.errors import InputError

CONDITIONS: dict[str, Any] = {"device_name": "a", "precision": "fp32", "versions": {}, "git": {"commit": "c"}}


class Clock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.time = 0.0
        self.measured: list[str] = []

    def __call__(self) -> float:
        return self.time

    def part(self, name: str, seconds: float) -> Part:
        def measure() -> dict[str, Any]:
            self.time += seconds
            self.measured.append(name)
            return {"of": name}

        return Part(name, measure)


def test_a_call_ends_in_time_and_the_next_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    parts = [clock.part(n, s) for n, s in (("norms", 5), ("pack: a:b", 30), ("pack: c:d", 20), ("last", 1))]
    session = Session(tmp_path, CONDITIONS, now=clock)
    left = session.run(parts, seconds=60)
    # After 35 s, a second pack of up to 30 s would end after 60.
    assert [p.name for p in left] == ["pack: c:d", "last"] and clock.measured == ["norms", "pack: a:b"]
    assert session.result(parts[1]) == {"of": "pack: a:b"}
    again = Session(tmp_path, CONDITIONS, now=clock)
    assert again.run(parts, seconds=29) == left  # it knows from the file how long a pack takes
    assert again.run(parts, seconds=31) == [parts[3]] or clock.measured[-1] == "last"
    assert again.run(parts, seconds=31) == [] and clock.measured == [p.name for p in parts]


@pytest.mark.parametrize("field", ["device_name", "precision", "versions", "git"])
def test_parts_of_other_conditions_are_not_mixed(tmp_path: Path, field: str) -> None:
    part = Clock().part("norms", 1)
    Session(tmp_path, CONDITIONS).run([part], seconds=9)
    with pytest.raises(InputError, match="give an empty folder"):
        Session(tmp_path, {**CONDITIONS, field: "other"}).run([part], seconds=9)


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "norms.json").write_text("[]")
    with pytest.raises(InputError, match=r"norms\.json is not a part"):
        Session(tmp_path, CONDITIONS).run([Clock().part("norms", 1)], seconds=9)


def test_the_parts_measure_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pair_runs", lambda table, pair: [ours.small_run("kd"), ours.small_run("at")])
    split = ours.random_split(128, 10, seed=0)
    parts = gpu.parts(
        split,
        FP32,
        reference=drift.Reference(2),
        effort=cells.Effort(1, 0.01),
        pairs=[("crd-table1", "resnet56:resnet20")],
        methods=["kd"],
    )
    session = Session(tmp_path, CONDITIONS)
    assert session.run(parts, seconds=600) == []
    norms, kd, pack, launches = (session.result(p) for p in parts)
    assert norms == {"error": "the device is a CPU", "trials": []}
    assert kd is not None and [r["precision"] for r in kd["rows"]] == ["bf16"] and kd["rows"][0]["within"]
    assert pack is not None and pack["methods"] == ["kd", "at"] and "with" not in pack  # fp32 has no kernels
    assert pack["without"]["images_per_second"] > 0 and pack["modelled_ms"] > 0
    assert launches is not None and launches["students"] == 2
    names = {row["name"]: row["launches"] for row in launches["by_name"]}
    assert launches["launches"] > sum(names.values()) > 0


def test_the_hours_are_the_models_times_the_measured_ratio() -> None:
    packs = [
        {"modelled_ms": 10.0, "without": {"step_ms": 20.0}, "with": {"step_ms": 10.0}},
        {"modelled_ms": 10.0, "without": {"step_ms": 5.0}},
    ]
    hours = gpu.table_hours(packs, "cuda")
    assert hours["without"]["factor"] == pytest.approx(1.0)  # the geometric mean of 2 and 1/2
    assert hours["with"]["factor"] == pytest.approx(1.0) and set(gpu.TABLES) < hours["with"].keys()
    assert gpu.table_hours(packs[:1], "cuda")["without"]["crd-table1"] == pytest.approx(
        2 * hours["with"]["crd-table1"]
    )


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--minutes", "0"], ["--only", "nonsense"], ["--reference", str(tmp_path / "no.pt")]):
        assert main(["bench", "gpu", str(tmp_path), "--device", "cpu", "--images", "200", *argv]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: "), json.dumps(argv)
