"""Losses with a hand-written gradient: it equals that of the plain form, which autograd derives."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.bench.plain import nst_plain
from benchmark.methods import crd, nst, vid
from benchmark.methods._common import attention


def value_and_gradient(loss, x):
    x = x.detach().clone().requires_grad_()
    value = loss(x)
    return value.detach(), *torch.autograd.grad(3 * value, x)


def assert_agree(ours, plain, x):
    for a, b in zip(value_and_gradient(ours, x), value_and_gradient(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "shapes",
    [((5, 6, 4, 4), (5, 7, 4, 4)), ((5, 40, 2, 2), (5, 30, 2, 2))],
    ids=["by channels", "by positions"],
)
@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("cached", [1, 2**20])
def test_nst(shapes, dead, cached, monkeypatch):
    monkeypatch.setattr(nst, "CACHED", cached)  # one image at a time, and all at once
    torch.manual_seed(0)
    f_s, f_t = (torch.randn(s, dtype=torch.float64).relu() for s in shapes)
    if dead:
        f_s[1, 2], f_t[3, 1] = 0.0, 0.0
        f_s[2, 3] *= 1e-14  # shorter than the smallest divisor
    assert_agree(lambda x: nst.discrepancy(x, f_t), lambda x: nst_plain(x, f_t), f_s)


@pytest.mark.parametrize("images", [64, 5000])
def test_crd(images):
    torch.manual_seed(0)
    anchors = F.normalize(torch.randn(8, 16, dtype=torch.float64), dim=1)
    bank, z = (
        F.normalize(torch.randn(images, 16, dtype=torch.float64), dim=1),
        torch.tensor(3.0 * images, dtype=torch.float64),
    )
    index = torch.randint(images, (8, 33))  # with repetitions

    def plain(x):
        return crd.nce_loss(torch.exp(crd.scores_by_rows(x, bank, index) / 0.07) / z, images)

    def ours(x):
        return crd.with_gradient(x, *crd.nce_with_gradient(x.detach(), bank, z, index, 0.07))

    assert_agree(ours, plain, anchors)


def test_crd_sets_its_constant_in_the_first_batch_only():
    torch.manual_seed(0)
    anchors, bank, z = (
        F.normalize(torch.randn(4, 8), dim=1),
        F.normalize(torch.randn(50, 8), dim=1),
        torch.tensor(-1.0),
    )
    index = torch.randint(50, (4, 9))
    crd.nce_with_gradient(anchors, bank, z, index, 0.07)
    first = float(z)
    assert first == pytest.approx(
        float(torch.exp(crd.scores(anchors, bank, index) / 0.07).mean() * 50), rel=1e-5
    )
    crd.nce_with_gradient(-anchors, bank, z, index, 0.07)
    assert float(z) == first


def test_attention():
    torch.manual_seed(0)
    f, target = torch.randn(4, 5, 3, 3, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)

    def plain(x):
        return (F.normalize(x.square().mean(1).flatten(1), dim=1) - target).square().sum()

    assert_agree(lambda x: (attention(x) - target).square().sum(), plain, f)


def test_vid():
    torch.manual_seed(0)
    mu, f_t = (torch.randn(4, 5, 3, 3, dtype=torch.float64) for _ in range(2))
    w = torch.rand(5, dtype=torch.float64)
    assert_agree(
        lambda x: (vid.squares(x, f_t) * w).sum(),
        lambda x: ((x - f_t).square() * w.view(1, -1, 1, 1)).sum() / (4 * 9),
        mu,
    )
