"""The teacher cache: equal to the live pass up to rounding, built once, continued, repaired, recorded."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from training_kit import FP32, small_run, train

from benchmark.bench.ours import build_teacher, random_split
from benchmark.data.stream import Stream
from benchmark.data.views import (
    NORMAL,
    PAD,
    SECOND,
    VARIANTS,
    RawBatch,
    every_variant,
    is_crop_flip,
    variant,
)
from benchmark.errors import InputError
from benchmark.spec import plan
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run
from benchmark.training import teacher_cache
from benchmark.training.cache_blocks import INDEX, index_path
from benchmark.training.execution import Execution, ExecutionRequest
from benchmark.training.lockstep import Lockstep
from benchmark.training.teacher_cache import TeacherCache
from benchmark.work import local, order
from results.claims import Claim
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
    split = random_split(5, 10, seed=0)
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
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4, "data and index of both parts, and no claim"
    before = [f.stat().st_mtime_ns for f in files]
    TeacherCache.open(tmp_path, teacher, split, normalise, execution, parts)
    assert [f.stat().st_mtime_ns for f in files] == before, "the cache was built twice"


def test_another_teacher_or_other_images_have_another_cache(tmp_path: Path) -> None:
    a, b = random_split(4, 10, seed=0), random_split(4, 10, seed=1)
    normalise = (torch.zeros(3), torch.ones(3))
    teacher, other = (
        build_teacher(small_run("kd"), FP32),
        build_teacher(small_run("kd", teacher="resnet20"), FP32),
    )
    for net, split in ((teacher, a), (teacher, b), (other, a)):
        TeacherCache.open(tmp_path, net, split, normalise, FP32, frozenset({"logits"}))
    assert len(list(tmp_path.glob("*.index"))) == 3


PASSES: dict[Execution, torch.Tensor] = {}
"""The results of `Building.passes`."""


@dataclass
class Building:
    """A cache of the logits of five images: two blocks, the second with one image."""

    folder: Path
    execution: Execution = FP32
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.split, self.normalise = random_split(5, 10, seed=0), (torch.zeros(3), torch.ones(3))
        self.teacher = build_teacher(small_run("kd", teacher="resnet8"), self.execution)

    def open(self, *parts: str) -> TeacherCache:
        return TeacherCache.open(
            self.folder,
            self.teacher,
            self.split,
            self.normalise,
            self.execution,
            frozenset(parts or {"logits"}),
            identity="key@last",
            seconds_of=lambda images: images / 10,
            note=self.notes.append,
        )

    def built(self) -> float:
        return teacher_cache.built_share(
            self.folder,
            identity="key@last",
            device="cpu",
            precision="fp32",
            parts=frozenset({"logits"}),
            train_images=5,
        )

    def file(self, part: str = "logits") -> Path:
        (path,) = self.folder.glob(f"*.{part}.*{INDEX}")
        return path.with_name(path.name.removesuffix(INDEX))

    def passes(self) -> torch.Tensor:
        """Return the logits of all outcomes, by passes over those of four images, 100 rows at a time."""
        if self.execution not in PASSES:
            rows = []
            for images in self.split.images.split(4):
                draws = every_variant().repeat(len(images), 1)
                empty = torch.empty(0)
                raw = RawBatch(images.repeat_interleave(VARIANTS, 0), empty, empty, *self.normalise)
                with torch.no_grad(), self.execution.autocast():
                    rows += [self.teacher(x) for x in NORMAL.make(raw, draws, draws).split(100)]
            PASSES[self.execution] = torch.cat(rows)
        return PASSES[self.execution]


@pytest.mark.parametrize("execution", [FP32, BF16], ids=lambda e: e.precision)
def test_the_values_are_those_of_passes_over_fixed_blocks(execution: Execution, tmp_path: Path) -> None:
    building = Building(tmp_path, execution)
    expected = building.passes().to(torch.float16 if execution is BF16 else torch.float32)
    assert torch.equal(building.open().parts["logits"], expected)
    assert torch.equal(building.open("embedding", "logits").parts["logits"], expected)
    (line, _) = building.notes
    assert "resnet8's logits: 810 images, " in line and line.endswith(" on disk, about 1 min")
    assert f"{5 * 162 * 10 * expected.element_size() / 1000:.0f} kB on disk" in line


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a complete cache of `Building`, to copy."""
    folder = tmp_path_factory.mktemp("complete")
    Building(folder).open()
    return folder


class Killed(BaseException):
    """Ends a build like a signal."""


