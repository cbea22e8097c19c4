"""Triton kernels that compute batch norm, shortcut sum and ReLU at once, for maps in channels_last on a GPU.

A map `[B, C, H, W]` in channels_last is a matrix of `rows` = B H W and `channels` = C. Its rows are cut into
`chunks`, its channels into blocks; each program of a kernel works on one chunk of one block, tile by tile:

- Train, forward (Ioffe & Szegedy, ICML 2015): one kernel computes each chunk's mean and sum of squared
  deviations; a second combines those of all chunks, which are few, and writes the output. So the map is read
  twice, and no kernel is launched for the statistics of the channels alone.
- Train, backward: one kernel computes each chunk's sums of the gradient g and of g times the normalised x; a
  second combines them and writes dx = w / std (g - mean(g) - x^ mean(g x^)). Where the ReLU was open is
  computed again from x; with a shortcut it is read from the output, which the next layer keeps anyway.
- Eval: one kernel, which computes each channel's scale itself.

Sums are in float32 and in a fixed order: there are no atomic additions, so a repeated pass gives the same
bits. Nothing here waits for the GPU. Which maps are given to these kernels is decided in models/gpu_norms.py.

Triton has to be installed to import this module. With TRITON_INTERPRET=1 in the environment at the time of
the import, the kernels run on the CPU, slowly: the tests do this.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 8192
"""Numbers of a tile: 32 for each thread of a program."""
WARPS = 8
MOST_TILE_CHANNELS = 64
MOST_CHUNKS = 128
"""About one for each processor of an H100. Every program of a second kernel reads the sums of all chunks."""
STEP = 32
"""Chunks whose sums are read at a time."""

OPEN, BY_X, BY_OUT = 0, 1, 2
"""How the backward pass learns where the ReLU was open: there is none; from x; from the output."""

# Parameters may lie at any address, for instance in one buffer of all parameters. A kernel that was compiled
# for aligned ones would have to be compiled again, which must not happen while a CUDA graph is captured.
_parameters = ["weight", "bias", "running_mean", "running_var"]


@triton.jit
def _tile_of(start, last, columns, channels, TILE_ROWS: tl.constexpr):
    """Return the offsets of a tile's numbers, and which of them are inside the chunk."""
    rows = start + tl.arange(0, TILE_ROWS)
    inside = (rows < last)[:, None] & (columns < channels)[None, :]
    return rows[:, None] * channels + columns[None, :], inside


@triton.jit
def _moments(
    x, means, squares, rows, channels, chunk_rows, TILE_ROWS: tl.constexpr, TILE_CHANNELS: tl.constexpr
):
    """Write the mean of each chunk and its sum of squared deviations from it.

    A tile's sums are exact to rounding because its numbers stay in registers for both. Tiles are combined by
    the formula for the moments of two samples (Chan, Golub & LeVeque 1979), which does not subtract large
    numbers, so that a mean far from zero does no harm.
    """
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    first = chunk * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    mean = tl.zeros([TILE_CHANNELS], tl.float32)
    square = tl.zeros([TILE_CHANNELS], tl.float32)
    for start in range(first, last, TILE_ROWS):
        offsets, inside = _tile_of(start, last, columns, channels, TILE_ROWS)
        v = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        before = (start - first).to(tl.float32)
        count = tl.minimum(last - start, TILE_ROWS).to(tl.float32)
        tile_mean = tl.sum(v, 0) / count
        deviation = tl.where(inside, v - tile_mean[None, :], 0.0)
        apart = tile_mean - mean
        share = count / (before + count)
        square += tl.sum(deviation * deviation, 0) + apart * apart * (before * share)
        mean += apart * share
    to = chunk * channels + columns
    tl.store(means + to, mean, mask=columns < channels)
    tl.store(squares + to, square, mask=columns < channels)


@triton.jit
def _rows_of(chunk, rows, chunk_rows):
    """Return how many rows a chunk has: all have `chunk_rows`, the last one perhaps fewer."""
    return tl.minimum(rows - chunk * chunk_rows, chunk_rows).to(tl.float32)


