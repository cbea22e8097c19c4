"""An interruption between two files of an epoch loses none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_kit import small_run, train

from benchmark.training import checkpoint
from results.store import Store


def test_the_last_row_of_the_curve_survives_an_interruption_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("plain", recipe__epochs=1, recipe__train_images=16, recipe__test_images=10)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write_curve", interrupted)
        train([run], tmp_path)
    assert [o.status for o in train([run], tmp_path)] == ["done"]
    curve = Store(tmp_path).curve(run.key)
    assert curve is not None and list(curve["epoch"]) == [1]
