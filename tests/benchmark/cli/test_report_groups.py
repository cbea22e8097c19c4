"""A report without a TABLE shows every record: other profiles, `--set`, and the reference records."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tables"))

import records_kit as kit

from benchmark.__main__ import main
from benchmark.cli import selection
from benchmark.cli.report_groups import settings_behind
from benchmark.spec import matrix
from benchmark.spec.matrix import Overrides
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


def page_text(tmp_path: Path) -> str:
    newest = max((tmp_path / "out").glob("index*.html"), key=lambda p: p.stat().st_mtime_ns)
    return newest.read_text(encoding="utf-8")


def sections(tmp_path: Path, *options: str) -> list[str]:
    """Return the ids of the sections of a report."""
    out = tmp_path / "out"
    assert main(["report", "--results", str(tmp_path / "runs"), "--out", str(out), *options]) == 0
    text = page_text(tmp_path)
    return [part.partition('"')[0] for part in text.split(' id="')[1:] if part.startswith(("crd", "sskd"))]


def test_records_under_changed_settings_have_their_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    kit.write(store, records("quick"))
    hotter = (("kd.temperature", 8.0),)
    both = (*hotter, ("recipe.epochs", 1))
    for overrides in (hotter, both):
        kit.write(store, records("quick", overrides))
    shown = sections(tmp_path)
    assert shown[0] == "crd-table1-quick"
    assert {
        "crd-table1-quick-set-kd.temperature=8.0",
        "crd-table1-quick-set-kd.temperature=8.0,recipe.epochs=1",
    } < set(shown)
    # named settings are shown alone
    assert not any("recipe.epochs" in s for s in sections(tmp_path, "--set", "kd.temperature=8"))


def test_only_changed_settings_give_no_empty_table(tmp_path: Path) -> None:
    kit.write(Store(tmp_path / "runs"), records("quick", (("recipe.train_images", 64),)))
    assert sections(tmp_path, "--profile", "quick") == ["crd-table1"]
    assert "SETTINGS CHANGED: recipe.train_images=64." in page_text(tmp_path)


def test_reference_records_need_no_option(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert sections(tmp_path) == ["sskd-table3-short", "sskd-table3-paper"]
    assert sections(tmp_path, "--profile", "short") == ["sskd-table3"]


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
