"""Which teachers get a teacher cache: it must save more of the passes that are left than it costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_kit import small_run

from benchmark.__main__ import main
from benchmark.data.views import VARIANTS
from benchmark.errors import InputError
from benchmark.spec import teacher_cache_rule
from benchmark.spec.runs import Run
from benchmark.training import teacher_cache
from benchmark.work.order import WorkSettings
from results.files import write_json
from results.store import Store


def packs(*methods: str, epochs: int = 240, seeds: int = 1) -> list[list[Run]]:
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
    (name,) = {teacher_cache_rule.teacher_identity(p) for p in planned}
    assert teacher_cache_rule.passes_saved(planned).get(name, 0) == saved
    auto = teacher_cache_rule.cached_teachers("auto", planned, "bf16")
    assert auto == ({name} if saved > VARIANTS else frozenset())
    assert teacher_cache_rule.cached_teachers("auto", planned, "fp32") == frozenset(), "fp32 is the reference"
    assert teacher_cache_rule.cached_teachers("off", planned, "bf16") == frozenset()
    can_read = {"kd", "crd", "rkd"} & set(methods)
    assert teacher_cache_rule.cached_teachers("on", planned, "fp32") == ({name} if can_read else frozenset())


def test_a_cache_that_is_too_large_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = packs("kd")
    assert teacher_cache_rule.file_bytes(planned[0][0], "logits", "bf16") == 48 * 162 * 10 * 2
    monkeypatch.setattr(teacher_cache_rule, "LARGEST_FILE", 1000.0)
    assert teacher_cache_rule.cached_teachers("auto", planned, "bf16") == frozenset()


def test_an_unknown_mode_is_an_input_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="auto, on, off"):
        teacher_cache_rule.cached_teachers("sometimes", packs("kd"), "fp32")
    assert main(["run", "crd-table1", "--profile", "quick", "--teacher-cache", "sometimes"]) == 2
    assert capsys.readouterr().err.count("error:") == 1


def chosen(planned: list[list[Run]], device: str = "cpu", **options: object) -> bool:
    teachers = teacher_cache_rule.cached_teachers("auto", planned, "bf16", device=device, **options)  # type: ignore[arg-type]
    return bool(teachers)


def test_a_cpu_needs_a_margin() -> None:
    """A build on a CPU takes 1.08 to 1.12 times as long as the passes that it holds."""
    assert VARIANTS * 1.25 == 202.5
    assert [chosen(packs("kd", epochs=n)) for n in (163, 202, 203)] == [False, False, True]
    assert [chosen(packs("kd", epochs=n), "cuda") for n in (162, 163)] == [False, True]


def test_epochs_after_until_are_not_counted() -> None:
    """Two epochs of the published schedule with five seeds read 10 passes, not 1,200."""
    planned = packs("kd", seeds=5)
    (teacher,) = {teacher_cache_rule.teacher_identity(p) for p in planned}
    assert teacher_cache_rule.passes_saved(planned) == {teacher: 1200}
    assert teacher_cache_rule.passes_saved(planned, until=2) == {teacher: 10}
    assert chosen(planned) and not chosen(planned, until=2)
    assert chosen(planned, until=60), "5 x 60 passes"


def test_only_the_epochs_that_are_left_are_counted() -> None:
    planned = packs("kd")
    assert chosen(planned, epochs_done=lambda run: 30)
    assert not chosen(planned, epochs_done=lambda run: 40), "200 passes are left"
    assert chosen(planned, epochs_done=lambda run: 100, until=None, built=lambda run, parts: 0.5)


def test_runs_that_are_behind_catch_up_without_those_that_need_feature_maps() -> None:
    """KD has 40 epochs done, AT 150: while KD catches up alone, the cache serves the pack."""
    planned = packs("kd", "at")
    done = {"kd": 40, "at": 150}
    (saved,) = teacher_cache_rule.passes_saved(planned, epochs_done=lambda run: done[run.method]).values()
    assert saved == 110


def test_what_exists_of_a_cache_costs_nothing() -> None:
    planned = packs("kd", epochs=30)
    assert [chosen(planned, built=lambda run, parts, s=s: s) for s in (0.0, 0.5, 0.85, 0.9, 1.0)] == [
        False, False, False, True, True,
    ]  # fmt: skip
    assert not chosen(packs("at"), built=lambda run, parts: 1.0), "nothing of it would be read"


def test_packs_that_read_other_parts_each_build_theirs() -> None:
    logits, both = packs("kd", epochs=150), packs("kd", "rkd", epochs=150)
    assert list(teacher_cache_rule.passes_to_build(logits * 2).values()) == [162]
    assert list(teacher_cache_rule.passes_to_build(logits + both).values()) == [324]
    assert chosen(logits * 2) and not chosen(logits + both)


def test_a_cache_needs_room() -> None:
    planned = packs("kd")
    needed = teacher_cache_rule.file_bytes(planned[0][0], "logits", "bf16")
    assert chosen(planned, free_bytes=needed) and not chosen(planned, free_bytes=needed - 1)
    assert chosen(planned, free_bytes=0, built=lambda run, parts: 1.0)


def test_a_worker_counts_what_is_left_in_its_results_folder(tmp_path: Path) -> None:
    (run,) = packs("kd")[0]
    settings = WorkSettings(results=tmp_path, data=tmp_path)

    def chosen_here(until: int | None = None) -> bool:
        return bool(settings.cached_teachers([[run]], device="cpu", precision="bf16", until=until))

    assert chosen_here() and not chosen_here(until=2)
    folder = Store(tmp_path).path(run.key)
    write_json(folder / "progress.json", {"stage": "main", "epoch": 100})
    assert chosen_here(), "without a checkpoint the run begins anew"
    (folder / "checkpoint.pt").write_bytes(b"")
    assert not chosen_here()
    write_json(folder / "progress.json", {"stage": "init:fsp", "epoch": 100})
    assert chosen_here(), "an initialisation stage is before the first epoch of the main stage"
    cache = tmp_path / teacher_cache.FOLDER / "x.logits.float16.index"
    cache.parent.mkdir()
    teacher = teacher_cache_rule.teacher_identity([run])
    header = {"teacher": teacher, "device": "cpu", "precision": "bf16", "part": "logits"}
    write_index(cache, {**header, "rows": 48 * VARIANTS, "block_rows": 4 * VARIANTS}, blocks=12)
    assert chosen_here(until=2), "the cache is complete"
    write_index(cache, {**header, "rows": 64 * VARIANTS, "block_rows": 4 * VARIANTS}, blocks=16)
    assert not chosen_here(until=2), "that cache is of other images"
    write_index(cache, {**header, "device": "cuda", "rows": 48 * VARIANTS, "block_rows": 648}, blocks=12)
    assert not chosen_here(until=2), "that cache is of another kind of device"


def write_index(path: Path, header: dict[str, object], blocks: int) -> None:
    lines = [json.dumps(header), *(f"{b} {'0' * 32}" for b in range(blocks)), ""]
    path.write_text("\n".join(lines))
