"""The shares of unknown facts in results/published/README.md, computed again from the registry."""

from __future__ import annotations

from pathlib import Path

from results.published import reader

README = Path(__file__).resolve().parents[2] / "results" / "published" / "README.md"


def test_shares_of_what_is_not_known() -> None:
    text = " ".join(README.read_text(encoding="utf-8").split())
    values = [
        x for x in reader.built_in() if (x.dataset, x.metric) == ("cifar100", "top1") and x.value is not None
    ]
    distilled = [x for x in values if x.method not in ("teacher", "student") and x.teacher != "none"]
    epoch, std, n, teacher = (
        f"{sum(unknown) / len(unknown):.0%}"
        for unknown in (
            [x.rule == "unknown" for x in values],
            [x.std is None for x in values],
            [x.n is None for x in values],
            [not reader.teacher_weights(x) for x in distilled],
        )
    )
    assert f"{epoch} are of an unknown epoch, {std} have no std, and {n} no number of runs" in text
    assert f"{teacher} are of an unknown teacher's checkpoint" in text
