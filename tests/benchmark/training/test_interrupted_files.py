"""An interruption between two files of an epoch loses none of them, and a halted worker replaces none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_kit import small_run, train

from benchmark.training import checkpoint, run_files
from benchmark.training.run_files import RunFiles
from results.store import Store

RUN = small_run("plain", recipe__epochs=1, recipe__train_images=16, recipe__test_images=10)
OTHER = small_run("plain", "resnet8x4", recipe__epochs=1, recipe__train_images=16, recipe__test_images=10)


def test_the_last_row_of_the_curve_survives_an_interruption_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write_curve", interrupted)
        train([RUN], tmp_path)
    assert [o.status for o in train([RUN], tmp_path)] == ["done"]
    curve = Store(tmp_path).curve(RUN.key)
    assert curve is not None and list(curve["epoch"]) == [1]


@pytest.mark.parametrize("moment", ["begin", "weights", "write_epoch", "finish"])
def test_a_worker_that_is_halted_while_it_writes_leaves_its_run(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new holder has removed the temporary file. The other run of the pack is not affected."""
    owner = run_files.models if moment == "weights" else RunFiles
    name = "save_weights" if moment == "weights" else moment
    original = getattr(owner, name)

    def halted(first: object, *more: object, **options: object) -> object:
        if RUN.key in (options.get("key"), getattr(getattr(first, "run", None), "key", None)):
            claim = {"token": "another", "host": "elsewhere", "pid": 7, "started": "1"}
            (tmp_path / RUN.key / "claim").write_text(json.dumps(claim))
            if moment == "weights":
                raise FileNotFoundError
        return original(first, *more, **options)

    monkeypatch.setattr(owner, name, halted)
    lost, kept = train([RUN, OTHER], tmp_path)
    assert (lost.status, kept.status) == ("busy", "done")
    assert lost.reason == "taken over by process 7 on elsewhere while this process was halted"
    assert not Store(tmp_path).is_done(RUN.key) and not list((tmp_path / RUN.key).glob(".*.tmp"))
