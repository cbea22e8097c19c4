"""Pictures of the measure `entropy`: entropy maps and concept sets of all networks of a pair, side by side.

One picture a pair. Each image has two rows: its entropy maps, on a colour scale that all maps share, and the
pixels of its concept sets, with the others painted over.
"""

from __future__ import annotations

import html
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.measures.entropy import MAPS, Entropy
from benchmark.spec.matrix import Expansion
from benchmark.spec.runs import Run
from results.store import REFERENCE, Store
from tables.cells import CellResult, column_title, profile_warning
from tables.plots import figure_class, literal, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 6
"""Images in a picture, the first ones."""

DISCARDED = (203, 213, 232)
"""Colour of the pixels that are not in a concept set: light blue, which digits and most photos have not."""

CAPTION = (
    "Upper rows: entropy H of each pixel in nats, of the image as it is; dark pixels bear little noise, so "
    "the feature keeps them. Lower rows: the pixels of the concept set (H below the image's mean); the "
    "others are painted over in light blue. IoU: of the concept sets of the image and of the turned image, "
    "in %. Students of seed {seed}."
)


@dataclass(frozen=True)
class Maps:
    """What the measure has left of one network (`benchmark.measures.entropy.MAPS`)."""

    label: str
    """The row's label."""
    entropy: np.ndarray
    concepts: np.ndarray
    iou: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Picture:
    """The maps of one pair's networks, all of one seed."""

    teacher: str
    student: str
    seed: int
    maps: tuple[Maps, ...]


def pictures_of(results: Sequence[CellResult], store: Store) -> list[Picture]:
    """Return what there is to draw, one picture for each pair with maps; [] for tables of other things.

    The seed is the first one that the most networks have maps of. A teacher is one for all seeds.
    """
    drawn = []
    for pair in dict.fromkeys((r.cell.teacher, r.cell.student) for r in results):
        of_teachers: dict[str, Path] = {}
        files: dict[tuple[str, int], Path] = {}
        labels: dict[str, None] = {}
        for r in results:
            if (r.cell.teacher, r.cell.student) != pair:
                continue
            for run in _measured(r):
                if (path := _file(store, run)) is not None:
                    labels[_label(r)] = None
                    if r.cell.row.method == "teacher":
                        of_teachers[_label(r)] = path
                    else:
                        files[_label(r), run.seed] = path
        seeds = sorted({seed for _, seed in files}) or [0]
        seed = max(seeds, key=lambda s: (sum(of == s for _, of in files), -s))
        chosen = {label: of_teachers.get(label) or files.get((label, seed)) for label in labels}
        read = (_read(label, path) for label, path in chosen.items() if path is not None)
        maps = tuple(m for m in read if m is not None)
        if maps:
            drawn.append(Picture(*pair, seed, maps))
    return drawn


def _measured(r: CellResult) -> Iterator[Run]:
    """Yield the finished runs of the measure in a cell. Rows that show different numbers share them."""
    for x in r.runs:
        if x.run.measure is not None and x.run.measure.measure is Entropy and x.row is not None:
            yield x.run


def _label(r: CellResult) -> str:
    """Return the row's label without the name of the number that it shows."""
    measured = r.cell.row.measured
    return r.cell.row.label.removesuffix(f", {measured.shown}" if measured else "")


def _file(store: Store, run: Run) -> Path | None:
    paths = (folder / run.key / MAPS for folder in (store.folder, REFERENCE))
    return next((path for path in paths if path.exists()), None)


def _read(label: str, path: Path) -> Maps | None:
    """Return the maps in a file, None if it is damaged: the rest of the table must not fail for a picture."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Maps(label, *(file[name] for name in ("entropy", "concepts", "iou", "images")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def draw(expansion: Expansion, picture: Picture, images: int = IMAGES) -> Figure:
    """Draw a picture."""
    n = min([images, *(len(m.images) for m in picture.maps)])
    across = 1 + len(picture.maps)
    figure = figure_class()(figsize=(1.05 * across + 0.9, 2.3 * n + 0.9), dpi=110, layout="constrained")
    title = column_title(picture.teacher, picture.student, arrow=" → ")
    warning = profile_warning(expansion.profile)
    lines = filter(None, [f"Pixel entropy and concepts, {title}", warning])
    figure.suptitle(literal("\n".join(lines)), fontsize=8.5)
    axes = figure.subplots(2 * n, across, squeeze=False)
    shown = np.concatenate([m.entropy[0, :n].ravel() for m in picture.maps])
    low, high = float(np.quantile(shown, 0.02)), float(shown.max())
    coloured: Any = None
    for i in range(n):
        upper, lower = axes[2 * i], axes[2 * i + 1]
        for ax in (*upper, *lower):
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        upper[0].imshow(picture.maps[0].images[i], interpolation="nearest")
        lower[0].set_axis_off()
        for ax, below, m in zip(upper[1:], lower[1:], picture.maps, strict=True):
            h = m.entropy[0, i]
            coloured = ax.imshow(h, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
            ax.set_xlabel(f"mean {h.mean(dtype=np.float64):.2f}", fontsize=7, labelpad=1)
            kept = np.where(m.concepts[0, i, ..., None], m.images[i], np.array(DISCARDED, dtype=np.uint8))
            below.imshow(kept, interpolation="nearest")
            below.set_xlabel(f"IoU {100 * m.iou[i]:.0f}", fontsize=7, labelpad=1)
    for ax, label in zip(axes[0], ["image", *(m.label for m in picture.maps)], strict=True):
        ax.set_title(literal(label), fontsize=8)
    bar = figure.colorbar(coloured, ax=axes, shrink=min(1.0, 1.5 / n), aspect=25, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("H (nats)", fontsize=7.5)
    return figure


def _png(figure: Figure) -> bytes:
    return pictures(figure, ("png",))["png"]


def contents(expansion: Expansion, results: Sequence[CellResult], store: Store) -> dict[str, bytes]:
    """Return the PNG of each picture by the end of its file's name (`maps-TEACHER-STUDENT`)."""
    return {f"maps-{p.teacher}-{p.student}": _png(draw(expansion, p)) for p in pictures_of(results, store)}


def section(expansion: Expansion, results: Sequence[CellResult], store: Store) -> str:
    """Return the pictures as HTML of the report, "" if there are none."""
    parts = []
    for p in pictures_of(results, store):
        title = f"Pixel entropy and concepts, {column_title(p.teacher, p.student, arrow=' → ')}"
        png = b64encode(_png(draw(expansion, p))).decode()
        parts.append(
            f'<details class="figure wide" open><summary>{html.escape(title)}</summary>'
            f'<p class="meta">{html.escape(CAPTION.format(seed=p.seed))}</p><div class="scroll">'
            f'<img alt="{html.escape(title, quote=True)}" src="data:image/png;base64,{png}"></div></details>'
        )
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""
