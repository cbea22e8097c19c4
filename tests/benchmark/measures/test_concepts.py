from __future__ import annotations

import math

import pytest
import torch

from benchmark.measures import _concepts as concepts


def test_entropy_is_that_of_a_gaussian() -> None:
    sigma = torch.tensor([0.01, 0.5, 1.0]).view(1, 1, 3)
    normal = [torch.distributions.Normal(0, s).entropy().item() for s in sigma.flatten()]
    assert concepts.entropy_map(sigma).flatten().tolist() == pytest.approx(normal, rel=1e-6)


def test_concepts_and_iou_by_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 6, 5, 5, generator=generator)
    means = concepts.mean_entropy(one)
    measured = concepts.iou(concepts.concept_set(one), concepts.concept_set(other))
    for n in range(6):
        pixels = [(row, column) for row in range(5) for column in range(5)]
        sets = []
        for maps in (one, other):
            mean = sum(float(maps[n, row, column]) for row, column in pixels) / 25
            sets.append({(row, column) for row, column in pixels if float(maps[n, row, column]) < mean})
        assert means[n].item() == pytest.approx(sum(float(one[n, r, c]) for r, c in pixels) / 25)
        assert measured[n].item() == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert len(set(measured.tolist())) == 6


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_views_are_turned_back(quarters: int) -> None:
    maps = torch.arange(32.0).view(2, 4, 4)
    turned = torch.rot90(maps, quarters, (1, 2))
    assert torch.equal(turned, maps) == (quarters == 0)
    assert torch.equal(concepts.turned_back(turned, quarters), maps)
    same = concepts.concept_set(maps), concepts.turned_back(concepts.concept_set(turned), quarters)
    assert concepts.iou(*same).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7])
def test_equal_entropies_give_an_empty_set(value: float) -> None:
    nothing = concepts.concept_set(torch.full((1, 7, 7), value))
    assert not nothing.any()
    assert math.isnan(concepts.iou(nothing, nothing).item())
    assert concepts.iou(nothing, ~nothing).item() == 0
