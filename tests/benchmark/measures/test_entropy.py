from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measure_kit import carry_out, measuring_run

import models
from benchmark import data, measures
from benchmark.measures import _concepts as concepts
from benchmark.measures import entropy
from benchmark.measures.base import MeasureContext
from benchmark.measures.entropy import MAPS, Entropy, EntropyConfig
from results.store import Store

CONFIG = EntropyConfig(images=3, iterations=23, reference=20)


class Killed(Exception):
    pass


def context(folder: Path, **changes: Any) -> MeasureContext:
    """Return the context of a small untrained network on digits."""
    torch.manual_seed(0)
    net = models.build("resnet8", num_classes=10).eval().requires_grad_(False)
    info = data.info("digits")
    given = MeasureContext(
        net=net,
        dataset="digits",
        mean=info.mean,
        std=info.std,
        target="digits",
        load=lambda name: data.load(name, folder),
        seed=0,
        device=torch.device("cpu"),
        folder=folder,
    )
    return dataclasses.replace(given, **changes)


def read(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / MAPS) as file:
        return dict(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return numbers and maps of a measurement without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    c = context(folder)
    numbers = Entropy.run(CONFIG, c)
    assert c.artifacts == [MAPS] and [p.name for p in folder.iterdir()] == [MAPS]
    return numbers, read(folder)


def test_maps_and_numbers_agree(whole: tuple[dict[str, float], dict[str, np.ndarray]]) -> None:
    numbers, maps = whole
    h = maps["entropy"]
    assert h.shape == (2, 3, 32, 32) and h.max() < concepts.CONSTANT_TERM
    assert np.array_equal(maps["images"], data.load("digits", Path()).test.images[:3].numpy())
    assert numbers["entropy"] == pytest.approx(h[0].mean(axis=(1, 2), dtype=np.float64).mean())
    kept = h < h.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    assert np.array_equal(maps["concepts"], kept)
    ious = [(a & b).sum() / (a | b).sum() for a, b in zip(*kept, strict=True)]
    assert maps["iou"].tolist() == pytest.approx(ious)
    assert numbers["iou"] == pytest.approx(100 * np.mean(ious))
    assert numbers["images"] == 3 and numbers["features"] == 64
    assert Entropy.headline(CONFIG) in numbers


def test_a_killed_measurement_goes_on_with_the_same_bits(
    whole: tuple[dict[str, float], dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after every state that it stores; the process that goes on would take other batches."""
    monkeypatch.setattr(entropy, "SAVE_SECONDS", 0.0)
    states: list[Mapping[str, Any]] = []
    reached: list[int] = []

    def save(state: Mapping[str, Any]) -> None:
        torch.save(dict(state), tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt", weights_only=True))
        if len(states) % 2:
            raise Killed

    saved, numbers = None, None
    while numbers is None:
        given = context(
            tmp_path, saved=saved, save=save, progress=lambda done, total: reached.append(done / total)
        )
        try:
            numbers = Entropy.run(CONFIG, given)
        except Killed:
            assert not (tmp_path / MAPS).exists()
            saved = states[-1]
            monkeypatch.setattr(entropy, "BATCH", {"cpu": 1})
    assert len(states) > 2 and reached == sorted(reached) and reached[-1] == 1
    assert numbers == whole[0]
    assert all(np.array_equal(value, whole[1][name]) for name, value in read(tmp_path).items())


def test_a_run_has_numbers_and_maps(tmp_path: Path) -> None:
    run = measuring_run("entropy", images=2, iterations=3, reference=10)
    assert [o.status for o in carry_out([run], tmp_path)] == ["done"]
    record = Store(tmp_path).record(run.key)
    assert record is not None and record["artifacts"] == [MAPS]
    assert record["value"] == record["numbers"]["entropy"] and record["numbers"]["images"] == 2
    assert read(tmp_path / run.key)["entropy"].shape == (2, 2, 32, 32)
    assert not (tmp_path / run.key / "checkpoint.pt").exists()


def test_left_out_coordinates_and_images_are_remarked() -> None:
    numbers = {"features": 64, "constant_features": 3, "images": 8, "images_without_concepts": 0}
    assert "3 of 64" in Entropy.remark(numbers) and "images have" not in Entropy.remark(numbers)
    assert "2 of 8 images" in Entropy.remark({**numbers, "images_without_concepts": 2})
    assert Entropy.remark({**numbers, "constant_features": 0}) == ""


def test_settings_of_the_paper_and_of_the_quick_profile() -> None:
    published = measures.parse("entropy").config
    values = {"images": 1000, "iterations": 5000, "lr": 0.5, "scale": 1.0, "rate": 0.1}
    assert dataclasses.asdict(published) == values | {"reference": 0, "quarters": 1}
    # forwards and backwards for each image and step, of two views, and all test images forwards
    assert Entropy.passes(published, train=50_000, test=10_000) == 2 * (3 * 5000 * 1000 + 10_000)
    quick = measures.parse("entropy", Entropy.profile_settings["quick"]).config
    assert Entropy.passes(quick, train=1_397, test=400) < 5_000