@triton.jit
def _combined(
    means,
    squares,
    columns,
    rows,
    channels,
    chunks,
    chunk_rows,
    STEP: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """Return the channels' means and sums of squared deviations, from those of the chunks."""
    mean = tl.zeros([TILE_CHANNELS], tl.float32)
    for start in range(0, chunks, STEP):
        chunk = start + tl.arange(0, STEP)
        inside = (chunk < chunks)[:, None] & (columns < channels)[None, :]
        offsets = chunk[:, None] * channels + columns[None, :]
        part = tl.load(means + offsets, mask=inside, other=0.0)
        mean += tl.sum(part * (_rows_of(chunk, rows, chunk_rows) / rows)[:, None], 0)
    square = tl.zeros([TILE_CHANNELS], tl.float32)
    for start in range(0, chunks, STEP):
        chunk = start + tl.arange(0, STEP)
        inside = (chunk < chunks)[:, None] & (columns < channels)[None, :]
        offsets = chunk[:, None] * channels + columns[None, :]
        apart = tl.load(means + offsets, mask=inside, other=0.0) - mean[None, :]
        between = apart * apart * _rows_of(chunk, rows, chunk_rows)[:, None]
        part = tl.load(squares + offsets, mask=inside, other=0.0) + between
        square += tl.sum(tl.where(inside, part, 0.0), 0)
    return mean, square


@triton.jit
def _write_output(
    x,
    shortcut,
    out,
    mean,
    scale,
    shift,
    columns,
    rows,
    channels,
    chunk_rows,
    SHORTCUT: tl.constexpr,
    RELU: tl.constexpr,
    TILE_ROWS: tl.constexpr,
):
    """Write `relu((x - mean) * scale + shift + shortcut)` for one chunk."""
    first = tl.program_id(0) * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    for start in range(first, last, TILE_ROWS):
        offsets, inside = _tile_of(start, last, columns, channels, TILE_ROWS)
        v = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        y = (v - mean[None, :]) * scale[None, :] + shift[None, :]
        if SHORTCUT:
            y += tl.load(shortcut + offsets, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            y = tl.where(y <= 0, 0.0, y)  # NaN stays
        tl.store(out + offsets, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=_parameters)
def _train(
    x,
    shortcut,
    out,
    weight,
    bias,
    running_mean,
    running_var,
    means,
    squares,
    saved_mean,
    saved_invstd,
    rows,
    channels,
    chunks,
    chunk_rows,
    momentum,
    eps,
    SHORTCUT: tl.constexpr,
    RELU: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    STEP: tl.constexpr,
):
    columns = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    there = columns < channels
    mean, square = _combined(means, squares, columns, rows, channels, chunks, chunk_rows, STEP, TILE_CHANNELS)
    invstd = 1.0 / tl.sqrt(square / rows + eps)
    if tl.program_id(0) == 0:
        tl.store(saved_mean + columns, mean, mask=there)
        tl.store(saved_invstd + columns, invstd, mask=there)
        old_mean = tl.load(running_mean + columns, mask=there, other=0.0)
        old_var = tl.load(running_var + columns, mask=there, other=0.0)
        kept = 1.0 - momentum
        tl.store(running_mean + columns, kept * old_mean + momentum * mean, mask=there)
        tl.store(running_var + columns, kept * old_var + momentum * (square / (rows - 1)), mask=there)
    scale = invstd * tl.load(weight + columns, mask=there, other=0.0)
    shift = tl.load(bias + columns, mask=there, other=0.0)
    _write_output(
        x, shortcut, out, mean, scale, shift, columns, rows, channels, chunk_rows, SHORTCUT, RELU, TILE_ROWS
    )


@triton.jit(do_not_specialize_on_alignment=_parameters)
def _evaluate(
    x,
    shortcut,
    out,
    weight,
    bias,
    running_mean,
    running_var,
    rows,
    channels,
    chunk_rows,
    eps,
    SHORTCUT: tl.constexpr,
    RELU: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    columns = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    there = columns < channels
    mean = tl.load(running_mean + columns, mask=there, other=0.0)
    invstd = 1.0 / tl.sqrt(tl.load(running_var + columns, mask=there, other=1.0) + eps)
    scale = invstd * tl.load(weight + columns, mask=there, other=0.0)
    shift = tl.load(bias + columns, mask=there, other=0.0)
    _write_output(
        x, shortcut, out, mean, scale, shift, columns, rows, channels, chunk_rows, SHORTCUT, RELU, TILE_ROWS
    )


@triton.jit
def _masked(g, v, y, offsets, inside, mean, scale, shift, MASK: tl.constexpr):
    """Return the gradient before the ReLU, for one tile. v: x of the tile; y: the whole output."""
    if MASK == 1:  # BY_X
        g = tl.where((v - mean[None, :]) * scale[None, :] + shift[None, :] <= 0, 0.0, g)
    if MASK == 2:  # BY_OUT
        g = tl.where(tl.load(y + offsets, mask=inside, other=0.0).to(tl.float32) <= 0, 0.0, g)
    return g


@triton.jit(do_not_specialize_on_alignment=_parameters)
def _gradient_sums(
    grad,
    x,
    y,
    masked,
    weight,
    bias,
    saved_mean,
    saved_invstd,
    sums,
    products,
    rows,
    channels,
    chunk_rows,
    MASK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """Write each chunk's sums of the gradient and of its products with the normalised x.

    If the mask is read from the output, the masked gradient, which is the shortcut's, is written too.
    """
    chunk = tl.program_id(0)
    columns = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    there = columns < channels
    mean = tl.load(saved_mean + columns, mask=there, other=0.0)
    invstd = tl.load(saved_invstd + columns, mask=there, other=0.0)
    scale = invstd * tl.load(weight + columns, mask=there, other=0.0)
    shift = tl.load(bias + columns, mask=there, other=0.0)
    first = chunk * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    total = tl.zeros([TILE_CHANNELS], tl.float32)
    product = tl.zeros([TILE_CHANNELS], tl.float32)
    for start in range(first, last, TILE_ROWS):
        offsets, inside = _tile_of(start, last, columns, channels, TILE_ROWS)
        v = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32)
        g = _masked(g, v, y, offsets, inside, mean, scale, shift, MASK)
        if MASK == 2:  # BY_OUT
            tl.store(masked + offsets, g.to(masked.dtype.element_ty), mask=inside)
        total += tl.sum(g, 0)
        # outside, x is not 0 after it is normalised, and the mask may be NaN's
        product += tl.sum(tl.where(inside, g * ((v - mean[None, :]) * invstd[None, :]), 0.0), 0)
    to = chunk * channels + columns
    tl.store(sums + to, total, mask=there)
    tl.store(products + to, product, mask=there)


@triton.jit(do_not_specialize_on_alignment=_parameters)
def _gradient(
    grad,
    x,
    dx,
    weight,
    bias,
    saved_mean,
    saved_invstd,
    sums,
    products,
    dweight,
    dbias,
    rows,
    channels,
    chunks,
    chunk_rows,
    MASK: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
    STEP: tl.constexpr,
):
    columns = tl.program_id(1) * TILE_CHANNELS + tl.arange(0, TILE_CHANNELS)
    there = columns < channels
    total = tl.zeros([TILE_CHANNELS], tl.float32)
    product = tl.zeros([TILE_CHANNELS], tl.float32)
    for start in range(0, chunks, STEP):
        chunk = start + tl.arange(0, STEP)
        inside = (chunk < chunks)[:, None] & there[None, :]
        offsets = chunk[:, None] * channels + columns[None, :]
        total += tl.sum(tl.load(sums + offsets, mask=inside, other=0.0), 0)
        product += tl.sum(tl.load(products + offsets, mask=inside, other=0.0), 0)
    if tl.program_id(0) == 0:
        tl.store(dbias + columns, total, mask=there)
        tl.store(dweight + columns, product, mask=there)
    mean = tl.load(saved_mean + columns, mask=there, other=0.0)
    invstd = tl.load(saved_invstd + columns, mask=there, other=0.0)
    scale = invstd * tl.load(weight + columns, mask=there, other=0.0)
    shift = tl.load(bias + columns, mask=there, other=0.0)
    total, product = total / rows, product / rows
    first = tl.program_id(0) * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    for start in range(first, last, TILE_ROWS):
        offsets, inside = _tile_of(start, last, columns, channels, TILE_ROWS)
        v = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + offsets, mask=inside, other=0.0).to(tl.float32)
        g = _masked(g, v, x, offsets, inside, mean, scale, shift, MASK)
        normalised = (v - mean[None, :]) * invstd[None, :]
        d = scale[None, :] * (g - total[None, :] - normalised * product[None, :])
        tl.store(dx + offsets, d.to(dx.dtype.element_ty), mask=inside)


class Cut(NamedTuple):
    """How a map is cut into chunks of rows, blocks of channels, and tiles."""

    rows: int
    channels: int
    chunks: int
    chunk_rows: int
    tile_rows: int
    tile_channels: int

    @property
    def grid(self) -> tuple[int, int]:
        """Number of programs along rows and channels."""
        return self.chunks, triton.cdiv(self.channels, self.tile_channels)

    @property
    def options(self) -> dict[str, Any]:
        """The tile, and how the kernels are compiled.

        Without fused multiply-adds, so that the backward pass computes the ReLU's input with the same bits as
        the forward pass. The kernels wait for memory and not for arithmetic.
        """
        return {
            "TILE_ROWS": self.tile_rows,
            "TILE_CHANNELS": self.tile_channels,
            "num_warps": WARPS,
            "enable_fp_fusion": False,
        }


def cut(x: Tensor) -> Cut:
    """Return how the map x, `[B, C, H, W]`, is cut. Every chunk has at least one row."""
    channels = x.shape[1]
    rows = x.numel() // channels
    tile_channels = min(MOST_TILE_CHANNELS, max(16, triton.next_power_of_2(channels)))
    tile_rows = TILE // tile_channels
    chunk_rows = triton.cdiv(triton.cdiv(rows, tile_rows), MOST_CHUNKS) * tile_rows
    return Cut(rows, channels, triton.cdiv(rows, chunk_rows), chunk_rows, tile_rows, tile_channels)


def evaluate(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """Return `relu(norm(x) + shortcut)` with the running statistics, without gradient.

    Maps are `[B, C, H, W]` in channels_last.
    """
    out, c = torch.empty_like(x), cut(x)
    parameters = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    with torch.cuda.device_of(x):
        _evaluate[c.grid](
            x,
            x if shortcut is None else shortcut,
            out,
            *parameters,
            c.rows,
            c.channels,
            c.chunk_rows,
            norm.eps,
            SHORTCUT=shortcut is not None,
            RELU=relu,
            **c.options,
        )
    return out


def train(x: Tensor, shortcut: Tensor | None, norm: torch.nn.BatchNorm2d, relu: bool) -> Tensor:
    """Return `relu(norm(x) + shortcut)` with the batch's statistics, and update the running ones in place.

    Maps are `[B, C, H, W]` in channels_last.
    """
    parameters = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    out: Tensor = _Norm.apply(x, shortcut, *parameters, norm.momentum, norm.eps, relu)
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        c = cut(x)
        out, saved = torch.empty_like(x), weight.new_empty(2, c.channels)
        parts = weight.new_empty(2, c.chunks, c.channels)
        with torch.cuda.device_of(x):
            _moments[c.grid](x, *parts, c.rows, c.channels, c.chunk_rows, **c.options)
            _train[c.grid](
                x,
                x if shortcut is None else shortcut,
                out,
                weight,
                bias,
                running_mean,
                running_var,
                *parts,
                *saved,
                c.rows,
                c.channels,
                c.chunks,
                c.chunk_rows,
                momentum,
                eps,
                SHORTCUT=shortcut is not None,
                RELU=relu,
                STEP=STEP,
                **c.options,
            )
        ctx.cut = c
        ctx.mask = (BY_X if shortcut is None else BY_OUT) if relu else OPEN
        ctx.save_for_backward(x, out if ctx.mask == BY_OUT else None, weight, bias, saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, saved = ctx.saved_tensors
        c, mask = ctx.cut, ctx.mask
        grad = grad.contiguous(memory_format=torch.channels_last)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        parts = weight.new_empty(2, c.chunks, c.channels)
        before_relu = torch.empty_like(grad) if mask == BY_OUT else grad
        with torch.cuda.device_of(x):
            _gradient_sums[c.grid](
                grad,
                x,
                x if y is None else y,
                before_relu,
                weight,
                bias,
                *saved,
                *parts,
                c.rows,
                c.channels,
                c.chunk_rows,
                MASK=mask,
                **c.options,
            )
            _gradient[c.grid](
                before_relu,
                x,
                dx,
                weight,
                bias,
                *saved,
                *parts,
                dweight,
                dbias,
                c.rows,
                c.channels,
                c.chunks,
                c.chunk_rows,
                MASK=OPEN if mask == BY_OUT else mask,  # it is masked already
                STEP=STEP,
                **c.options,
            )
        dshortcut = before_relu if ctx.needs_input_grad[1] else None
        return dx, dshortcut, dweight, dbias, None, None, None, None, None