@pytest.mark.parametrize("blocks", [0, 1])
def test_an_interrupted_build_goes_on_where_it_was(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = Building(tmp_path)
    outputs, done = teacher_cache._Builder._outputs, []

    def counted(self: object, block: int, parts: list[str]) -> dict[str, bytes]:
        if len(done) == blocks:
            raise Killed
        done.append(block)
        return outputs(self, block, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_cache._Builder, "_outputs", counted)
    with pytest.raises(Killed):
        building.open()
    assert not list(tmp_path.glob("*.claim"))
    assert building.built() == blocks * 4 / 5
    monkeypatch.setattr(teacher_cache._Builder, "_outputs", outputs)
    assert torch.equal(building.open().parts["logits"], building.passes())
    there = " (648 of 810 are there)" if blocks else ""
    assert f"{810 - blocks * 4 * 162:,} images{there}, " in building.notes[-1]
    assert building.built() == 1.0


def test_a_killed_build_loses_what_came_after_its_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the folder, made during the build, is what SIGKILL would leave (and a dead claim)."""
    outputs = teacher_cache._Builder._outputs

    def copy_before_the_last(self: object, block: int, parts: list[str]) -> dict[str, bytes]:
        if block == 1:
            shutil.copytree(tmp_path / "building", tmp_path / "killed")
        return outputs(self, block, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(teacher_cache, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(teacher_cache._Builder, "_outputs", copy_before_the_last)
    Building(tmp_path / "building").open()
    monkeypatch.setattr(teacher_cache._Builder, "_outputs", outputs)
    (claim,) = (tmp_path / "killed").glob("*.claim")
    claim.unlink()
    building = Building(tmp_path / "killed")
    assert torch.equal(building.open().parts["logits"], building.passes())
    assert "162 images (648 of 810 are there)" in building.notes[-1]


@pytest.mark.parametrize("damage", ["zeros", "bit", "cut"])
def test_a_damaged_block_is_named_and_computed_again(damage: str, tmp_path: Path, complete: Path) -> None:
    building = Building(shutil.copytree(complete, tmp_path / "copy"))
    raw = bytearray(building.file().read_bytes())
    block = 4 * 162 * 10 * 4
    if damage == "zeros":
        raw[block:] = bytes(len(raw) - block)
    elif damage == "bit":
        raw[-1] ^= 0x40
    else:
        raw = raw[:block]
    building.file().write_bytes(raw)
    assert torch.equal(building.open().parts["logits"], building.passes())
    assert f"{building.file().name}: block 1 of 2 is damaged, and computed again" in building.notes[0]
    assert "162 images (648 of 810 are there)" in building.notes[1] and len(building.notes) == 2


def test_a_cache_of_an_older_version_is_not_trusted(tmp_path: Path, complete: Path) -> None:
    """It has no checksums, so zeros in it could not be noticed."""
    building = Building(shutil.copytree(complete, tmp_path / "copy"))
    building.file().write_bytes(bytes(building.file().stat().st_size))
    index_path(building.file()).unlink()
    assert torch.equal(building.open().parts["logits"], building.passes())


def test_a_disk_that_does_not_keep_what_is_written_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_zeros(handle: int, data: bytes, start: int) -> int:
        return pwrite(handle, bytes(len(data)), start)

    pwrite = os.pwrite
    monkeypatch.setattr("benchmark.training.cache_blocks.os.pwrite", write_zeros)
    with pytest.raises(InputError, match="block 0 to 1 is damaged again right after it was written"):
        Building(tmp_path).open()


def test_a_second_process_waits_for_the_builder(
    tmp_path: Path, complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is held while another process builds; then its work is read and nothing is built twice."""
    building = Building(tmp_path)
    claim = Claim.take(tmp_path / f"{Building(complete).file().name.partition('.')[0]}.claim")
    assert claim is not None

    def build_elsewhere(seconds: float) -> None:
        shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
        claim.release()

    monkeypatch.setattr(teacher_cache.time, "sleep", build_elsewhere)
    assert torch.equal(building.open().parts["logits"], building.passes())
    (note,) = building.notes
    assert note.startswith(f"waiting for process {os.getpid()} on ") and "resnet8" in note


def test_a_builder_that_lost_its_claim_stops_and_reads_the_new_holders_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, taken_over = Building(tmp_path), []

    def not_mine(self: Claim) -> bool:
        taken_over.append(self)
        return len(taken_over) > 1

    monkeypatch.setattr(teacher_cache, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Claim, "mine", not_mine)
    assert torch.equal(building.open().parts["logits"], building.passes())
    assert len(taken_over) > 1


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


def test_a_plan_with_the_cache_on_leaves_it_in_the_results(tmp_path: Path) -> None:
    run = tiny_run("kd")
    store = Store(tmp_path)
    fp32 = ExecutionRequest(device="cpu", precision="fp32", threads=1)
    settings = order.WorkSettings(results=tmp_path, data=tmp_path, teacher_cache="on", execution=fp32)
    outcomes = local.run_plan(plan.make_plan([run], store), settings)
    assert {o.status for o in outcomes} == {"done"}
    record = store.record(run.key)
    assert record is not None and record["teacher_cache"] == "on"
    assert len(list((tmp_path / teacher_cache.FOLDER).iterdir())) == 2
