"""Work orders: settings survive JSON, and what is not a work order is refused with its problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_kit import small_run

from benchmark.errors import InputError
from benchmark.training.execution import ExecutionRequest
from benchmark.work import order
from benchmark.work.order import WorkSettings, settings_from_json, work, work_order

SETTINGS = WorkSettings(
    results=Path("results"),
    data=Path("data"),
    teachers=Path("teachers"),
    network="ResNet50",
    accept_weak_teacher=True,
    keep="none",
    teacher_cache="off",
    accept_edit=True,
    until=3,
    execution=ExecutionRequest(device="cpu", precision="bf16", threads=4, student_threads=2),
)


@pytest.mark.parametrize("settings", [SETTINGS, WorkSettings(results=Path("r"), data=Path("d"))])
def test_settings_survive_json(settings: WorkSettings) -> None:
    assert settings_from_json(json.loads(json.dumps(settings.as_json()))) == settings


def test_settings_that_are_left_out_have_their_defaults() -> None:
    settings = settings_from_json({"results": "r", "data": "d"})
    assert settings == WorkSettings(results=Path("r"), data=Path("d"))


@pytest.mark.parametrize(
    ("part", "changes", "problem"),
    [
        ("settings", {"results": None}, "whose `results` is not of type str"),
        ("settings", {"colour": "red"}, "an unknown field `colour`"),
        ("settings", {"execution": 3}, "whose `execution` is not of type dict"),
        ("settings", {"execution": {"threads": "1"}}, "whose `threads` is not of type int"),
        ("settings", {"execution": {"gpus": 1}}, "an unknown field `gpus`"),
        ("run", {"seed": True}, "whose `seed` is not of type int"),
        ("run", {"overrides": [1]}, "`overrides` that are not pairs"),
    ],
)
def test_a_work_order_with_a_wrong_field_is_refused(part: str, changes: dict[str, Any], problem: str) -> None:
    order = json.loads(work_order([small_run("plain")], SETTINGS))
    (order["settings"] if part == "settings" else order["runs"][0]).update(changes)
    with pytest.raises(InputError, match=problem):
        work(json.dumps(order))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ("3", "is not an object"),
        ("{}", "has no `runs`"),
        ('{"runs": []}', "has no `runs`"),
    ],
)
def test_other_text_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        work(text)


def test_a_work_order_without_settings_is_refused() -> None:
    order = json.loads(work_order([small_run("plain")], SETTINGS))
    del order["settings"]
    with pytest.raises(InputError, match="has no valid `settings`"):
        work(json.dumps(order))


def test_a_following_process_knows_the_folder_of_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NothingToDo:
        def next_command(self) -> None:
            return None

    folders: list[Path] = []
    monkeypatch.setattr(order.data, "use_folder", folders.append)
    settings = WorkSettings(results=tmp_path / "runs", data=tmp_path / "data")
    order.follow(settings, NothingToDo())  # type: ignore[arg-type]
    assert folders == [tmp_path / "data"]
