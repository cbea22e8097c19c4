"""The GPU's kernels of batch norms: their values in Triton's interpreter, and where they are used."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.bench import norm_trials
from benchmark.cli import bench_speed
from benchmark.training.execution import Execution
from models import gpu_norms
from models.gpu_norms import Norms, Shape
from models.layers import BatchNorm2d

CPU = torch.device("cpu")
SHAPE = Shape(18, 8, False, True, True)


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (pip install triton)"
)


@needs_triton
def test_the_kernels_have_the_values_of_the_formulas() -> None:
    cases = Path(__file__).with_name("interpreted_triton_norm.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=cases.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models import triton_norm as t

TYPES = {
    **dict.fromkeys(("x", "shortcut", "out", "grad", "y", "masked", "dx"), "*bf16"),
    **dict.fromkeys(("rows", "channels", "chunks", "chunk_rows"), "i32"),
    **dict.fromkeys(("momentum", "eps"), "fp32"),
}
KERNELS = (
    (t._moments, 80, {}),
    (t._train, 80, {"SHORTCUT": True, "RELU": True, "STEP": t.STEP}),
    (t._evaluate, 90, {"SHORTCUT": True, "RELU": True}),
    (t._gradient_sums, 90, {"MASK": t.BY_OUT}),
    (t._gradient, 90, {"MASK": t.BY_X, "STEP": t.STEP}),
)
for kernel, capability, constants in KERNELS:
    constants |= {"TILE_ROWS": 128, "TILE_CHANNELS": 64}
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else TYPES.get(n, "*fp32") for n in names}
    source = ASTSource(kernel, types, {(names.index(n),): v for n, v in constants.items()})
    options = {"num_warps": t.WARPS, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(kernel.__name__, len(compiled.asm["cubin"]) > 0)
"""


@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """To machine code of compute capability 8.0 or 9.0, which needs no GPU."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**env, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    kernels = ["_moments", "_train", "_evaluate", "_gradient_sums", "_gradient"]
    assert done.stdout.split("\n") == [*(f"{name} True" for name in kernels), ""]


# --- where they are used ----------------------------------------------------------------------------------


class Kernels:
    """Stands for models.triton_norm. off: added to every output; error: raised by every call."""

    def __init__(self, off: float = 0.0, error: Exception | None = None) -> None:
        self.off, self.error, self.calls = off, error, 0

    def train(self, x: Tensor, shortcut: Tensor | None, norm: Any, relu: bool) -> Tensor:
        self.calls += 1
        if self.error is not None:
            raise self.error
        mean, var = norm.running_mean, norm.running_var
        out = F.batch_norm(
            x.float(), mean, var, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps
        )
        out = out if shortcut is None else out + shortcut
        return ((F.relu(out) if relu else out) + self.off).bfloat16()

    evaluate = train


def norms_of(kernels: Kernels, pytorch_ms: float = 2.0, kernel_ms: float = 1.0, **fields: Any) -> Norms:
    """Return kernels for maps of the CPU. The clock gives fixed times."""
    times = iter([pytorch_ms, kernel_ms] * 10)
    fields = {
        "capturing": lambda: False,
        "milliseconds": lambda call, device: (call(), next(times))[1],
    } | fields
    return Norms(kernels, CPU, **fields)


def a_map(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return x.bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_used_if_right_and_faster(shortcut: bool, training: bool, relu: bool) -> None:
    shape = Shape(50, 8, shortcut, relu, training)
    assert norms_of(Kernels()).accept(shape)
    wrong = norms_of(Kernels(off=0.5))
    assert not wrong.accept(shape) and not wrong.trials[shape].right
    slow = norms_of(Kernels(), pytorch_ms=1.0, kernel_ms=1.0)
    assert not slow.accept(shape) and slow.trials[shape].right


def test_wrong_statistics_or_gradients_are_seen() -> None:
    class Unmoved(Kernels):
        def train(self, x: Tensor, shortcut: Tensor | None, norm: Any, relu: bool) -> Tensor:
            kept = SimpleNamespace(**{**vars(norm), "running_mean": None, "running_var": None})
            kept.weight, kept.bias = norm.weight, norm.bias
            return super().train(x, shortcut, kept, relu)

    class NoGradient(Kernels):
        def train(self, x: Tensor, shortcut: Tensor | None, norm: Any, relu: bool) -> Tensor:
            out = super().train(x, shortcut, norm, relu)
            return out + 0.1 * (x - x.detach())

    for kernels in (Unmoved(), NoGradient()):
        trial = norms_of(kernels).attempt(SHAPE)
        assert not trial.right and not trial.error, type(kernels).__name__


def test_a_shape_is_tried_once_and_never_in_a_capture() -> None:
    kernels, capturing = Kernels(), True
    norms = norms_of(kernels, capturing=lambda: capturing)
    assert not norms.accept(SHAPE) and kernels.calls == 0 and not norms.trials
    capturing = False
    assert norms.accept(SHAPE)
    calls, capturing = kernels.calls, True
    assert norms.accept(SHAPE) and kernels.calls == calls


def test_a_trial_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    norms_of(Kernels()).attempt(SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_an_error_is_kept_and_nothing_fails() -> None:
    norms = norms_of(Kernels(error=RuntimeError("\n  no ptxas\nmore")))
    assert gpu_norms.probe(norms) == "the Triton kernels cannot be used: RuntimeError: no ptxas"
    norm, x = BatchNorm2d(8), a_map(2, 8, 3, 3)
    with gpu_norms.using(norms):
        out = norm(x, None, True)
    assert norms.trials[SHAPE].error == "RuntimeError: no ptxas"
    assert torch.equal(out, BatchNorm2d(8)(x, None, True))
    assert gpu_norms.probe(norms_of(Kernels(off=1.0))) == "the Triton kernels do not give PyTorch's values"


def test_what_they_are_not_made_for() -> None:
    """PyTorch's operators are used for fp32, other layouts and shapes, and for gradients in eval mode."""
    norm, x = BatchNorm2d(16), a_map(4, 16, 4, 4)

    def used(x: Tensor, shortcut: Tensor | None = None, norm: BatchNorm2d = norm) -> bool:
        return gpu_norms.used_for(x, shortcut, norm, True) is not None

    assert not used(x)
    with gpu_norms.using(norms_of(Kernels())):
        assert used(x) and used(x, x)
        assert not used(x.float()) and not used(x.contiguous())
        assert not used(x, x.contiguous()) and not used(x, x.float()) and not used(x, x[:1])
        assert not used(a_map(4, 32, 4, 4)[:, :16])
        assert not used(x, norm=BatchNorm2d(16).to(torch.bfloat16))
        assert not used(a_map(1, 16, 1, 1)) and not used(x.to("meta"))
        assert not used(a_map(5, 3, 3, 1)[1:], norm=BatchNorm2d(3))  # its address does not divide by 16
        norm.eval()
        assert not used(x)
        with torch.no_grad():
            assert used(x)
    assert not used(x)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU, as far as PyTorch's answers go."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.delenv("KD_GPU_NORMS", raising=False)
    gpu_norms._built.cache_clear()
    yield
    gpu_norms._built.cache_clear()


