"""Folders of plug-ins for tests: tiny networks by hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import methods

TINY = '''
import torch
from torch import nn
from models import NetworkByHooks

class Block(nn.Module):
    """A residual block with one ReLU that works in place and runs twice."""
    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, 2, 1)
        self.norm = nn.BatchNorm2d(b)
        self.relu = nn.ReLU(inplace=True)
        self.skip = nn.Conv2d(a, b, 1, 2)

    def forward(self, x):
        y = self.relu(self.norm(self.conv(x)))
        return self.relu(y + self.skip(x))

class Tiny(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 4, 1)
        self.one, self.two = Block(4, 8), Block(8, 8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def pooled(self, x):
        return self.two(self.one(self.stem(x))).mean((2, 3))

    def forward(self, x):
        return self.head(self.drop(self.pooled(x)))

network = NetworkByHooks(
    name="tiny", build=Tiny, stem="stem", stages=("one", "two"),
    preacts=("one.relu:input", "two.relu:input"), embedding="drop:input", classifier="head",
)
bare = NetworkByHooks(name="bare", build=Tiny, stem="stem", stages=["one", "two"], classifier="head")
'''

VIT = '''
import torch
from torch import nn
from models import NetworkByHooks

class TinyViT(nn.Module):
    """8 x 8 patches, a class token, and two layers."""
    def __init__(self, classes, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
                                      for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens.mean(1))

vit = NetworkByHooks(name="tiny_vit", build=TinyViT, stem="patches", stages=("blocks.0", "blocks.1"),
                     classifier="head", extra_tokens=1)
'''


def use(folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str = "KD_PLUGINS", **files: str) -> Path:
    """Write `NAME.py` files, or `NAME.toml` for the names that end in `_toml`, and list their folder."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        file = f"{name.removesuffix('_toml')}.toml" if name.endswith("_toml") else f"{name}.py"
        (folder / file).write_text(text, encoding="utf-8")
    monkeypatch.setenv(variable, str(folder))
    methods.clear_cache()
    return folder
