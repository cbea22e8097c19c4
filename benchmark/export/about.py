"""What an exported file states about itself: how to use it, and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.provenance import VERSION
from benchmark.training.finished import Finished
from models.weight_files import SAFETENSORS
from results.plain_json import parse_json

NAME = "kd-tables"
"""The name under which files of other formats hold these facts as JSON."""

INPUT = "RGB images [B, 3, {size}, {size}] with pixels in 0..1, minus mean, divided by std (normalise)"
OUTPUT = "logits [B, num_classes]"


def read(path: Path) -> dict[str, Any]:
    """Return the facts in a file of safetensors, {} if it states none.

    Files of torch have them as entries.
    """
    if path.suffix != SAFETENSORS:
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(NAME, "")
    try:
        facts = parse_json(stated.encode())
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def about(run: Finished, classes: Sequence[str]) -> dict[str, Any]:
    """Return the facts as plain data. classes: the names of the classes by label, empty if unknown."""
    record = run.record
    git, versions = record.get("git") or {}, record.get("versions") or {}
    return {
        "written_by": f"kd-tables {VERSION}",
        "input": INPUT.format(size=run.size),
        "output": OUTPUT,
        "normalise": {name: list(run.normalise[name]) for name in ("mean", "std")},
        "network": record["student"],
        "num_classes": run.net.student.linear_head().out_features,
        "classes": list(classes),
        "key": run.key,
        "epoch": run.epoch,
        "weights": run.weights,
        **{name: record.get(name) for name in ("dataset", "protocol", "profile", "method", "seed")},
        "teacher": record["teacher"],
        "teacher_weights": (record.get("teacher_info") or {}).get("weights"),
        "top1": run.top1,
        "chosen_on": "test set" if run.epoch == "best" else "",
        "test_images": record.get("test_images"),
        **{name: record.get(name) for name in ("device", "precision", "finished")},
        "torch": versions.get("torch"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "settings": record["settings"],
    }
