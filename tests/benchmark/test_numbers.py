"""Numbers that a user writes: what only Python reads as one is refused everywhere."""

from __future__ import annotations

import pytest
from cli_kit import refused

from benchmark.errors import InputError
from benchmark.settings import coerce
from benchmark.text import decimal, whole

NO_NUMBERS = ["1_0", "7_3.3", "", "-", "1e", "0x10", "١", "1,5", "nan", "inf", "1 0"]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_other_text_is_no_number(text: str) -> None:
    for convert in (whole, decimal):
        with pytest.raises(ValueError, match="is not a"):
            convert(text)
    for kind in (int, float):
        with pytest.raises(InputError, match="x="):
            coerce("x", text, kind)


def test_numbers() -> None:
    assert [whole(t) for t in ("0", "-3", " 12 ", "+7")] == [0, -3, 12, 7]
    assert [decimal(t) for t in ("0", "-3.5", "1e-3", ".5", "2.", " 12 ")] == [0, -3.5, 1e-3, 0.5, 2, 12]
    assert coerce("x", "1e-3", float) == 1e-3


@pytest.mark.parametrize(
    ("argv", "variable"),
    [
        (["plan", "crd-table1", "--seeds", "1_0"], None),
        (["plan", "crd-table1", "--threads", "1_0"], None),
        (["plan", "crd-table1", "--set", "recipe.epochs=1_0"], None),
        (["run", "crd-table1", "--until", "1_0"], None),
        (["logs", "x", "--lines", "4_0"], None),
        (["plan", "crd-table1"], "THREADS"),
        (["plan", "crd-table1"], "SEEDS"),
    ],
)
def test_the_command_line_refuses_it(
    argv: list[str],
    variable: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1_0")
    assert "_0" in refused(argv, capsys)
