"""SEED's schedule, from the formulas of its code."""

import math

import pytest

from benchmark.spec import profiles, protocols, recipes


def recipe(profile="paper", **overrides):
    return recipes.resolve(
        protocols.get_protocol("seed"),
        profiles.get_profile(profile),
        network="ResNet18",
        available=(50_000, 10_000),
        overrides=overrides,
    )


@pytest.mark.parametrize("batch", [256, 512])
def test_the_learning_rate_of_every_epoch(batch):
    """SEED's `adjust_learning_rate`, whose epochs count from 0: lr_mult = batch / 256."""
    r = recipe(batch_size=batch, lr=0.03 * batch / 256)
    for e in range(200):
        if e < 5:
            expected = 0.03 + (0.03 * batch / 256 - 0.03) / 5 * e
        else:
            expected = 0.03 * batch / 256 * 0.5 * (1 + math.cos(math.pi * e / 200))
        for step in (1, 3):
            assert r.lr_at(e + 1, step, 3) == pytest.approx(expected, rel=1e-12)


def test_the_batch_of_a_profile_scales_all_but_the_beginning():
    r = recipe("quick")
    assert (r.epochs, r.warm_up, r.batch_size) == (2, 1, 16)
    assert r.lr_at(1) == 0.03
    assert r.lr_at(2) == pytest.approx(0.03 * 16 / 256 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_other_recipes_keep_their_keys():
    """A recipe without cosine and warm-up says nothing about them."""
    crd = recipes.resolve(
        protocols.get_protocol("crd"), profiles.get_profile("paper"), network="resnet20", available=(2, 2)
    )
    assert not {"schedule", "warm_up_from"} & set(crd.settings())
    assert recipe().settings()["schedule"] == "cosine" and recipe().settings()["warm_up_from"] == 0.03
