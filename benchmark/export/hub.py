"""A folder for a model hub: safetensors, a model card made from the record, and results as a model index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark import data, methods
from benchmark.errors import InputError
from benchmark.export import weights
from benchmark.training.finished import Finished
from results.files import atomic, write_json

FILES = ("model.safetensors", "config.json", "README.md")


def write(run: Finished, folder: Path, about: Mapping[str, Any]) -> None:
    """Write `FILES` into a folder. The card, without which a hub shows nothing, comes last."""
    weights.write(run, "safetensors", folder / FILES[0], about)
    write_json(folder / FILES[1], about)
    with atomic(folder / FILES[2]) as file:
        file.write(card(run, about))


def card(run: Finished, about: Mapping[str, Any]) -> str:
    """Return the model card: metadata in YAML, then Markdown."""
    front = "\n".join(_yaml(_metadata(run, about)))
    return f"---\n{front}\n---\n\n{_text(run, about)}"


def _metadata(run: Finished, about: Mapping[str, Any]) -> dict[str, Any]:
    record, info = run.record, data.info(run.record["dataset"])
    of_epoch = " (chosen on the test set)" if run.epoch == "best" else ""
    metrics = [("accuracy", f"top-1 in percent, {run.epoch} epoch{of_epoch}", run.top1)]
    if run.epoch == "last":
        metrics.append(("accuracy", "top-5 in percent, last epoch", record.get("top5_last")))
    return {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["knowledge-distillation", "kd-tables", record["student"]],
        **({} if info.user_files else {"datasets": [record["dataset"]]}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": _name(run),
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": {"type": record["dataset"], "name": info.title, "split": "test"},
                        "metrics": [
                            {"type": kind, "name": name, "value": value, "verified": False}
                            for kind, name, value in metrics
                            if value is not None
                        ],
                    }
                ],
            }
        ],
    }


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Yield the lines of plain data in YAML. Scalars are JSON, which YAML contains."""
    entries = value.items() if isinstance(value, dict) else ((None, entry) for entry in value)
    for name, entry in entries:
        head = f"{indent}- " if name is None else f"{indent}{name}:"
        if not isinstance(entry, dict | list):
            yield f"{head}{'' if name is None else ' '}{json.dumps(entry)}"
        elif name is None:  # the first line of an entry stands behind its dash
            first, *rest = _yaml(entry, f"{indent}  ")
            yield f"{head}{first.strip()}"
            yield from rest
        else:
            yield head
            yield from _yaml(entry, f"{indent}  ")


def _name(run: Finished) -> str:
    r = run.record
    teacher = "" if r["teacher"] == "none" else f" by {r['teacher']}"
    return f"{r['student']} ({r['method']}{teacher}) on {r['dataset']}, seed {r['seed']}"


def _text(run: Finished, about: Mapping[str, Any]) -> str:
    r = run.record
    recipe = r["settings"].get("recipe") or {}
    git = r.get("git") or {}
    rows = {
        "network": r["student"],
        "data set": data.info(r["dataset"]).title,
        "method": r["method"],
        "teacher": _teacher(run),
        "protocol, profile": f"{r['protocol']}, {r['profile']}",
        "seed": r["seed"],
        "epochs, batch size": f"{r.get('epochs')}, {recipe.get('batch_size')}",
        "learning rate": f"{recipe.get('lr')}, times {recipe.get('decay')} after {recipe.get('milestones')}",
        "top-1, last epoch": _percent(r.get("top1_last")),
        "top-1, best epoch (chosen on the test set)": _percent(r.get("top1_best")),
        "this file": f"{run.epoch} epoch, weights {about['weights']}",
        "test images": r.get("test_images"),
        "device, precision": f"{r.get('device_name') or r.get('device')}, {r.get('precision')}",
        "torch": (r.get("versions") or {}).get("torch"),
        "kd-tables commit": f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}",
        "finished": r.get("finished"),
        "run": f"`{run.key}`",
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"""# {_name(run)}

Trained with kd-tables, which regenerates the tables of knowledge-distillation papers. The result of one
seed: other seeds differ by some tenths of a percentage point.

| | |
|---|---|
{table}

## Use
Input: {about["input"]}. Mean {about["normalise"]["mean"]}, std {about["normalise"]["std"]}.
`config.json` has the names of the classes and all settings of the training.

{_use(run, about)}
{_references(run)}"""


def _cell(value: Any) -> str:
    """Return a value as text that stays in its cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}%"


def _teacher(run: Finished) -> str:
    info = run.record.get("teacher_info")
    if not info:
        return "none"
    top1 = f", top-1 {info['top1']:.2f}%" if isinstance(info.get("top1"), int | float) else ""
    return f"{info.get('network')} ({info.get('epoch')} epoch{top1}, weights {info.get('weights')})"


def _use(run: Finished, about: Mapping[str, Any]) -> str:
    if len(run.net.at_test):
        names = ", ".join(run.net.at_test)
        return (
            f"The network predicts with modules of {names} in addition to the student; their tensors begin "
            "with `at_test_`.\nThe exports to ONNX and TorchScript hold all of it as one program.\n"
        )
    return f"""```python
import models  # of kd-tables

net = models.build("{about["network"]}", {about["num_classes"]})
models.load_weights(net, "model.safetensors")
logits = net.eval()(images)
```
"""


def _references(run: Finished) -> str:
    entries = []
    for name in (run.record["settings"].get("method") or {}).get("components") or {}:
        try:
            entries.append(methods.get(name).bibtex)
        except InputError:  # a user's method that is not here
            continue
    entries = list(dict.fromkeys(entry for entry in entries if entry))
    return "## Cite\n```bibtex\n" + "\n\n".join(entries) + "\n```\n" if entries else ""
