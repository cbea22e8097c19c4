"""Parts that SSKD and DLKD share: similarities of rotated and normal images, and SSKD's selection of rows.

B is the number of images of the batch, R = 3B the number of rows of the `rotated` view. Row r of that view
is image r % B, rotated by (r // B + 1) quarter turns. All shapes are static and the host never waits for
the device, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.views import NORMAL, ROTATED

if TYPE_CHECKING:
    from models import Features

VIEWS = (NORMAL, ROTATED)


def similarities(rotated: Tensor, normal: Tensor) -> Tensor:
    """Return the cosines `[R, B]` of each rotated image with each normal one, from `[R, D]` and `[B, D]`."""
    return F.normalize(rotated, dim=1) @ F.normalize(normal, dim=1).T


def matching_columns(batch: int, device: torch.device) -> Tensor:
    """Return for each row of `similarities` the column of the same image before rotation: int64 `[R]`.

    batch: the number B of images.
    """
    return torch.arange(batch, device=device).repeat(ROTATED.copies)


def stack_embeddings(students: Mapping[str, Features]) -> Tensor:
    """Return the embeddings `[4B, D]` of the normal images and then of the rotated ones.

    Row r is image r % B.
    """
    return torch.cat([students[view.name].embedding for view in VIEWS])


def kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `KL(softmax(teacher / T) || softmax(student / T))` of each row, without a factor T^2.

    Logits are `[R, C]`, the result is `[R]`.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def rank_of_truth(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the rank of the true column in each row of scores, 0 for the highest score: int64 `[R]`.

    scores: `[R, C]`.
    truth: the true column of each row, int64 `[R]`.

    Of equal scores the lower column ranks first, as in a stable sort.
    """
    true_score = scores.gather(1, truth.unsqueeze(1))
    columns = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > true_score) | ((scores == true_score) & (columns < truth.unsqueeze(1)))
    return before.sum(1)


def select_rows(rank: Tensor, ratio: float) -> Tensor:
    """Return which rows SSKD keeps: bool `[R]`.

    rank: the rank of the true column in each row, int64 `[R]`.

    All rows whose true column ranks first are kept, and of the W other rows the floor(ratio * W) with the
    best ranks. SSKD's code sorts rows that are ordered by image, then angle, by an unstable sort, so it
    leaves the order of equal ranks open. Here equal ranks keep that order, which favours no angle.
    """
    rows = rank.shape[0]
    row = torch.arange(rows, device=rank.device)
    batch = rows // ROTATED.copies
    image_major = (row % batch) * ROTATED.copies + row // batch
    key = rank * rows + image_major
    position = (key.unsqueeze(0) < key.unsqueeze(1)).sum(1)
    wrong = (rank > 0).sum()
    # In float64, as `int(wrong * ratio)` with a Python float: in float32, 0.75 * W is exact, but 0.7 * W may
    # not be.
    kept = rows - wrong + (wrong.to(torch.float64) * ratio).floor().to(torch.int64)
    return position < kept


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Return the mean of the values `[R]` over the rows in `keep` (bool `[R]`); 0 if no row is kept."""
    return torch.where(keep, values, 0.0).sum() / keep.sum().clamp(min=1)
