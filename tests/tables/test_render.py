"""The table as text: golden files, ranks, marks, and missing numbers."""

from __future__ import annotations

import csv
import io
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.errors import InputError
from benchmark.spec import matrix
from benchmark.spec.matrix import Expansion
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import TeacherRef
from results.store import Store, load
from tables import plots, render, report

TEXT = kit.SMALL.replace('label = "SP"', 'label = "SP"\nprotocol = "dlkd"') + (
    '[[rows]]\nlabel = "CRD"\nmethod = "crd"\nmissing = "not implemented yet"\n'
)


def golden_case(folder: Path) -> tuple[Expansion, list[dict]]:
    """Return a table with all kinds of cells: done, incomplete, diverged, not run, missing, tied."""
    e = kit.small(folder, text=TEXT)
    last = {"teacher": 75.0, "student": 69.0, "kd": 70.5, "at": 70.5, "sp": 71.0}
    records = []
    for c in e.cells:
        for r in c.runs:
            value = (
                last[c.row.method]
                + 0.1 * r.seed
                + (0.4 if c.student == "wrn_16_2" and c.row.method == "at" else 0)
            )
            if (c.row.method, c.student, r.seed) == ("kd", "wrn_16_2", 2):
                continue
            if (c.row.method, c.student) == ("sp", "wrn_16_2"):
                records.append(
                    kit.record(r, None, status="diverged", reason="loss not finite in stage main, epoch 3")
                )
            else:
                records.append(kit.record(r, round(value, 2), round(value + 0.3, 2)))
    return e, records


@pytest.mark.parametrize("fmt", render.FORMATS)
def test_golden_text(tmp_path: Path, fmt: str) -> None:
    e, records = golden_case(tmp_path)
    frame = kit.as_frame(records)
    text = render.render(e, frame, fmt).rstrip("\n") + "\n"
    kit.check_golden(f"small.{ {'plain': 'txt'}.get(fmt, fmt) }", text)


def test_a_run_that_columns_share_is_counted_once(tmp_path: Path) -> None:
    columns = '["resnet56:resnet20", "resnet110:resnet20", "resnet110:resnet32"]'
    e = kit.small(tmp_path, text=kit.SMALL.replace('["resnet56:resnet20", "wrn_40_2:wrn_16_2"]', columns))
    text = render.render(e, kit.as_frame([kit.record(r, 70.0) for r in e.runs]), "plain")
    assert len(e.runs) == 2 + 2 * 3 + 3 * 3 * 3
    assert "conditions: cpu, fp32 (35 runs); 35 of 35 runs done" in text


def test_ranks(tmp_path: Path) -> None:
    e, records = golden_case(tmp_path)
    layout = render.lay_out(e, kit.as_frame(records))
    ranks = {
        (r.label, c[1]): x.rank
        for r, line in zip(layout.rows, layout.entries, strict=True)
        for c, x in zip(layout.columns, line, strict=True)
    }
    assert ranks["SP", "resnet20"] == 1  # 71.1, in the last epoch, the table's rule
    assert ranks["KD", "resnet20"] == ranks["AT", "resnet20"] == 2  # a tie shares the rank
    assert ranks["AT", "wrn_16_2"] == 1 and ranks["KD", "wrn_16_2"] == 2
    assert ranks["Teacher", "resnet20"] == ranks["Student", "resnet20"] == ranks["CRD", "resnet20"] == 0


