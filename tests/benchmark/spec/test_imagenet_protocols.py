"""The protocols of ImageNet: recipe, normalisation and the method's settings."""

from __future__ import annotations

import pytest

from benchmark import methods
from benchmark.spec import profiles, protocols, recipes
from benchmark.spec.resolver import normalisation

PAPER = profiles.get_profile("paper")


def recipe(name: str, profile: profiles.Profile = PAPER) -> recipes.Recipe:
    protocol = protocols.get_protocol(name)
    return recipes.resolve(protocol, profile, network="resnet18_imagenet", available=(1_281_167, 50_000))


@pytest.mark.parametrize(("name", "epochs"), [("imagenet", 100), ("imagenet-dlkd", 120)])
def test_recipe(name: str, epochs: int) -> None:
    r = recipe(name)
    assert (r.epochs, r.milestones, r.batch_size) == (epochs, (30, 60, 90), 256)
    assert (r.lr, r.momentum, r.weight_decay, r.nesterov) == (0.1, 0.9, 1e-4, False)
    assert (r.train_images, r.test_images, r.augment) == (1_281_167, 50_000, "imagenet")
    rates = [r.lr_at(epoch) for epoch in (1, 30, 31, 60, 61, 90, 91, epochs)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])


def test_a_shorter_profile_keeps_the_proportions() -> None:
    short = recipe("imagenet", profiles.get_profile("short"))
    assert (short.epochs, short.milestones) == (6, (2, 4, 5))


def test_imagenets_statistics_normalise_every_data_set() -> None:
    """Networks that were trained on ImageNet expect them."""
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert normalisation("imagenet", "digits") == normalisation("imagenet", "cifar100") == imagenet
    assert normalisation("crd", "digits") != imagenet


def test_dlkd_has_the_weights_of_the_paper_and_of_its_imagenet_script() -> None:
    settings = dict(protocols.get_protocol("imagenet").method_settings)
    component = methods.parse("dlkd", settings).settings()["components"]["dlkd"]
    assert {name: component[name] for name in ("align", "corr", "sup")} == {
        "align": 10,
        "corr": 20,
        "sup": 0.5,
    }
