"""Estimates for images of ImageNet's size: arithmetic, decoding, several GPUs."""

from __future__ import annotations

import pytest

from benchmark import measures
from benchmark.spec import cost, decoding, matrix, plan
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run, TeacherRef, network_on

TRAIN, EPOCHS = 1_281_167, 100
PAIR = ("resnet34_imagenet", "resnet18_imagenet")


def run(method: str, dataset: str = "imagenet", pair: tuple[str, str] = PAIR) -> Run:
    return Resolver().run(Request(dataset, "imagenet", "paper", *pair, method), 0)


def test_a_pass_costs_what_the_images_size_says() -> None:
    large, small = (network_on("resnet18_imagenet", name) for name in ("imagenet", "cifar100"))
    assert large.size == 224 and small.size == 32
    assert large.macs == pytest.approx(49 * small.macs, rel=0.02)
    student = next(cost.student_passes(run("kd")))
    assert cost.macs([student], "imagenet") == pytest.approx(3 * TRAIN * EPOCHS * large.macs)


def test_the_rotated_views_cost_four_times_the_normal_one() -> None:
    student = [next(cost.student_passes(run(method))).images for method in ("kd", "dlkd")]
    assert student[1] == 4 * student[0] == 4 * TRAIN * EPOCHS


def test_arithmetic_limits_large_images_on_a_gpu() -> None:
    runs = [run("kd")]
    total = cost.macs(cost.pack_passes(runs), "imagenet")
    assert cost.pack_seconds(runs, "cuda") == pytest.approx(total * decoding.LARGE_MAC)


def test_a_pack_takes_as_long_as_its_images_are_decoded() -> None:
    """Decoding is shared by a pack: it limits one plain run of a small network, not a pack of many."""
    small = run("plain", pair=("none", "shufflev2_imagenet"))
    decoded = TRAIN * EPOCHS / (decoding.IMAGES_PER_CORE * decoding.CORES["cuda"])
    assert decoding.decode_seconds([small], "cuda") == pytest.approx(decoded)
    assert cost.pack_seconds([small], "cuda") == pytest.approx(decoded)
    assert cost.estimate([[small]], "cuda").decode_hours == pytest.approx(decoded / 3600)
    pack = [run(m) for m in ("kd", "at", "sp", "dlkd")]
    assert decoding.decode_seconds(pack, "cuda") == pytest.approx(decoded)
    assert cost.pack_seconds(pack, "cuda") > decoded
    assert cost.estimate([pack], "cuda").decode_hours == 0


@pytest.mark.parametrize(("protocol", "epochs"), [("seed", 100), ("cached", 0)])
def test_a_probe_decodes_its_training_images_in_every_epoch(protocol: str, epochs: int) -> None:
    """And once for the neighbours. Test images are decoded once for all runs."""
    trained, rate = run("kd"), decoding.IMAGES_PER_CORE * decoding.CORES["cuda"]
    probes = [
        Resolver().measuring(
            TeacherRef(trained.student, run=trained),
            measures.parse("probe", {"protocol": protocol, "size": 0}, target),
            trained,
        )
        for target in ("imagenet", "tinyimagenet")
    ]
    assert decoding.decode_seconds(probes[:1], "cuda") == pytest.approx((1 + epochs) * TRAIN / rate)
    assert decoding.decode_seconds(probes[:1] * 2, "cuda") == pytest.approx(2 * (1 + epochs) * TRAIN / rate)
    assert decoding.decode_seconds(probes[1:], "cuda") == 0, "they are held in memory"


def test_images_in_memory_are_not_decoded() -> None:
    assert decoding.decode_seconds([run("kd", "cifar100")], "cuda") == 0
    assert decoding.assumptions("cifar100", 10.0, 0.0) == []


def test_a_plan_says_what_the_table_costs_on_one_and_on_eight_gpus() -> None:
    table = matrix.load_table("dlkd-table3")
    planned = plan.make_plan(list(matrix.expand(table, "paper").runs), None)
    numbers = plan.summary(planned, "cuda")
    lines = " ".join(numbers["large_images"])
    hours = numbers["gpu_hours"]
    assert f"about {hours / 7.2:.1f} hours, {hours / 0.9:.1f} GPU-hours" in lines
    assert "images of 224 pixels: not measured, 55 TFLOP/s assumed" in lines and "(1" in lines
    assert "large_images" not in plan.summary(planned, "cpu")
