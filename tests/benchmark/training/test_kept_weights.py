"""The weights that finished runs keep are those of their records, and are checked before they teach."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cli_kit import refused
from training_kit import SMALL_OPTIONS, small_run, train

import models
from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.training import kept_weights
from benchmark.training.checkpoint import Damaged
from benchmark.training.run_files import RunFiles
from benchmark.work.checks import require_trainable
from results.store import Store

SIMKD = small_run("simkd", recipe__epochs=1)
(HEAD,) = small_run("sskd", recipe__epochs=1).heads


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a teacher, its head, and a student that predicts with modules of its method."""
    folder = tmp_path_factory.mktemp("trained")
    assert [o.status for run in (SIMKD, HEAD) for o in train([run], folder)] == ["done", "done"]
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def files(folder: Path) -> list[tuple[str, str]]:
    """Return `(key, name)` of every file of weights below the folder."""
    return sorted((p.parent.relative_to(folder).as_posix(), p.stem) for p in folder.rglob("*.pt"))


def flip(path: Path) -> None:
    """Flip one bit in the first tensor of a file, which then can be read as before."""
    before = torch.load(path, weights_only=True)
    content = path.read_bytes()
    tensor = next(t for t in before.get("model", before).values() if t.is_floating_point())
    at = content.index(tensor.numpy().tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def test_every_file_of_weights_has_its_hash_in_the_record(folder: Path) -> None:
    store = Store(folder)
    assert {name for _, name in files(folder)} == set(kept_weights.FILES)
    for key, name in files(folder):
        stated = kept_weights.expected(store, key, name)
        kept_weights.check_file(store, key, name)
        if name != "state" and key != SIMKD.key:
            content = torch.load(folder / key / f"{name}.pt", weights_only=True)
            assert stated == models.weights_hash(content["model"])
        flip(folder / key / f"{name}.pt")
        with pytest.raises(Damaged, match=f"{name}.pt is damaged"):
            kept_weights.check_file(store, key, name)
    for run in (SIMKD, HEAD):
        record, (teacher,) = store.record(run.key), run.needs_runs
        assert record is not None
        assert record["teacher_info"]["weights"] == kept_weights.expected(store, teacher.key, "last")


def test_the_modules_that_a_method_predicts_with_are_checked_too(folder: Path) -> None:
    path = folder / SIMKD.key / "last.pt"
    content = torch.load(path, weights_only=True)
    tensor = next(t for t in content["at_test_simkd"].values() if t.is_floating_point())
    tensor.view(-1)[0] += 1
    torch.save(content, path)
    with pytest.raises(Damaged, match=r"last\.pt is damaged \(its weights have the hash"):
        kept_weights.check_file(Store(folder), SIMKD.key, "last")


@pytest.mark.parametrize("name", ["last", "state"])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_nothing_is_learnt_from_damaged_weights(folder: Path, name: str, damage: str) -> None:
    """A worker fails the runs that need them; a command is refused before it trains anything."""
    run = small_run("sskd", "wrn_16_1", recipe__epochs=1)
    (key,) = (r.key for r in run.needs_runs if (r.student == "none") == (name == "state"))
    path = folder / key / f"{name}.pt"
    flip(path) if damage == "flipped" else path.unlink()
    with pytest.raises(InputError, match=f"{path} is damaged") as refusal:
        require_trainable([run], Store(folder), accept_edit=False)
    assert f"restore the file, or remove {path.parent} (`clean --damaged`" in str(refusal.value)
    (outcome,) = train([run], folder)
    assert outcome.status == "failed" and str(path) in outcome.reason and "\n" not in outcome.reason


def test_a_teacher_is_removed_by_clean_and_trained_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (teacher,) = SIMKD.needs_runs
    table = tmp_path / "t.toml"
    table.write_text(
        'title = "T"\npaper = "p"\ntable = "t"\ndataset = "digits"\nprotocol = "crd"\nseeds = 1\n'
        'columns = ["resnet14:resnet8"]\n[[rows]]\nlabel = "KD"\nmethod = "kd"\n'
    )
    small = [*SMALL_OPTIONS, "--set=recipe.epochs=1"]
    run = ["run", str(table), "--profile=quick", f"--results={folder}", "--precision=fp32", *small]
    clean = ["clean", "--damaged", f"--results={folder}"]
    assert main(clean) == 0 and capsys.readouterr().out == ""
    path = folder / teacher.key / "last.pt"
    best = folder / SIMKD.key / "best.pt"
    content = best.read_bytes()
    best.unlink()
    best.symlink_to(best.name)
    assert main([*clean, "--yes"]) == 0 and best.is_symlink()
    assert "its weights cannot be read: best.pt: Too many levels" in str(capsys.readouterr())
    best.unlink()
    best.write_bytes(b"garbage")
    with pytest.raises(Damaged, match=r"it is not a file that torch\.save wrote"):
        kept_weights.check_file(Store(folder), SIMKD.key, "best")
    best.write_bytes(content)
    stated = kept_weights.expected(Store(folder), teacher.key, "last")
    flip(path)
    assert f"{path} is damaged" in refused(run, capsys)
    assert main(clean[:1] + clean[2:]) == 0 and capsys.readouterr().out == "", "only on request"
    assert main([*clean, "--yes"]) == 0
    assert f"{teacher.key}: its weights do not fit its record: last.pt: " in capsys.readouterr().out
    assert not path.exists() and (folder / SIMKD.key / "record.json").exists()
    assert main([*run, "--threads=1"]) == 0
    assert kept_weights.expected(Store(folder), teacher.key, "last") == stated


def test_records_of_older_versions_state_no_hashes(folder: Path) -> None:
    store = Store(folder)
    (teacher,) = SIMKD.needs_runs
    record = store.record(teacher.key)
    assert record is not None
    store.write_record(teacher.key, {k: v for k, v in record.items() if k not in ("weights", "parts")})
    flip(store.path(teacher.key) / "last.pt")
    require_trainable([SIMKD], store, accept_edit=False)


def test_the_best_weights_fit_the_record_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between the checkpoint and best.pt leaves a checkpoint that is ahead of best.pt."""
    run = small_run("plain", recipe__epochs=1)
    path = tmp_path / run.key / "best.pt"

    def dies(files: RunFiles, active: object, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFiles, "save_weights", dies)
        train([run], tmp_path)
    assert path.with_name("checkpoint.pt").exists() and not path.exists()
    assert [o.status for o in train([run], tmp_path)] == ["done"]
    assert torch.load(path, weights_only=True)["epoch"] == 1
    assert kept_weights.expected(Store(tmp_path), run.key, "best")
    kept_weights.check_file(Store(tmp_path), run.key, "best")


def test_weights_that_are_not_kept_have_no_hash(folder: Path) -> None:
    run = small_run("at", recipe__epochs=1)
    train([run], folder, keep="none")
    record = Store(folder).record(run.key)
    assert record is not None and record["weights"] == {}


def test_a_teacher_whose_weights_are_not_finite_is_refused_before_training(folder: Path) -> None:
    store, (teacher,) = Store(folder), SIMKD.needs_runs
    path = store.path(teacher.key) / "last.pt"
    content = torch.load(path, weights_only=True)
    next(iter(content["model"].values())).view(-1)[0] = float("nan")
    torch.save(content, path)
    record = store.record(teacher.key)
    assert record is not None
    record["weights"]["last"] = models.weights_hash(content["model"])  # as if its training had ended so
    store.write_record(teacher.key, record)
    with pytest.raises(InputError, match=r"not finite .*so it cannot teach"):
        require_trainable([small_run("kd", recipe__epochs=1)], store, accept_edit=False)
