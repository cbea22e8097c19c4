"""The teacher cache: equal to the live pass up to rounding, chosen by a rule, recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import FP32, small_run, train

from benchmark.__main__ import main
from benchmark.bench.ours import build_teacher, random_split
from benchmark.data.stream import Stream
from benchmark.data.views import NORMAL, PAD, SECOND, VARIANTS, every_variant, is_crop_flip, variant
from benchmark.errors import InputError
from benchmark.spec import plan, teacher_cache_rule
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import teacher_cache
from benchmark.training.execution import Execution, ExecutionRequest
from benchmark.training.lockstep import Lockstep
from benchmark.training.teacher_cache import TeacherCache
from benchmark.work import local, order
from results.store import Store


def tiny_run(method: str) -> Run:
    """One epoch of eight images (the cache has 162 outcomes of each)."""
    settings = (
        ("recipe.epochs", 1),
        ("recipe.test_images", 20),
        ("recipe.train_images", 8),
        ("recipe.batch_size", 4),
    )
    return Resolver().run(Request("digits", "crd", "quick", "resnet8", "resnet8", method, settings), 0)


BF16 = Execution("cpu", "bf16", threads=1)


def test_every_outcome_has_one_number() -> None:
    assert VARIANTS == 162 and torch.equal(variant(every_variant()), torch.arange(VARIANTS))
    draws = NORMAL.draw(5000, torch.Generator().manual_seed(0))
    assert torch.equal(every_variant()[variant(draws)], draws) and int(draws[:, :2].max()) == 2 * PAD
    assert is_crop_flip(NORMAL) and is_crop_flip(SECOND)


@pytest.mark.parametrize("execution", [FP32, BF16], ids=lambda e: e.precision)
def test_the_cache_equals_the_live_pass_up_to_rounding(execution: Execution, tmp_path: Path) -> None:
    split = random_split(9, 10, seed=0)
    teacher = build_teacher(small_run("kd"), execution)
    stream = Stream(
        split,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        sampler=small_run("kd").spec.sampler,
        batch_size=5,
        drop_last=False,
        seed=3,
    )
    normalise = (stream.mean, stream.std)
    parts = frozenset({"logits", "embedding"})
    cache = TeacherCache.open(tmp_path, teacher, split, normalise, execution, parts)
    rounding = {"fp32": {"rtol": 1e-5, "atol": 1e-5}, "bf16": {"rtol": 0.02, "atol": 0.02}}[
        execution.precision
    ]
    live = Lockstep([], teacher, execution)
    for epoch in (1, 2, 3):
        for batch in stream.epoch("main", epoch, [NORMAL, SECOND]):
            for view in (NORMAL, SECOND):
                cached = cache.features(batch.indices, batch.draws[view.name])
                expected = live.teacher_pass(batch.views[view.name], parts)
                torch.testing.assert_close(cached.logits, expected.logits, **rounding)
                torch.testing.assert_close(cached.embedding, expected.embedding, **rounding)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) == 2 and not any("claim" in f for f in files)
    before = (tmp_path / files[0]).stat().st_mtime_ns
    TeacherCache.open(tmp_path, teacher, split, normalise, execution, parts)
    assert (tmp_path / files[0]).stat().st_mtime_ns == before, "the cache was built twice"


def test_another_teacher_or_other_images_have_another_cache(tmp_path: Path) -> None:
    a, b = random_split(4, 10, seed=0), random_split(4, 10, seed=1)
    normalise = (torch.zeros(3), torch.ones(3))
    teacher, other = (
        build_teacher(small_run("kd"), FP32),
        build_teacher(small_run("kd", teacher="resnet20"), FP32),
    )
    for net, split in ((teacher, a), (teacher, b), (other, a)):
        TeacherCache.open(tmp_path, net, split, normalise, FP32, frozenset({"logits"}))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_losses_are_the_same_with_the_cache(tmp_path: Path) -> None:
    """kd and rkd read the cache; at, packed with them, gets a live pass."""
    runs = [tiny_run(m) for m in ("kd", "rkd", "at")]
    train(runs, tmp_path / "live")
    teacher = runs[0].teacher_ref
    assert teacher is not None
    train(runs, tmp_path / "cached", cached_teachers=frozenset({teacher.identity}))
    for run, state in zip(runs, ("on", "on", "off"), strict=True):
        live, cached = (Store(tmp_path / f).record(run.key) for f in ("live", "cached"))
        assert live is not None and cached is not None
        assert (live["teacher_cache"], cached["teacher_cache"]) == ("off", state)
        curves = [Store(tmp_path / f).curve(run.key) for f in ("live", "cached")]
        assert curves[0] is not None and curves[1] is not None
        # the teacher is bit-equal in both; only the batches of its passes differ, and thus their rounding
        assert curves[0]["train_loss"].to_numpy() == pytest.approx(
            curves[1]["train_loss"].to_numpy(), rel=1e-4
        )


def packs(*methods: str, epochs: int = 240, seeds: int = 1) -> list[list[object]]:
    return [[small_run(m, seed=s, recipe__epochs=epochs) for m in methods] for s in range(seeds)]


@pytest.mark.parametrize(
    ("methods", "epochs", "seeds", "saved"),
    [
        (("kd", "crd", "rkd"), 240, 1, 240),
        (("kd",), 15, 5, 75),
        (("kd",), 15, 11, 165),
        (("kd", "at"), 240, 1, 0),
        (("sskd",), 240, 1, 0),
        (("ab",), 240, 1, 0),
        (("at",), 240, 5, 0),
    ],
)
def test_the_rule_counts_the_passes_saved(
    methods: tuple[str, ...], epochs: int, seeds: int, saved: int
) -> None:
    planned = packs(*methods, epochs=epochs, seeds=seeds)
    (name,) = {teacher_cache_rule.teacher_identity(p) for p in planned}  # type: ignore[arg-type]
    assert teacher_cache_rule.passes_saved(planned).get(name, 0) == saved  # type: ignore[arg-type]
    auto = teacher_cache_rule.cached_teachers("auto", planned, "bf16")  # type: ignore[arg-type]
    assert auto == ({name} if saved > VARIANTS else frozenset())
    assert teacher_cache_rule.cached_teachers("auto", planned, "fp32") == frozenset(), "fp32 is the reference"  # type: ignore[arg-type]
    assert teacher_cache_rule.cached_teachers("off", planned, "bf16") == frozenset()  # type: ignore[arg-type]
    can_read = {"kd", "crd", "rkd"} & set(methods)
    assert teacher_cache_rule.cached_teachers("on", planned, "fp32") == ({name} if can_read else frozenset())  # type: ignore[arg-type]


def test_a_cache_that_is_too_large_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = packs("kd")
    assert teacher_cache_rule.file_bytes(planned[0][0], "logits", "bf16") == 128 * 162 * 10 * 2  # type: ignore[arg-type]
    monkeypatch.setattr(teacher_cache_rule, "LARGEST_FILE", 1000.0)
    assert teacher_cache_rule.cached_teachers("auto", planned, "bf16") == frozenset()  # type: ignore[arg-type]


def test_a_plan_with_the_cache_on_leaves_it_in_the_results(tmp_path: Path) -> None:
    run = tiny_run("kd")
    store = Store(tmp_path)
    fp32 = ExecutionRequest(device="cpu", precision="fp32", threads=1)
    settings = order.WorkSettings(results=tmp_path, data=tmp_path, teacher_cache="on", execution=fp32)
    outcomes = local.run_plan(plan.make_plan([run], store), settings)
    assert {o.status for o in outcomes} == {"done"}
    record = store.record(run.key)
    assert record is not None and record["teacher_cache"] == "on"
    assert len(list((tmp_path / teacher_cache.FOLDER).iterdir())) == 1


def test_an_unknown_mode_is_an_input_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="auto, on, off"):
        teacher_cache_rule.cached_teachers("sometimes", packs("kd"), "fp32")  # type: ignore[arg-type]
    assert main(["run", "crd-table1", "--profile", "quick", "--teacher-cache", "sometimes"]) == 2
    assert capsys.readouterr().err.count("error:") == 1
