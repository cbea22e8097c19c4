"""The LaTeX of tables and diffs compiles in the class `article`, within the text width."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import records_kit as kit

from benchmark.spec import matrix
from tables import diff, diff_text, latex, render
from tables.published_cells import PublishedCells

NEEDS_LATEX = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex on the PATH (Debian: texlive-latex-recommended)"
)


def compiled(body: str, folder: Path) -> str:
    """Compile a document with this body, and return the log."""
    packages = "".join(rf"\usepackage{{{p}}}" for p in ("booktabs", "graphicx", "longtable"))
    source = rf"\documentclass{{article}}{packages}\begin{{document}}See Table~\ref{{LABEL}}." + "\n"
    label = re.search(r"\\label\{(.*?)\}", body)
    source = source.replace("LABEL", label[1] if label else "none")
    (folder / "x.tex").write_text(source + body + "\n\\end{document}\n", encoding="utf-8")
    for _ in range(2):  # the second time for references
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@NEEDS_LATEX
@pytest.mark.parametrize("name", ["crd-table1", "dlkd-table1", "kdpp-table"])
def test_tables_fit_the_text_width(name: str, tmp_path: Path) -> None:
    e = matrix.expand(matrix.load_table(name), "paper", seeds=[0, 1], overrides=(("recipe.epochs", 100),))
    records = [kit.record(r, 70.0 + r.seed, 70.5 + r.seed) for r in e.runs[:-3]]
    text = render.render(e, kit.as_frame(records), "tex")
    log = compiled(text, tmp_path)
    assert "Overfull" not in log and "LaTeX Warning: Reference" not in log
    assert (tmp_path / "x.pdf").stat().st_size > 5_000
    # conditions are in the note, not in the caption
    caption = re.search(r"\\caption\{(.*)\}", text)
    assert caption is not None and "seeds" not in caption[1] and text.index("seeds 0, 1.") > caption.end()


@NEEDS_LATEX
def test_a_diff_fits_the_text_width_on_several_pages(tmp_path: Path) -> None:
    e = matrix.expand(matrix.load_table("crd-table1"), "paper", seeds=[0, 1])
    numbers = PublishedCells.read("cifar100")
    records = [{**r, "top1_last": r["top1_last"] + 0.3 * r["seed"]} for r in kit.golden(e, numbers)]
    diffs = diff.diff_table(e, kit.as_frame(records), published=numbers)
    log = compiled(diff_text.format_diff(diffs, "tex"), tmp_path)
    assert "Overfull" not in log
    pages = re.search(r"\((\d+) pages", log)
    assert pages is not None and int(pages[1]) > 1


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("wrn_40_2", "WRN-40-2"),
        ("ShuffleV1", "ShuffleNetV1"),
        ("resnet8x4", r"resnet8$\times$4"),
        ("resnet56", "resnet56"),
        ("MobileNetV2", "MobileNetV2"),
    ],
)
def test_names_as_papers_print_them(name: str, printed: str) -> None:
    assert latex.network_name(name) == printed
