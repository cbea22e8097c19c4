"""One plug-in of each kind, as docs/add-your-own.md prints them, is submitted and trained by the cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from slurm_kit import ROOT, wait_for

from results.store import load
from slurm import registry

TEXT = (ROOT / "docs" / "add-your-own.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))
PLUGINS = ("plugins/mse.py", "plugins/shufflenet_tv.py", "plugins/long.toml")
TABLE = """
title = "A method, a network by hooks, an image folder and a protocol"
paper = "mypaper"
table = "table3"
dataset = "folder:colours@32"
protocol = "long"
seeds = 1
columns = ["resnet8:shufflenet_tv"]
[[rows]]
label = "MSE (ours)"
method = "mse"
"""
SMALL = ("recipe.train_images=16", "recipe.test_images=8", "recipe.epochs=1", "recipe.batch_size=8")


def images(folder: Path) -> None:
    """Draw two classes of squares of one colour each."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 8), ("test", 4)):
        for channel, name in enumerate(("red", "green")):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 100, (40, 40, 3), np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


def test_plugins_of_each_kind_are_trained_by_jobs(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for name in PLUGINS:
        (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.toml").write_text(TABLE, encoding="utf-8")
    images(tmp_path / "data" / "colours")
    environment = {**os.environ, "KD_PLUGINS": "plugins", "PYTHONPATH": str(ROOT)}
    options = ["mine", "--profile", "quick", *(word for s in SMALL for word in ("--set", s))]

    def command(verb: str, *more: str) -> str:
        line = [sys.executable, "-m", "benchmark", verb, *options, *more]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "2 runs in 2 jobs submitted" in command("submit", "--cluster", "lab")
    (tmp_path / "plugins").rename(tmp_path / "away")  # jobs have a copy
    runs = tmp_path / "results" / "runs"
    wait_for("the end of the jobs", lambda: not registry.queued_runs(runs))
    (tmp_path / "away").rename(tmp_path / "plugins")
    rows = json.loads(command("status", "--json"))["rows"]
    assert [row["done"] for row in rows] == [1, 1], rows
    frame = load(runs)
    assert set(frame.dataset) == {"folder:colours@32"}
    (ours,) = frame[frame.method == "mse"].itertuples()
    assert (ours.protocol, ours.teacher, ours.student) == ("long", "resnet8", "shufflenet_tv")
    assert 0 <= ours.top1_last <= 100
    assert re.search(r"MSE \(ours\) +\d+\.\d\d", command("table"))
