"""The verb `methods`: it prints the constants of each pair with their source."""

from __future__ import annotations

import json

import pytest
from cli_kit import refused

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


@pytest.mark.parametrize(
    ("combination", "reason"),
    [
        ("kd+kd", "twice"),
        ("kd+", "unknown method"),
        ("plain+kd", "cannot be combined"),
        ("moco+seed", "replaces the cross-entropy"),
        ("sskd_head+kd", "trains no student"),
    ],
)
def test_a_combination_that_no_run_can_have_is_refused(
    combination: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in refused(["methods", combination], capsys)


@pytest.mark.parametrize("method", ["plain", "kd+kd", "student+kd", "sskd_head+kd", "wkd-l+wkd-l"])
def test_published_and_judge_refuse_it_too(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    pair = "resnet56:resnet20"
    assert method in refused(["published", "--pair", pair, "--method", method], capsys)
    assert method in refused(["judge", pair, method, "71"], capsys)


def test_plain_is_called_student_there(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["published", "--pair", "resnet56:resnet20", "--method", "plain"], capsys)
    assert line.endswith("give student or teacher")


def test_the_order_of_a_combination_does_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "kd + crd") == printed(capsys, "crd+kd")
    pages = []
    for method in ("kd+crd", "crd + kd"):
        assert main(["published", "--pair", "resnet56:resnet20", "--method", method]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1] and "crd+kd" in pages[0]
