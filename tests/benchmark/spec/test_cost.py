"""The cost model, alone and beside measured times."""

from __future__ import annotations

import dataclasses

import pytest
from spec_kit import make_run

from benchmark.bench.ours import pair_runs
from benchmark.spec import cost
from benchmark.spec.runs import Run, network_info


def test_packs_share_the_cost_of_the_teacher() -> None:
    runs = [make_run(m, "resnet32x4:resnet8x4") for m in ("kd", "at", "sp", "crd")]
    together, apart = cost.estimate([runs], "cuda"), cost.estimate([[r] for r in runs], "cuda")
    teacher = cost.macs(cost.teacher_passes([cost.training_of(r) for r in runs]), "cifar100")
    assert apart.macs - together.macs == pytest.approx(3 * teacher)
    assert apart.hours > together.hours


def test_ab_runs_its_teacher_in_the_initialisation_stage_only() -> None:
    ab, kd = (
        cost.macs(cost.teacher_passes([cost.training_of(make_run(m))]), "cifar100") for m in ("ab", "kd")
    )
    assert ab == pytest.approx(30 / 240 * kd)


def test_moco_runs_its_momentum_encoder_beside_the_student() -> None:
    moco, plain = make_run("moco", "none:resnet20"), make_run("plain", "none:resnet20")
    passes = list(cost.student_passes(moco))
    images = moco.recipe.train_images * moco.recipe.epochs
    assert cost.Passes("resnet20", 1, images) in passes
    assert not any(p.per_image == 1 and p.images == images for p in cost.student_passes(plain))


def test_every_step_reads_and_writes_the_parameters() -> None:
    """Images in batches of 16 instead of 64 take longer, by four steps in the place of one."""
    large, small = (make_run("plain", "none:vgg8", overrides=(("recipe.batch_size", b),)) for b in (64, 16))
    images = 3 * 50_000 * 240 + 10_000 * 240
    longer = (1 / 16 - 1 / 64) * images * cost.RATES["cpu"].param * network_info("vgg8", 100).params
    assert longer > 0
    assert cost.pack_seconds([small], "cpu") - cost.pack_seconds([large], "cpu") == pytest.approx(longer)


def test_an_estimate_includes_the_start_of_the_command() -> None:
    runs = [make_run("kd")]
    assert cost.estimate([], "cpu").hours == 0
    assert 3600 * cost.estimate([runs], "cpu").hours == pytest.approx(
        cost.pack_seconds(runs, "cpu") + cost.START_SECONDS
    )


@pytest.mark.parametrize(
    ("table", "pair", "device", "ms"),
    [  # measured times of a step of the full pack, on an H100 (docs/speed.md) and on two cores
        ("crd-table1", "resnet56:resnet20", "cuda", 10.8),
        ("crd-table1", "wrn_40_2:wrn_16_2", "cuda", 12.0),
        ("crd-table2", "resnet32x4:ShuffleV1", "cuda", 34.0),
        ("crd-table2", "resnet32x4:ShuffleV2", "cuda", 23.6),
        ("crd-table1", "resnet56:resnet20", "cpu", 14 * 64e3 / 617),
        ("crd-table1", "wrn_40_2:wrn_16_2", "cpu", 14 * 64e3 / 318),
    ],
)
def test_the_cost_model_is_near_measured_times(table: str, pair: str, device: str, ms: float) -> None:
    runs = pair_runs(table, pair)
    steps = max(cost.steps(r) for r in runs if not r.init_epochs)
    assert 1000 * cost.pack_seconds(runs, device) / steps == pytest.approx(ms, rel=0.35)


def test_an_estimate_says_whether_records_were_used() -> None:
    assert "records here" in cost.assumptions("cuda", 1.0)
    assert "records here" not in cost.assumptions("cuda", None)


def test_a_student_alone_waits_for_its_own_kernels() -> None:
    """Two students take hardly longer than one: they fill each other's gaps. Many cost in proportion."""

    def step_seconds(runs: list[Run]) -> float:
        return cost.pack_seconds(runs, "cuda") / cost.steps(runs[0])

    plain, run = make_run("plain"), make_run("kd")
    many = [dataclasses.replace(run, seed=s) for s in range(16)]
    work = 64 * cost.RATES["cuda"].element * 3 * 200704
    assert step_seconds([plain]) > 2 * work
    assert step_seconds(many[:2]) < 1.2 * step_seconds(many[:1])
    assert step_seconds(many) == pytest.approx(2 * step_seconds(many[:8]), rel=0.15)
