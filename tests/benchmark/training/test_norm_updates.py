"""The running statistics of a WRN's pre-activation norms: moved once or twice a step, by the protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_kit import small_run, train

import models
from benchmark.errors import InputError
from benchmark.spec import recipes
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from models.wrn import WideResNet

NORMS = ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")


def test_one_update_of_both_equals_two_calls() -> None:
    torch.manual_seed(0)
    once, twice = models.build("wrn_16_1", 10), models.build("wrn_16_1", 10)
    twice.load_state_dict(once.state_dict())
    assert isinstance(once, WideResNet) and isinstance(twice, WideResNet)
    once.set_norm_updates(2)
    images = torch.randn(4, 3, 32, 32)
    ours, theirs = once.features(images), twice.features(images)
    following = (twice.block2.layer[0].bn1, twice.block3.layer[0].bn1, twice.bn1)  # type: ignore[union-attr]
    for norm, stage, preact in zip(following, theirs.stages, theirs.preacts, strict=True):
        assert torch.equal(norm(stage), preact), "the peers' code: a second call on the same map"
    assert torch.equal(ours.logits, theirs.logits)
    ours.logits.square().sum().backward()
    theirs.logits.square().sum().backward()
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    for (name, a), b in zip(once.named_buffers(), twice.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)
    assert {k for k, m in once.named_modules() if getattr(m, "momentum", 0.1) != 0.1} == set(NORMS)


@pytest.mark.parametrize(
    ("protocol", "pair", "method", "updates"),
    [
        ("mdistiller", "wrn_40_2:wrn_16_2", "kd", 2),
        ("mdistiller", "none:wrn_16_2", "plain", 2),
        ("mdistiller", "wrn_40_2:ShuffleV1", "kd", 1),
        ("crd", "wrn_40_2:wrn_16_2", "kd", 1),
        ("crd", "none:wrn_16_2", "plain", 1),
        ("crd", "wrn_40_2:wrn_16_2", "ab", 2),
        ("crd", "resnet56:resnet20", "ab", 1),
        ("sskd", "wrn_40_2:wrn_16_2", "ab+kd", 2),
        ("repdistiller", "wrn_40_2:wrn_16_2", "ofd", 2),
        ("clips", "none:wrn_16_2", "plain", 1),
    ],
)
def test_the_protocol_decides(protocol: str, pair: str, method: str, updates: int) -> None:
    teacher, _, student = pair.partition(":")
    run = Resolver().run(Request("cifar100", protocol, "paper", teacher, student, method), 0)
    assert run.recipe.norm_updates == updates
    assert run.settings["recipe"].get("norm_updates", 1) == updates
    if run.teacher_ref is not None and run.teacher_ref.run is not None:
        assert run.teacher_ref.run.recipe.norm_updates == 1, "all teachers are trained by CRD's code"
    chosen = (("recipe.norm_updates", 3 - updates),)
    other = Resolver().run(Request("cifar100", protocol, "paper", teacher, student, method, chosen), 0)
    assert (other.recipe != run.recipe) == student.startswith("wrn_"), "elsewhere it has no meaning"


def test_more_than_two_updates_are_refused() -> None:
    with pytest.raises(InputError, match=r"recipe.norm_updates=3; allowed: 1 to 2"):
        recipes.check_recipe_override("recipe.norm_updates", "3")


def test_a_run_trains_the_same_weights_with_other_statistics(tmp_path: Path) -> None:
    runs = [
        small_run(
            "plain", student="wrn_16_1", protocol="mdistiller", recipe__norm_updates=n, recipe__epochs=1
        )
        for n in (1, 2)
    ]
    for run in runs:
        train([run], tmp_path)
    once, twice = (torch.load(tmp_path / r.key / "last.pt", weights_only=True)["model"] for r in runs)
    moved = {name for name, value in once.items() if not torch.equal(value, twice[name])}
    assert moved == {f"{norm}.{part}" for norm in NORMS for part in ("running_mean", "running_var")}
