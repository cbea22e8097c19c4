"""The run of an imported checkpoint: it trains nothing and records the accuracy, overall and by class."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

from benchmark.spec import imported
from benchmark.spec.runs import Run
from benchmark.training.evaluate import logits, per_class, score
from benchmark.training.pack_data import PackData
from benchmark.training.run_files import PackInfo, RunFiles


def evaluate_imported(run: Run, files: RunFiles, images: PackData, info: PackInfo) -> None:
    """Evaluate the checkpoint of a run, in fp32 whatever the execution of its pack, and write the record."""
    ref = run.evaluates
    assert ref is not None
    began = time.perf_counter()
    net = imported.load_teacher(ref, run.dataset, Path(ref.path))
    images.execution.to_device(net)
    exact = replace(images.execution, precision="fp32")
    with exact.applied():
        z = logits(net, images.test, images.mean, images.std, exact)
    result = score(z, images.test.labels)
    classes = images.classes or tuple(map(str, range(z.shape[1])))
    by_class = dict(zip(classes, per_class(z, images.test.labels), strict=True))
    extra = imported.read_checkpoint(Path(ref.path), ref.network).extra
    files.write_imported(
        info,
        score=result,
        per_class={name: top1 for name, top1 in by_class.items() if math.isfinite(top1)},
        extra={k: v for k, v in extra.items() if isinstance(v, int | float | str | bool)},
        seconds=time.perf_counter() - began,
    )
