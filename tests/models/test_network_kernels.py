"""The kernels of models/norm.c: they have the values of the plain form, and they are used where they fit."""

from __future__ import annotations

import itertools
import os
import platform
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import models
from benchmark.training.execution import Execution
from models import kernel_cache, kernels
from models.layers import BatchNorm2d, NormReLU

ROOT = Path(models.__file__).resolve().parent.parent
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler"
)


@pytest.fixture
def in_use() -> Iterator[None]:
    assert kernels.built().library is not None, kernels.built().error
    with kernels.using(True):
        yield


def maps(*shape: int, seed: int = 0) -> Tensor:
    """bf16 in channels_last, the channels of different means and scales."""
    generator = torch.Generator().manual_seed(seed)
    scale, mean = (torch.rand(shape[1], generator=generator) + 0.5 for _ in range(2))
    x = torch.randn(*shape, generator=generator) * scale[:, None, None] + 3 * (mean - 1)[:, None, None]
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


def norm_of(channels: int, seed: int = 0) -> BatchNorm2d:
    generator = torch.Generator().manual_seed(100 + seed)
    norm = BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) * 2 - 0.5)  # some negative
        norm.bias.copy_(torch.randn(channels, generator=generator))
    return norm


def plainly(norm: BatchNorm2d, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    """In float64, by the formula (Ioffe & Szegedy, ICML 2015)."""
    x = x.double()
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    out = (x - mean) / torch.sqrt(var + norm.eps) * norm.weight.double()[:, None, None] + norm.bias.double()[
        :, None, None
    ]
    if shortcut is not None:
        out = out + shortcut.double()
    return F.relu(out) if relu else out


def far(got: Tensor, exact: Tensor) -> float:
    """Return the largest difference, in units of bf16's rounding: 2^-8 of max(number, 1% of the largest)."""
    exact = exact.detach()
    unit = exact.abs().clamp_min(0.01 * float(exact.abs().max()) + 1e-9) * 2**-8
    return float(((got.detach().double() - exact).abs() / unit).max())


SHAPES = [
    (4, 1, 3, 5),
    (3, 5, 7, 3),
    (8, 16, 8, 8),
    (5, 24, 5, 7),
    (7, 58, 3, 3),
    (64, 64, 2, 2),
    (2, 116, 16, 16),
    (3, 240, 9, 9),
    (66, 2048, 1, 1),
]
"""With rows that fill no whole period, channels that fill no vector, and more than one chunk."""


@needs_compiler
@pytest.mark.parametrize(("shortcut", "relu"), list(itertools.product((False, True), (False, True))))
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(in_use: None, shape: tuple[int, ...], shortcut: bool, relu: bool) -> None:
    norm = norm_of(shape[1])
    x, grad = maps(*shape).requires_grad_(), maps(*shape, seed=1)
    beside = maps(*shape, seed=2).requires_grad_() if shortcut else None
    inputs = [x, norm.weight, norm.bias, *([beside] if beside is not None else [])]
    got = norm(x, beside, relu)
    assert type(got.grad_fn).__name__ == "_NormBackward"
    exact = plainly(norm, x, beside, relu)
    assert got.dtype == torch.bfloat16 and got.is_contiguous(memory_format=torch.channels_last)
    assert far(got, exact) <= 1.1
    # The exact gradient uses the ReLU's mask of the rounded output, so numbers near zero do not matter.
    open_at = (got > 0) if relu else torch.ones_like(got, dtype=torch.bool)
    assert bool((open_at == (exact > 0)).all()) or not relu
    found = torch.autograd.grad(got, inputs, grad)
    expected = torch.autograd.grad(exact, inputs, grad.double())
    for have, want, like in zip(found, expected, inputs, strict=True):
        assert have.dtype == like.dtype
        # autograd hands the exact gradient on in the dtype of the input, so its own rounding is in it
        assert far(have, want.double()) <= (2.1 if like.dtype == torch.bfloat16 else 0.1)
    if beside is not None:
        assert torch.equal(found[3], grad * open_at)


@needs_compiler
def test_statistics(in_use: None) -> None:
    """The running ones move as PyTorch's do, and evaluation reads them."""
    own, theirs = norm_of(24), torch.nn.BatchNorm2d(24)
    theirs.load_state_dict(own.state_dict())
    for turn in range(3):
        x = maps(6, 24, 5, 5, seed=turn)
        own(x), theirs(x.float())
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(own, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    own.eval(), theirs.eval()
    x, beside = maps(6, 24, 5, 5, seed=9), maps(6, 24, 5, 5, seed=10)
    for shortcut, relu in itertools.product((None, beside), (False, True)):
        with torch.no_grad():
            got, exact = own(x, shortcut, relu), theirs.double()(x.double())
        exact = exact if shortcut is None else exact + shortcut.double()
        assert far(got, F.relu(exact) if relu else exact) <= 1.1


@needs_compiler
def test_a_mean_far_from_zero(in_use: None) -> None:
    """The variance is not lost beside the square of the mean."""
    x = (
        (1000 + 8 * torch.randn(16, 8, 8, 8, generator=torch.Generator().manual_seed(0)))
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
    )
    norm = BatchNorm2d(8)
    assert far(norm(x), plainly(norm, x, None, False)) <= 1.1


@needs_compiler
@pytest.mark.parametrize("shortcut", [False, True])
def test_not_a_number_is_not_hidden(in_use: None, shortcut: bool) -> None:
    """A diverged training is seen: PyTorch's ReLU lets NaN pass too."""
    x, beside = maps(4, 16, 4, 4), maps(4, 16, 4, 4, seed=2)
    x[1, 3, 2, 2] = float("nan")
    if shortcut:
        beside[0, 5, 0, 0] = float("nan")
    out = norm_of(16)(x.requires_grad_(), beside if shortcut else None, True)
    assert bool(out[:, 3].isnan().all()) and int(out[:, 5].isnan().sum()) == int(shortcut)
    (of_x,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert bool(of_x[:, 3].isnan().all()) and not bool(of_x[:, 4].isnan().any())


@needs_compiler
def test_not_where_many_threads_share_a_map(in_use: None) -> None:
    norm, x, was = norm_of(16), maps(4, 16, 4, 4), torch.get_num_threads()
    try:
        found = [
            torch.set_num_threads(n) or kernels.fits(x, None, norm)
            for n in (1, kernels.MOST_THREADS, kernels.MOST_THREADS + 1)
        ]
    finally:
        torch.set_num_threads(was)
    assert found == [True, True, False]
    assert Execution("cpu", "bf16", 8).kernels and not Execution("cpu", "bf16", 8, student_threads=4).kernels


@needs_compiler
def test_what_they_are_not_made_for(in_use: None) -> None:
    """PyTorch's operators are used for fp32, other layouts and shapes, and for gradients in eval mode."""
    norm, x = norm_of(16), maps(4, 16, 4, 4)
    assert kernels.fits(x, None, norm) and kernels.fits(x, x, norm)
    assert not kernels.fits(x.float(), None, norm)
    assert not kernels.fits(x.contiguous(), None, norm)
    assert (
        not kernels.fits(x, x.contiguous(), norm)
        and not kernels.fits(x, x.float(), norm)
        and not kernels.fits(x, x[:1], norm)
    )
    assert not kernels.fits(maps(4, 32, 4, 4)[:, :16], None, norm)
    assert not kernels.fits(x, None, norm_of(16).to(torch.bfloat16))
    assert not kernels.fits(maps(1, 16, 1, 1), None, norm)  # PyTorch has the error for it
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(maps(1, 16, 1, 1))
    norm.eval()
    x.requires_grad_()
    (of_x,) = torch.autograd.grad(norm(x, None, True).float().sum(), x)
    assert bool(of_x.isfinite().all())


LARGE = (
    *("ResNet101", "ResNeXt50", "ResNet50_default", "vgg16", "vgg19"),
    *(name for name in models.names() if name.endswith(("_imagenet", "_lite0"))),
)
"""Networks that have the blocks of others; left out to save time."""


@needs_compiler
@pytest.mark.parametrize("name", [name for name in models.names() if name not in LARGE])
def test_networks(name: str) -> None:
    """With the kernels no network differs more from fp32 than without them; for gradients, in the median."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    target = torch.arange(8)

    def run(precision: str, own: bool) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        net = models.build(name, num_classes=10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with Execution("cpu", precision).autocast(), kernels.using(own):
            z = net.features(x, preacts=False).logits.float()
        F.cross_entropy(z, target).backward()
        return z.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    exact, plain, own = run("fp32", False), run("bf16", False), run("bf16", True)

    def off(found: tuple[Tensor, dict[str, Tensor]]) -> tuple[float, float]:
        logits = float((found[0] - exact[0]).norm() / exact[0].norm())
        parts = [
            float((g - exact[1][n]).norm() / exact[1][n].norm().clamp_min(1e-12)) for n, g in found[1].items()
        ]
        return logits, sorted(parts)[len(parts) // 2]

    for have, have_plain in zip(off(own), off(plain), strict=True):
        assert have <= 1.3 * have_plain + 0.01
    assert not torch.equal(own[0], plain[0])  # they were used


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Build or load the kernels with an empty cache; returns `Kernels.error`, "" if they can be used."""

    def build(source: Path = kernels.SOURCE, **environment: str) -> str:
        monkeypatch.setattr(kernels, "SOURCE", source)
        for name, value in {"XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}.items():
            monkeypatch.setenv(name, value)
        kernels.built.cache_clear()
        error, name = kernels.built().error, kernels.built().name
        assert Execution("cpu", "bf16").describe()["kernels"] == (None if error else name)
        return error

    yield build
    kernels.built.cache_clear()


def built_apart(tmp_path: Path) -> str:
    """As `built`, in a new process."""
    code = "from models import kernels; print(kernels.built().error)"
    got = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return got.stdout.strip()


@needs_compiler
def test_built_once(tmp_path: Path, built: Callable[..., str]) -> None:
    assert built() == ""
    (kept,) = (tmp_path / "cache" / "kd-tables").iterdir()
    before = kept.stat().st_mtime_ns
    assert built() == "" and kept.stat().st_mtime_ns == before
    content = kept.read_bytes()
    kept.unlink()  # this process has loaded it
    kept.write_bytes(content[:5000])  # loading half a library would kill the process
    assert built_apart(tmp_path) == ""
    (kept,) = kept.parent.iterdir()
    assert kept.stat().st_size > 10_000 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_a_planted_library_is_not_loaded(tmp_path: Path, mode: int, built: Callable[..., str]) -> None:
    """In a folder of ours its content must have the hash in its name; a folder of all users is not used."""
    assert built() == ""
    (kept,) = (tmp_path / "cache" / "kd-tables").iterdir()
    code, planted, trace = tmp_path / "planted.c", tmp_path / "planted.so", tmp_path / "it-was-loaded"
    code.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void planted(void)"
        f'{{ FILE *f = fopen("{trace}", "w"); if (f) fclose(f); }}\n'
    )
    compiler = next(name for name in ("cc", "gcc", "clang") if shutil.which(name))
    subprocess.run([compiler, "-shared", "-fPIC", str(code), "-o", str(planted)], check=True)
    name = kept.name.rpartition("-")[0]
    if mode == 0o700:
        kept.write_bytes(planted.read_bytes())
    else:
        kernel_cache.keep(kept.parent, name, planted)  # with the right hash in its name
        kept.unlink()
    kept.parent.chmod(mode)
    before = sorted(kept.parent.iterdir())
    assert built() == "" and not trace.exists()
    if mode != 0o700:
        assert sorted(kept.parent.iterdir()) == before  # nothing is kept there either


@needs_compiler
def test_a_linked_cache_folder_is_not_used(tmp_path: Path, built: Callable[..., str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kd-tables").symlink_to(elsewhere)
    assert built() == "" and list(elsewhere.iterdir()) == []


@needs_compiler
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, built: Callable[..., str]) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # not valid: it must be absolute

    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(kernel_cache.UnsafeFolder, match="there is no cache folder"):
        kernel_cache.folder()
    assert built(XDG_CACHE_HOME="relative") == ""


@needs_compiler
def test_odd_compilers(tmp_path: Path, built: Callable[..., str]) -> None:
    """No compiler and none of its messages stops a run."""
    assert built(CC="cc 'half a quote").startswith("CC=cc 'half a quote: No closing")
    script = tmp_path / "compiler"
    script.write_bytes(b"#!/bin/sh\nprintf '\\377\\376 no\\n' >&2\nexit 3\n")
    script.chmod(0o755)
    assert built(CC=str(script)).endswith("cannot compile norm.c: \ufffd\ufffd no")
    assert "cannot build norm.c" in built(CC=str(tmp_path))


@needs_compiler
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere there is no other form")
@pytest.mark.parametrize("without", ["-mno-avx512bf16", "-mno-avx512f"])
def test_on_processors_without_avx512(without: str, built: Callable[..., str]) -> None:
    """The form for any processor has PyTorch's values too (`_agrees`)."""
    compiler = next(name for name in ("cc", "gcc", "clang") if shutil.which(name))
    assert built(CC=f"{compiler} {without}") == ""


@needs_compiler
def test_a_home_that_cannot_be_written(tmp_path: Path, built: Callable[..., str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert built() == ""


def test_no_compiler(tmp_path: Path, built: Callable[..., str]) -> None:
    assert "cannot build norm.c" in built(CC="no-such-compiler")
    assert "cannot compile norm.c: exit code 1" in built(CC="false")
    assert (
        built(CC="", PATH=str(tmp_path))
        == "there is no C compiler: install one of cc, gcc, clang, or name one in CC"
    )


@needs_compiler
def test_a_library_with_wrong_values_is_rejected(tmp_path: Path, built: Callable[..., str]) -> None:
    """The library is tested before it is used."""
    wrong, right = tmp_path / "norm.c", kernels.SOURCE.read_text()
    for good, bad in (("v < 0 ? 0 : v", "v"), ("* along / rows", "* along"), ("rows / (rows - 1)", "1")):
        assert good in right
        wrong.write_text(right.replace(good, bad))
        assert "does not give PyTorch's values" in built(wrong)
    wrong.write_text("this is no C")
    assert "cannot compile norm.c" in built(wrong)


def test_only_bf16_on_a_cpu() -> None:
    assert not Execution("cpu", "fp32").kernels and not Execution("cuda", "bf16").kernels
    assert Execution("cpu", "fp32").describe()["kernels"] is None
    with Execution("cpu", "fp32").applied():
        assert not kernels.fits(maps(4, 16, 4, 4), None, norm_of(16))


@needs_compiler
def test_in_use_within_the_execution() -> None:
    bf16, x, norm = Execution("cpu", "bf16"), maps(4, 16, 4, 4), NormReLU(16)
    with bf16.applied():
        assert kernels.fits(x, None, norm)
        with Execution("cpu", "fp32").applied():  # a teacher in its own precision
            assert not kernels.fits(x, None, norm)
        assert kernels.fits(x, None, norm)
    assert not kernels.fits(x, None, norm)
