"""Execute docs/add-your-own.md: all its commands work, its method and numbers appear in the report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "add-your-own.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder_of_the_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == len(dict(blocks)) == 10
    for name, content in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def test_method_and_numbers_appear_in_the_report(folder_of_the_page: Path) -> None:
    folder = folder_of_the_page
    shell = re.findall(r"^    (export .*|python .*)$", TEXT, re.MULTILINE)
    exported = dict(word.split("=") for word in shell[0].split()[1:])
    environment = {
        **os.environ,
        **exported,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RESULTS": str(folder / "runs"),
        "DEVICE": "cpu",
    }
    outputs = []
    for line in shell[1:]:
        command = [sys.executable, *line.split()[1:]]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    validated, _, difference, _, _ = outputs
    assert validated == ""
    assert re.search(
        r"MSE \(ours\) +resnet14:resnet8 +last +\d+\.\d+ +1/1 +60\.90 ± 0\.25 +3 +~ not comparable",
        difference,
    )
    trained = {path.parents[2].name for path in (folder / "runs" / "parity").rglob("record.json")}
    pairs = {"resnet8-shufflenet_tv", "shufflenet_tv-deit_ti", "resnet8-TinyNet"}
    assert trained == pairs | {"none-resnet8", "none-shufflenet_tv"}
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "Our table" in page and 'title="mse, protocol crd"' in page
    assert re.search(
        r'data-pair="resnet14:resnet8"><div class="ours">.*?<div class="published">60\.90<small>±0\.25', page
    )
    assert re.search(r'"label":"MSE \(ours\)","method":"mse".*?"last":"\d+\.\d+"', page)
    assert '"method.components.mse.weight":0.1' in page
