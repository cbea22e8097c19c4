"""The verb `methods`: it prints the constants of each pair with their source."""

from __future__ import annotations

import json

import pytest

from benchmark.__main__ import main


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["methods", *args]) == 0
    return capsys.readouterr().out


def test_a_method_is_printed_with_the_table_of_its_constants(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "kdpp").splitlines()
    heads = [i for i, line in enumerate(lines) if line.split()[:1] == ["pair"]]
    assert [lines[i].split() for i in heads] == [
        ["pair", "kd.weight", "kdpp.weight", "kd.warmup"],
        ["pair", "dkd.alpha", "dkd.beta", "kdpp.weight"],
    ]
    assert all("[Knowledge-Distillation-via-ND's scripts]" in lines[i - 1] for i in heads)
    assert lines[heads[0] + 1].split() == ["*:*", "-", "-", "20"]
    assert ["resnet56:resnet20", "2.5", "4.0", "3.5"] in [line.split() for line in lines[heads[1] :]]


def test_a_method_without_such_constants_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert "by pair" not in printed(capsys, "kd")


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    constants = json.loads(printed(capsys, "dkd", "--json"))["pair_constants"]
    (authors,) = [c for c in constants if "wrn_40_2:ShuffleV1" in c["pairs"]]
    assert authors["settings"] == ["dkd.beta"] and authors["pairs"]["wrn_40_2:ShuffleV1"] == [8.0]
    assert "mdistiller" in authors["source"]


def test_mlld_has_nothing_unverified(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unverified" not in printed(capsys, "mlld")