def test_why_they_cannot_be_used(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Triton, a failed compilation, an old GPU, switched off: a reason in one line, and no kernels."""

    def reason(module: Any) -> str:
        def load(name: str) -> Any:
            assert name == "models.triton_norm"
            if isinstance(module, Exception):
                raise module
            return module

        gpu_norms._built.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", load)
            execution = Execution("cuda", "bf16")
            assert not execution.kernels and execution.describe()["kernels"] is None
            return execution.kernels_error

    missing = ModuleNotFoundError("No module named 'triton'")
    assert reason(missing) == "ModuleNotFoundError: No module named 'triton'"
    assert reason(Kernels()).startswith("the Triton kernels cannot be used: ")  # there is no CUDA here
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert reason(Kernels()) == "compute capability 7.5 is below 8.0"
    monkeypatch.setenv("KD_GPU_NORMS", "off")
    assert reason(Kernels()) == "KD_GPU_NORMS is off"


def test_the_record_names_them(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = norms_of(Kernels())
    monkeypatch.setattr(importlib, "import_module", lambda name: norms.kernels)
    monkeypatch.setattr(gpu_norms, "Norms", lambda kernels, device: norms)
    execution = Execution("cuda", "bf16")
    assert execution.kernels and execution.describe()["kernels"].startswith("triton-norm-")
    with execution.applied():
        assert gpu_norms.used_for(a_map(2, 8, 3, 3), None, BatchNorm2d(8), True) is norms.kernels
    assert gpu_norms.used_for(a_map(2, 8, 3, 3), None, BatchNorm2d(8), True) is None
    for other in (Execution("cuda", "tf32"), Execution("cuda", "bf16", graphs=False)):
        assert not other.kernels and other.describe()["kernels"] is None


def test_the_table_of_trials(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(norm_trials, "BATCH", 1)
    monkeypatch.setattr(norm_trials, "MAPS", ((8, 3), (5, 2)))
    rows = norm_trials.measure(norms_of(Kernels(), kernel_ms=4.0))
    assert len(rows) == 2 * 2 * 2
    assert rows[0] == {
        "channels": 8,
        "side": 3,
        "shortcut": False,
        "training": True,
        "right": True,
        "pytorch_ms": 2.0,
        "kernel_ms": 4.0,
        "used": False,
        "error": "",
    }
    bench_speed._print_norm_trials(rows)
    printed = [[c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["8 of 3x3", "train", "yes", "2.000", "4.000", "no"] in printed
    assert ["5 of 2x2, shortcut", "eval", "yes", "2.000", "4.000", "no"] in printed
    rows = norm_trials.measure(norms_of(Kernels(error=ValueError("no"))))
    assert {r["error"] for r in rows} == {"ValueError: no"} and not any(r["used"] for r in rows)
