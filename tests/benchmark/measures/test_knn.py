"""The accuracy of nearest neighbours, against plain loops."""

from __future__ import annotations

import math

import torch

from benchmark.data import Split
from benchmark.measures._features import limited
from benchmark.measures.knn import knn_top1


def test_votes_are_those_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(40, 5, generator=generator), torch.randn(300, 5, generator=generator)
    train_labels = torch.randint(0, 4, (40,), generator=generator)
    test_labels = torch.randint(0, 4, (300,), generator=generator)
    for k, temperature in ((1, 0.07), (7, 0.07), (7, 1.0), (100, 0.5)):
        right = 0
        for x, label in zip(test.double().tolist(), test_labels.tolist(), strict=True):
            scored = []
            for y, other in zip(train.double().tolist(), train_labels.tolist(), strict=True):
                dot = sum(a * b for a, b in zip(x, y, strict=True))
                scored.append((dot / math.hypot(*x) / math.hypot(*y), other))
            votes = [0.0] * 4
            for similarity, other in sorted(scored, reverse=True)[:k]:
                votes[other] += math.exp(similarity / temperature)
            right += votes.index(max(votes)) == label
        ours = knn_top1(train, train_labels, test, test_labels, classes=4, k=k, temperature=temperature)
        assert ours == 100 * right / 300


def test_some_images_are_drawn() -> None:
    split = Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    assert limited(split, 0) is limited(split, 10) is split
    drawn = limited(split, 4)
    assert len(set(drawn.labels.tolist())) == 4 and drawn.images.flatten().tolist() == drawn.labels.tolist()
    assert torch.equal(limited(split, 4).labels, drawn.labels)
