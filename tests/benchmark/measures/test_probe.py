"""The linear probe: against scikit-learn, resumed, and with the batch norms of both published recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from measure_kit import carry_out, measuring_run, plain_run

import models
from benchmark import data
from benchmark.measures import MeasureContext, parse
from benchmark.measures._features import embeddings
from benchmark.measures._probe_protocols import PROTOCOLS
from benchmark.measures.probe import Probe, _Training
from benchmark.training import checkpoint
from results.store import Store

MEAN, STD = (0.3, 0.3, 0.3), (0.4, 0.4, 0.4)
NAMES = sorted(PROTOCOLS)


def network(name: str = "resnet8") -> models.Network:
    torch.manual_seed(0)
    return models.build(name, 10).eval().requires_grad_(False)


def context(net: models.Network | None = None, **changes: Any) -> MeasureContext:
    values: dict[str, Any] = {
        "net": net or network(),
        "dataset": "digits",
        "mean": MEAN,
        "std": STD,
        "target": "digits",
        "load": data.load,
        "seed": 0,
        "device": torch.device("cpu"),
        "folder": Path(),
    }
    return MeasureContext(**(values | changes))


def small(protocol: str, **settings: Any) -> Any:
    return parse(
        "probe", {"protocol": protocol, "epochs": 3, "train_images": 70, "test_images": 50, **settings}
    ).config


def test_the_classifier_is_that_of_logistic_regression_on_the_same_features() -> None:
    """Features with six directions and overlapping classes, so that the optimum is unique."""
    from sklearn.linear_model import LogisticRegression

    training = _Training(small("cached", epochs=60, lr=0.5, train_images=400, test_images=300), context())
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 64, generator=generator)
    only_six = (torch.arange(64) < 6).float()
    train, test = (
        (centres[labels] + torch.randn(len(labels), 64, generator=generator)) * only_six
        for labels in (training.train.labels, training.test.labels)
    )
    training.cached = {"train": train, "test": test}
    numbers = training.numbers()
    theirs = LogisticRegression(C=1e6, max_iter=5000).fit(train.numpy(), training.train.labels.numpy())
    accuracy = 100 * theirs.score(test.numpy(), training.test.labels.numpy())
    assert abs(numbers["top1_last"] - accuracy) <= 1 and 40 < accuracy < 90
    ours = training.head(test).detach().softmax(1)
    assert (ours - torch.from_numpy(theirs.predict_proba(test.numpy()))).abs().mean() < 0.01


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("protocol", NAMES)
def test_an_interrupted_probe_gets_the_same_bits(protocol: str) -> None:
    states: list[Mapping[str, Any]] = []

    def save(state: Mapping[str, Any]) -> None:
        import copy

        states.append(copy.deepcopy(dict(state)))

    config = small(protocol)
    whole = Probe.run(config, context(save=save))
    assert len(states) == 3
    for saved in states[:2]:
        assert Probe.run(config, context(saved=saved)) == whole
    assert Probe.run(config, context(seed=1)) != whole


@pytest.mark.parametrize("protocol", NAMES)
def test_norms_move_only_where_the_recipe_moves_them(protocol: str) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Probe.run(small(protocol), context(net))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert bool(changed) == PROTOCOLS[protocol].moving_norms == (protocol == "rrd")
    assert changed <= {name for name, _ in net.named_buffers()}
    assert not net.training


def test_moving_norms_normalise_by_the_batch() -> None:
    """One epoch of one batch, by hand: features in train mode, and a step of SGD with weight decay."""
    config = small("rrd", epochs=1, train_images=60)
    net = network()
    training = _Training(config, context(net))
    weight, bias = (p.detach().clone() for p in (training.head.weight, training.head.bias))
    ((features, labels),) = training._batches(1)
    logits = features @ weight.T + bias
    error = (logits.softmax(1) - torch.nn.functional.one_hot(labels, 10)) / len(labels)
    expected = weight - 0.05 * (error.T @ features + 5e-4 * weight)
    numbers = _Training(config, context())
    numbers.numbers()
    assert torch.allclose(numbers.head.weight, expected, atol=1e-6)
    other = network().train()
    assert torch.equal(labels.sort().values, training.train.labels.sort().values)
    assert other.features(torch.randn(4, 3, 32, 32)).embedding.shape == (4, features.shape[1])


def test_recipes_keep_their_proportions() -> None:
    training = _Training(small("hsakd", epochs=10), context())
    assert [round(training._lr(e), 6) for e in (1, 3, 4, 6, 7, 9, 10)] == [
        0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0001,
    ]  # fmt: skip
    assert _Training(small("rrd", epochs=120), context(network("ShuffleV1")))._lr(1) == 0.01
    assert _Training(small("rrd", lr=0.3), context())._lr(1) == 0.3


def test_the_learning_rate_of_seed_is_in_proportion_to_the_batch() -> None:
    """SEED's rate of 30 belongs to batches of 256; in batches of 16 the loss would explode."""
    config = small("seed", batch_size=16)
    assert _Training(config, context())._lr(1) == 30.0 * 16 / 256
    assert _Training(small("rrd", batch_size=32), context())._lr(1) == 0.05
    assert _Training(small("seed", batch_size=16, lr=0.3), context())._lr(1) == 0.3
    recipe = Probe.constants(config, "digits")["recipe"]  # part of the key
    assert (recipe["lr"], recipe["batch_size"]) == (1.875, 16)
    assert Probe.constants(small("seed"), "digits")["recipe"]["lr"] == 30.0


