"""Constants by pair: which row, which table and which method of a combination decides."""

import pytest

from benchmark import methods
from benchmark.errors import InputError
from benchmark.methods import PairConstants
from benchmark.methods._pairs import PROTOCOL, constants_of
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request


def test_a_more_specific_row_has_precedence_and_none_leaves_the_value():
    table = PairConstants(
        settings=("kd.weight", "kd.temperature"),
        pairs={
            "resnet56:resnet20": (4.0, None),
            "*:resnet20": (3.0, 5.0),
            "resnet56:*": (2.0, 6.0),
            "*:*": (1.0, None),
        },
        source="here",
    )
    assert table.of("vgg13", "vgg8") == {"kd.weight": 1.0}
    assert table.of("resnet56", "vgg8") == {"kd.weight": 2.0, "kd.temperature": 6.0}
    assert table.of("vgg13", "resnet20") == {"kd.weight": 3.0, "kd.temperature": 5.0}
    assert table.of("resnet56", "resnet20") == {"kd.weight": 4.0, "kd.temperature": 5.0}


def test_a_table_holds_if_all_its_methods_are_there_and_a_later_one_has_precedence():
    tables = [
        PairConstants(("kd.weight", "protocol.epochs"), {"*:*": (1.0, 480)}, source="first"),
        PairConstants(("kd.weight", "dkd.beta"), {"*:*": (2.0, 3.0)}, source="second"),
    ]
    assert constants_of("kd", tables, ["kd"], "a", "b") == {"weight": 1.0}
    assert constants_of("kd", tables, ["dkd", "kd"], "a", "b") == {"weight": 2.0}
    assert constants_of(PROTOCOL, tables, ["kd"], "a", "b") == {"epochs": 480}
    assert constants_of("kd", tables, ["dkd"], "a", "b") == {}


@pytest.mark.parametrize(
    ("settings", "pairs", "message"),
    [
        (("kd.weight",), {"resnet56": (1.0,)}, "'resnet56' is not a pair"),
        (("kd.weight",), {":resnet20": (1.0,)}, "':resnet20' is not a pair"),
        (("kd.weight",), {"a:b": (1.0, 2.0)}, "a:b has 2 values for 1 settings"),
        (("weight",), {"a:b": (1.0,)}, "'weight' is not written METHOD.FIELD"),
    ],
)
def test_a_wrong_table_is_an_error(settings, pairs, message):
    with pytest.raises(ValueError, match=message):
        PairConstants(settings, pairs, source="here")


def test_a_protocol_field_that_does_not_exist_is_an_input_error(monkeypatch):
    table = PairConstants(("protocol.epoch",), {"*:*": (480,)}, source="here")
    monkeypatch.setattr(methods.get("pkt"), "pair_constants", (table,))
    with pytest.raises(InputError, match=r"'epoch'.*epochs"):
        Resolver().run(Request("cifar100", "crd", "paper", "vgg13", "vgg8", "pkt"), 0)


def test_an_override_has_precedence_over_the_pairs_constants():
    spec = methods.parse("dkd", {"dkd.beta": 1.5}, "wrn_40_2", "ShuffleV1")
    assert spec.components[0].config.beta == 1.5


def test_constants_of_the_protocol_reach_the_recipe_of_a_run_with_one_loss(monkeypatch):
    table = PairConstants(
        ("protocol.epochs", "protocol.lr"),
        {"vgg13:MobileNetV2": (480, 0.02), "*:MobileNetV2": (None, 0.03)},
        source="here",
    )
    monkeypatch.setattr(methods.get("pkt"), "pair_constants", (table,))

    def recipe(teacher, student, method, profile="paper"):
        return Resolver().run(Request("cifar100", "crd", profile, teacher, student, method), 0).recipe

    long = recipe("vgg13", "MobileNetV2", "pkt")
    assert (long.epochs, long.milestones, long.lr) == (480, (150, 180, 210), 0.02)
    short = recipe("vgg13", "MobileNetV2", "pkt", "short")
    assert (short.epochs, short.milestones) == (30, (9, 11, 13)), "in proportion"
    other = recipe("ResNet50", "MobileNetV2", "pkt")
    assert (other.epochs, other.lr) == (240, 0.03)
    combined = recipe("vgg13", "MobileNetV2", "pkt+kd")
    assert (combined.epochs, combined.lr) == (240, 0.01)
