"""A report without a TABLE shows every record: other profiles, `--set`, and the reference records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tables"))

import records_kit as kit

from benchmark.__main__ import main
from benchmark.cli import report, selection
from benchmark.cli.report_groups import settings_behind
from benchmark.spec import matrix
from benchmark.spec.matrix import Expansion, Overrides
from results.store import Store

PAIR = "resnet56:resnet20"


@pytest.fixture(autouse=True)
def few_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "table_names", lambda: ("crd-table1", "sskd-table3"))
    monkeypatch.setattr(selection, "has_gpu", lambda: False)


def records(profile: str, overrides: Overrides = (), table: str = "crd-table1") -> list[dict]:
    e = matrix.expand(
        matrix.load_table(table), profile, pairs=[PAIR], only_methods=["kd"], seeds=[0], overrides=overrides
    )
    return [kit.record(r, 70.0) for r in e.runs]


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return what makes a report with further options and returns its tables, without drawing them."""
    shown: list[list[str]] = []

    def write_report(expansions: Sequence[Expansion], *_: object, suffix: str) -> str:
        shown.append([f"{e.table.name}-{e.profile}{e.suffix}" for e in expansions])
        return f"index{suffix}.html"

    monkeypatch.setattr(report, "write_report", write_report)

    def of(*options: str) -> list[str]:
        out = str(tmp_path / "out")
        assert main(["report", "--results", str(tmp_path / "runs"), "--out", out, *options]) == 0
        return shown[-1]

    return of


HOTTER = "kd.temperature=8.0"
Sections = Callable[..., list[str]]


def test_records_under_changed_settings_have_their_table(tmp_path: Path, sections: Sections) -> None:
    store = Store(tmp_path / "runs")
    kit.write(store, records("quick"))
    hotter = (("kd.temperature", 8.0),)
    for overrides in (hotter, (*hotter, ("recipe.epochs", 1))):
        kit.write(store, records("quick", overrides))
    shown = sections()
    assert shown[0] == "crd-table1-quick"
    assert {f"crd-table1-quick-set-{HOTTER}", f"crd-table1-quick-set-{HOTTER},recipe.epochs=1"} < set(shown)
    assert len(shown) == len(set(shown)) == 3 + 2  # and those of the reference records
    # named settings are not varied
    named = sections("--set", "kd.temperature=8", "--profile", "quick")
    assert named == [f"crd-table1-quick-set-{HOTTER}"]


def test_only_changed_settings_give_no_empty_table(tmp_path: Path, sections: Sections) -> None:
    kit.write(Store(tmp_path / "runs"), records("quick", (("recipe.train_images", 64),)))
    assert sections("--profile", "quick") == ["crd-table1-quick-set-recipe.train_images=64"]


def test_reference_records_need_no_option(tmp_path: Path, sections: Sections) -> None:
    (tmp_path / "runs").mkdir()
    assert sections() == ["sskd-table3-short", "sskd-table3-paper"]
    assert sections("--profile", "short") == ["sskd-table3-short"]


def test_settings_are_read_from_a_record(tmp_path: Path) -> None:
    (run,) = (r for r in _runs(()) if r.method == "kd")
    for overrides in ((("kd.temperature", 8.0),), (("kd.weight", 0.5), ("recipe.epochs", 3))):
        (other,) = (r for r in _runs(overrides) if r.method == "kd")
        assert settings_behind(other.key, other.settings, run) == overrides
        assert settings_behind("another key", other.settings, run) == ()
    assert settings_behind(run.key, run.settings, run) == ()


def _runs(overrides: Overrides) -> tuple:
    return matrix.expand(
        matrix.load_table("crd-table1"),
        "short",
        pairs=[PAIR],
        only_methods=["kd"],
        seeds=[0],
        overrides=overrides,
    ).runs
