"""Signs, escapes and line breaks of the outputs."""

import math

import pytest

from benchmark.text import plural
from tables.text import TERMINAL_WIDTH, csv_cell, escape_md, escape_tex, mean_std, signed, wrap


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.314, "+0.31"),
        (-1.2, "-1.20"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (-0.004, "0.00"),
        (1e-14, "0.00"),
        (-0.006, "-0.01"),
        (-10.0, "-10.00"),
    ],
)
def test_a_difference_that_rounds_to_zero_has_no_sign(x: float, text: str) -> None:
    assert signed(x) == text


def test_signs_with_other_digits_and_of_shares() -> None:
    assert signed(-0.004, 3) == "-0.004" and signed(-0.0004, 3) == "0.000"
    assert signed(-0.1344, kind="%") == "-13.44%" and signed(-0.00001, kind="%") == "0.00%"
    assert signed(math.nan) == "+nan"


def test_a_mean_has_a_std_where_one_is_known() -> None:
    assert mean_std(76.042, 0.125) == "76.04 ± 0.12" and mean_std(76.0) == "76.00"
    assert mean_std(76.0, 0.0) == "76.00 ± 0.00"


def test_plural() -> None:
    assert [plural(n, "run") for n in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]


def test_escapes() -> None:
    assert escape_md("a_b|c*<d>") == "a\\_b\\|c\\*&lt;d>"
    assert escape_tex("50% of a_b \\ {x} ± 1") == r"50\% of a\_b \textbackslash{} \{x\} $\pm$ 1"


def test_a_long_line_is_broken_and_indented() -> None:
    lines = wrap("word " * 40)
    assert (
        len(lines) == 2 and all(len(x) <= TERMINAL_WIDTH for x in lines) and lines[1].startswith("    word")
    )
    assert wrap("") == [""]


def test_control_characters_do_not_leave_their_line() -> None:
    text = "out of\nmemory\x1b[31m & more\u2028end"
    assert escape_md(text) == "out of memory [31m & more end"
    assert escape_tex(text) == "out of memory [31m \\& more end"
    assert wrap(text) == ["out of memory [31m & more end"]


def test_a_csv_cell_is_no_formula() -> None:
    for text in ("=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "\r=1"):
        assert csv_cell(text) == "'" + text
    for value in ("-0.31", "+0.5", "KD", "a=b", "", -0.31, None, 3):
        assert csv_cell(value) == value