def test_a_single_method_has_no_rank(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    only = [kit.record(r, 70.0) for c in e.cells if c.row.method in ("kd", "student") for r in c.runs]
    assert all(x.rank == 0 for line in render.lay_out(e, kit.as_frame(only)).entries for x in line)


def test_ranks_go_by_the_epoch_of_the_protocol(tmp_path: Path) -> None:
    for protocol, winner in (("crd", "KD"), ("sskd", "AT"), ("dlkd", "KD")):
        e = kit.small(tmp_path, text=kit.SMALL.replace('protocol = "crd"', f'protocol = "{protocol}"'))
        numbers = {"kd": (71.0, 71.1), "at": (70.0, 72.0), "sp": (69.0, 70.0)}
        records = [
            kit.record(r, *numbers[c.row.method]) for c in e.cells if c.row.method in numbers for r in c.runs
        ]
        layout = render.lay_out(e, kit.as_frame(records))
        best = [r.label for r, line in zip(layout.rows, layout.entries, strict=True) if line[0].rank == 1]
        assert best == [winner], protocol


def test_every_text_warns_of_the_quick_profile(tmp_path: Path) -> None:
    e = kit.small(tmp_path, profile="quick")
    frame = kit.as_frame([kit.record(r, 70.0) for c in e.cells for r in c.runs])
    for fmt in ("plain", "md", "tex"):
        assert "only show that the program works" in render.render(e, frame, fmt), fmt
    assert "quick" in render.render(e, frame, "csv")
    assert "only show" not in render.render(kit.small(tmp_path), frame, "md").split("\n\n")[1]


@pytest.mark.parametrize("protocol", ["crd", "sskd", "dlkd"])
def test_texts_say_that_best_is_chosen_on_the_test_set(tmp_path: Path, protocol: str) -> None:
    e = kit.small(tmp_path, text=kit.SMALL.replace('protocol = "crd"', f'protocol = "{protocol}"'))
    frame = kit.as_frame([kit.record(r, 70.0, 71.0) for c in e.cells for r in c.runs])
    shown = "protocol crd (last epoch)" if protocol == "crd" else "chosen on the test set"
    for fmt in ("plain", "md", "tex"):
        assert shown in " ".join(render.render(e, frame, fmt).split())
    rows = list(csv.DictReader(io.StringIO(render.render(e, frame, "csv"))))
    assert rows[4]["best_on_test_set_mean"] == "71.0000" and rows[4]["last_mean"] == "70.0000"
    assert rows[4]["mean"] == {"crd": "70.0000", "sskd": "71.0000", "dlkd": ""}[protocol]


def test_conditions_of_mixed_records_are_named(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    records = [
        kit.record(r, 70.0, **({"device": "cuda", "precision": "bf16"} if r.seed else {}))
        for c in e.cells
        for r in c.runs
    ]
    text = render.render(e, kit.as_frame(records), "plain")
    assert "cpu, fp32 (10 runs); cuda, bf16 (16 runs)" in text
    assert "conditions: no records yet; 0 of 26 runs" in render.render(e, kit.as_frame([]), "plain")


def test_imported_and_reference_flags(tmp_path: Path) -> None:
    from results.store import frame as frame_of

    resolver = Resolver(
        {("cifar100", "resnet56"): TeacherRef("resnet56", weights="abcdef0123456789", path="x.pth")}
    )
    e = matrix.expand(kit.small_table(tmp_path), "paper", resolver)
    text = render.render(
        e, frame_of([kit.record(r, 70.0) for c in e.cells for r in c.runs], "reference"), "md"
    )
    assert (
        "70.00†‡" in text
        and "‡ an imported checkpoint, evaluated here: resnet56 (abcdef0123)" in text
        and "† reference records" in text
    )


def test_states_of_unfinished_runs(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    store = Store(tmp_path / "runs")
    first = e.cells[4].runs
    for r in first:
        store.write_failure(r.key, "RuntimeError: no", "", "")
    text = render.render(e, load(store.folder), "md", store=store)
    assert "(failed) <sup>1</sup>" in text and "<sup>1</sup> RuntimeError: no" in text and "(not run)" in text


def test_order_of_records_changes_nothing(tmp_path: Path) -> None:
    e, records = golden_case(tmp_path)
    expected = [render.render(e, kit.as_frame(records), fmt) for fmt in render.FORMATS]
    random.Random(3).shuffle(records)
    assert [render.render(e, kit.as_frame(records).iloc[::-1], fmt) for fmt in render.FORMATS] == expected


def test_files_and_alias(tmp_path: Path) -> None:
    e, records = golden_case(tmp_path)
    paths = render.write_all(e, kit.as_frame(records), tmp_path / "out", alias="table1")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert (
        names
        == {f"{stem}.{s}" for stem in ("small-paper", "table1") for s in render.FILES}
        == {p.name for p in paths}
    )
    for s in render.FILES:
        assert (tmp_path / "out" / f"small-paper.{s}").read_bytes() == (
            tmp_path / "out" / f"table1.{s}"
        ).read_bytes()
    assert (tmp_path / "out" / "table1.png").read_bytes().startswith(b"\x89PNG")


OTHER = (("kd.temperature", 8.0), ("recipe.epochs", 1))
CHANGED = (
    "SETTINGS CHANGED: kd.temperature=8.0, recipe.epochs=1. "
    "Where they apply, these are neither the published settings nor the profile's."
)


@pytest.mark.parametrize("profile", ["paper", "quick"])
def test_other_settings_are_named_above_every_table(profile: str, tmp_path: Path) -> None:
    e, own = (kit.small(tmp_path, profile, overrides=overrides) for overrides in (OTHER, ()))
    frame = kit.as_frame([kit.record(r, 70.0) for x in (e, own) for r in x.runs])
    for fmt in ("plain", "md", "tex"):
        text = " ".join(render.render(e, frame, fmt).split())
        assert CHANGED in text and f"profile {profile} (except for the changed settings: " in text, fmt
        assert "SETTINGS" not in render.render(own, frame, fmt)
    assert {r["profile"] for r in csv.DictReader(io.StringIO(render.render(e, frame, "csv")))} == {
        f"{profile}-set-kd.temperature=8.0,recipe.epochs=1"
    }
    figure = plots._figure(3, 3)
    plots._title(figure, e, "what")
    assert CHANGED in " ".join(figure.get_suptitle().split())
    page = report.page([e], frame, Store(tmp_path / "runs"))
    assert (
        page.count('<p class="loud">SETTINGS CHANGED: kd.temperature=8.0, recipe.epochs=1.') == 2
    )  # of the page, and of the table


def test_other_settings_keep_the_files_of_the_tables_settings(tmp_path: Path) -> None:
    out, store = tmp_path / "out", Store(tmp_path / "runs")

    def written(overrides: tuple) -> dict[str, bytes]:
        e = kit.small(tmp_path, overrides=overrides)
        frame = kit.as_frame([kit.record(r, 70.0) for r in e.runs])
        paths = render.write_all(e, frame, out, alias="table1", store=store) + plots.write_figures(
            e, frame, store, out
        )
        return {p.name: p.read_bytes() for p in [*paths, report.write_report([e], frame, store, out)]}

    own = written(())
    assert {"small-paper.md", "table1.md", "small-paper-delta.png", "index.html"} <= set(own)
    other = written(OTHER)
    word = "-set-kd.temperature=8.0,recipe.epochs=1"
    assert {
        f"small-paper{word}.md",
        f"table1{word}.md",
        f"small-paper{word}-delta.png",
        f"index{word}.html",
    } <= set(other)
    assert not set(own) & set(other) and {name: (out / name).read_bytes() for name in own} == own


def test_settings_that_the_table_already_has_change_nothing(tmp_path: Path) -> None:
    for overrides in ((("recipe.epochs", 240),), (("kd.temperature", 4.0),)):
        assert kit.small(tmp_path, overrides=overrides).suffix == ""
    assert kit.small(tmp_path, "quick", overrides=(("recipe.epochs", 2),)).overrides == ()


def test_many_other_settings_have_a_short_name(tmp_path: Path) -> None:
    many = (
        ("at.weight", 1.0),
        ("kd.temperature", 8.0),
        ("recipe.epochs", 1),
        ("recipe.test_images", 50),
        ("recipe.train_images", 64),
    )
    names = {kit.small(tmp_path, overrides=tuple(o)).suffix for o in (many, many[1:])}
    assert len(names) == 2 and all(re.fullmatch("-set-[0-9a-f]{10}", n) for n in names)


def test_another_protocol_writes_other_files(tmp_path: Path) -> None:
    e = matrix.expand(replace(kit.small_table(tmp_path), protocol_override="sskd"), "paper")
    assert e.suffix == "-set-protocol=sskd"


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format 'pdf'; allowed: plain, md, tex, csv"):
        render.render(kit.small(tmp_path), kit.as_frame([]), "pdf")