def test_statistics_are_those_of_the_recipe_and_the_target() -> None:
    def of(protocol: str, target: str) -> Any:
        return PROTOCOLS[protocol].constants(target)["statistics"]

    digits = data.info("digits")
    assert of("rrd", "digits") == of("hsakd", "digits") == [list(digits.mean), list(digits.std)]
    assert of("cached", "digits") is None
    training = _Training(small("cached"), context())
    assert torch.equal(training.mean, torch.tensor(MEAN)) and torch.equal(training.std, torch.tensor(STD))


def test_neighbours_are_those_of_the_untouched_network() -> None:
    config = small("rrd")
    whole = _Training(config, context())
    numbers = whole.numbers()
    first = _Training(config, context())
    assert numbers["knn_top1"] == first._neighbours()
    fresh = embeddings(network(), first.test, first.mean, first.std)
    assert torch.equal(first._features("test"), fresh)


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = measuring_run("probe", protocol="rrd", epochs=3, train_images=64, test_images=40)
    assert [o.status for o in carry_out([run], tmp_path)] == ["done"]
    whole = Store(tmp_path).record(run.key)
    assert whole is not None
    (tmp_path / run.key / "record.json").unlink()
    original, calls = _Training._evaluate, []

    def evaluate(self: _Training) -> dict[str, float]:
        calls.append(len(self.scores))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(_Training, "_evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        carry_out([run], tmp_path)
    assert (tmp_path / run.key / checkpoint.FILE).exists() and Store(tmp_path).state(run.key) == "started"
    assert [o.status for o in carry_out([run], tmp_path)] == ["done"]
    assert calls == [0, 1, 2, 2], "two epochs were not trained again"
    resumed = Store(tmp_path).record(run.key)
    assert resumed is not None and resumed["numbers"] == whole["numbers"]
    assert resumed["value"] == resumed["numbers"]["top1_last"]
    assert not (tmp_path / run.key / checkpoint.FILE).exists()


def test_a_checkpoint_of_other_weights_is_not_continued(tmp_path: Path) -> None:
    run = measuring_run("probe", epochs=2, train_images=64, test_images=40)
    carry_out([run], tmp_path)
    from benchmark.training import checkpoint

    (tmp_path / run.key / "record.json").unlink()
    content = {"state": {"scores": "of another network"}, "weights": "0" * 8, "seconds": 1.0}
    checkpoint.save(tmp_path / run.key / checkpoint.FILE, content, about={"precision": "fp32"})
    assert [o.status for o in carry_out([run], tmp_path)] == ["done"]


def test_keys_tell_recipes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {p: measuring_run("probe", protocol=p).key for p in NAMES}
    assert len(set(keys.values())) == len(NAMES)
    settings = measuring_run("probe", protocol="rrd").settings["measure"]
    assert settings["recipe"]["weight_decay"] == 5e-4 and settings["recipe"]["moving_norms"] is True
    assert json.dumps(settings)
    other = plain_run("resnet14")
    assert measuring_run("probe", other).key != measuring_run("probe").key
