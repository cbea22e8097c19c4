"""The pictures of the measure `entropy`, from made-up maps."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import records_kit as kit
import torch

from benchmark.measures._concepts import CONSTANT_TERM
from benchmark.measures._views_entropy import ViewsResult
from benchmark.measures.entropy import MAPS, write_maps
from benchmark.spec import matrix
from benchmark.spec.matrix import Expansion
from results.store import Store
from tables import cells, entropy_pictures, render, report, report_figures

GREY = torch.full((2, 4, 4, 3), 100, dtype=torch.uint8)


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Expansion, list[dict[str, object]], Store]:
    """Return the entropy table of one pair with two seeds, and records and maps of some of its networks."""
    table = matrix.load_table("dlkd-entropy")
    e = matrix.expand(
        table, "quick", seeds=[0, 1], pairs=["resnet56:resnet20"], only_methods=["KD, entropy", "KD, iou"]
    )
    store, records = Store(tmp_path), {}
    for cell in e.cells:
        for run in cell.runs:
            if cell.row.method == "student" and run.seed == 0:
                continue
            constant = 2.0 if cell.row.method == "kd" and run.seed == 1 else 0.0
            numbers = {"entropy": -1.0, "iou": 40.0, "features": 64.0, "constant_features": constant}
            fields = {"measure": "entropy", "target": "digits", "value": -1.0, "numbers": numbers}
            records[run.key] = kit.record(run, None, **fields)
            (tmp_path / run.key).mkdir(parents=True, exist_ok=True)
            entropy = torch.zeros(2, 2, 4, 4)
            entropy[:, :, 0] = -len(cell.row.method) - run.seed
            write_maps(tmp_path / run.key / MAPS, ViewsResult(entropy, 8, (0, 0)), GREY)
    return e, list(records.values()), store


def test_a_picture_has_each_network_once_and_one_seed(
    measured: tuple[Expansion, list[dict[str, object]], Store],
) -> None:
    e, records, store = measured
    (picture,) = entropy_pictures.pictures_of(cells.collect(e, kit.as_frame(records), store), store)
    assert (picture.teacher, picture.student, picture.seed) == ("resnet56", "resnet20", 1)
    lowest = {m.label: float(m.entropy.min()) for m in picture.maps}
    assert lowest == {"Teacher": -7, "Student": -8, "KD": -3}, "seed 1 has the most networks"


def test_maps_are_drawn_as_they_are(measured: tuple[Expansion, list[dict[str, object]], Store]) -> None:
    e, records, store = measured
    (picture,) = entropy_pictures.pictures_of(cells.collect(e, kit.as_frame(records), store), store)
    figure = entropy_pictures.draw(e, picture)
    axes = np.array(figure.axes[:16]).reshape(4, 4)
    assert [ax.get_title() for ax in axes[0]] == ["image", "Teacher", "Student", "KD"]
    assert np.array_equal(axes[0, 0].images[0].get_array(), GREY[0])
    assert np.array_equal(axes[2, 3].images[0].get_array(), picture.maps[2].entropy[0, 1])
    kept = np.asarray(axes[1, 1].images[0].get_array())
    assert (kept[0] == 100).all() and (kept[1:] == entropy_pictures.DISCARDED).all()
    assert axes[0, 1].get_xlabel() == "mean -1.75" and axes[1, 1].get_xlabel() == "IoU 100"
    limits = {ax.images[0].get_clim() for ax in axes[::2, 1:].flat}
    assert len(limits) == 1 and max(limits)[1] <= CONSTANT_TERM


def test_a_damaged_file_of_maps_is_left_out(
    measured: tuple[Expansion, list[dict[str, object]], Store], tmp_path: Path
) -> None:
    e, records, store = measured
    results = cells.collect(e, kit.as_frame(records), store)
    (run,) = {x.run.key for r in results if r.cell.row.method == "teacher" for x in r.runs}
    path = tmp_path / run / MAPS
    for content in (path.read_bytes()[:-100], b"", b"no maps"):
        path.write_bytes(content)
        (picture,) = entropy_pictures.pictures_of(results, store)
        assert [m.label for m in picture.maps] == ["Student", "KD"]


def test_numbers_without_a_better_side_have_no_mean_ranks() -> None:
    table, ranked = matrix.load_table("dlkd-entropy"), {}
    for shown in table.measured:
        rows = tuple(row for row in table.rows if row.measured == shown)
        e = matrix.expand(
            replace(table, rows=rows, measured=(shown,)), "quick", seeds=[0], pairs=["resnet56:resnet20"]
        )
        runs = [run for cell in e.cells for run in cell.runs]
        numbers = {shown.shown: 1.0}
        records = [kit.record(run, None, measure="entropy", numbers=numbers, value=1.0) for run in runs]
        results = cells.collect(e, kit.as_frame(records))
        ranked[shown.shown] = "Ranks of the methods" in report_figures.figures(e, results, [])
    assert ranked == {"entropy": False, "iou": True}


def test_table_and_report_contain_the_picture(
    measured: tuple[Expansion, list[dict[str, object]], Store], tmp_path: Path
) -> None:
    from PIL import Image

    e, records, store = measured
    frame = kit.as_frame(records)
    paths = render.write_all(e, frame, tmp_path / "out", store=store)
    (path,) = [p for p in paths if "maps" in p.name]
    assert path.name == "dlkd-entropy-quick-maps-resnet56-resnet20.png"
    page = report.page([e], frame, store)
    remark = "KD, entropy, resnet56 -&gt; resnet20, seed 1: 2 of 64 coordinates"
    assert page.count("coordinates of the feature are constant") == 1 and remark in page
    assert "mean gain" not in page and "Last versus best" not in page and "Ranks of" not in page
    (embedded,) = (part.partition('"')[0] for part in page.split('src="data:image/png;base64,')[1:])
    assert b64decode(embedded) == path.read_bytes()
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] > 300


def test_other_tables_have_no_pictures(tmp_path: Path) -> None:
    e = kit.small(tmp_path)
    records = [kit.record(run, 70.0) for run in e.runs]
    results = cells.collect(e, kit.as_frame(records), Store(tmp_path))
    assert entropy_pictures.contents(e, results, Store(tmp_path)) == {}
    assert entropy_pictures.section(e, results, Store(tmp_path)) == ""


def test_only_numbers_with_a_better_side_are_ranked(
    measured: tuple[Expansion, list[dict[str, object]], Store],
) -> None:
    """Three methods with different numbers; the table's student and teacher are never ranked."""
    _, _, store = measured
    table = matrix.load_table("dlkd-entropy")
    names = [f"{m}, {n}" for m in ("KD", "CRD", "DLKD") for n in ("entropy", "iou")]
    e = matrix.expand(table, "quick", pairs=["resnet56:resnet20"], only_methods=names)
    values = {"kd": 1.0, "crd": 0.5, "dlkd": 0.25}
    records = {
        run.key: kit.record(run, None, measure="entropy", numbers={"entropy": v, "iou": 30 + v}, value=v)
        for cell in e.cells
        for run in cell.runs
        if (v := values.get(cell.row.method)) is not None
    }
    layout = render.lay_out(e, kit.as_frame(list(records.values())), store)
    ranks = {row.label: entry.rank for row, (entry,) in zip(layout.rows, layout.entries, strict=True)}
    assert {label: rank for label, rank in ranks.items() if rank} == {"KD, iou": 1, "CRD, iou": 2}
    text = render.write(layout, e, "md")
    assert "Pixel entropy: entropy in nats and iou in %" in text
    assert "Top-1 accuracy" not in text
