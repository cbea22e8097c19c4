"""What SSKD and DLKD share: similarities of turned and unturned images, and the rank-based selection of rows.

B = images of the batch, R = 3B rows of the `rotated` view. Rows are copy-major: row r is image r % B, turned by (r //
B + 1) quarter turns. Everything has a static shape and leaves the host waiting for nothing, so that a step can be
captured in a CUDA graph.
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
    """Cosine of each turned image with each unturned one: `[R, D]`, `[B, D]` -> `[R, B]`."""
    return F.normalize(rotated, dim=1) @ F.normalize(normal, dim=1).T


def matching_columns(batch: int, device: torch.device) -> Tensor:
    """int64 `[R]`: for each row of `similarities` the column of the very image that was turned."""
    return torch.arange(batch, device=device).repeat(ROTATED.copies)


def stack_embeddings(students: Mapping[str, Features]) -> Tensor:
    """`[4B, D]`: the embeddings of the unturned images, then of the turned ones (row r is image r % B throughout)."""
    return torch.cat([students[view.name].embedding for view in VIEWS])


def kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`KL(softmax(teacher / T) || softmax(student / T))` of each row, without T^2: `[R, C]`, `[R, C]` -> `[R]`."""
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def rank_of_truth(scores: Tensor, truth: Tensor) -> Tensor:
    """int64 `[R]`: the place of `scores[r, truth[r]]` in its row, 0 for the highest. `[R, C]`, int64 `[R]`.

    Of equal scores the lower column comes first, as in a stable sort.
    """
    own = scores.gather(1, truth.unsqueeze(1))
    columns = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (columns < truth.unsqueeze(1)))
    return before.sum(1)


def select_rows(rank: Tensor, ratio: float) -> Tensor:
    """bool `[R]`: the rows that SSKD keeps, from the rank of their truth `[R]`.

    All rows whose truth ranks first, and of the W others the best-ranked floor(ratio * W). SSKD's code leaves the
    order of equal ranks to an unstable sort over rows that lie image after image; here they are taken in just that
    order, which favours no angle.
    """
    rows = rank.shape[0]
    row = torch.arange(rows, device=rank.device)
    batch = rows // ROTATED.copies
    image_major = (row % batch) * ROTATED.copies + row // batch
    key = rank * rows + image_major
    place = (key.unsqueeze(0) < key.unsqueeze(1)).sum(1)
    wrong = (rank > 0).sum()
    # In fp64, as `int(wrong * ratio)` of a Python float: 0.75 * W in fp32 would do, 0.7 * W would not always.
    kept = rows - wrong + (wrong.to(torch.float64) * ratio).floor().to(torch.int64)
    return place < kept


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of `values` `[R]` over the rows in `keep` (bool `[R]`); 0 if there is none."""
    return torch.where(keep, values, 0.0).sum() / keep.sum().clamp(min=1)
