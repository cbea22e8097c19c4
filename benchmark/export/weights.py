"""Weights of finished runs as files of torch, safetensors, TorchScript and ONNX.

Each file is written under a temporary name, read back by the library that its users will read it with, and
compared with the run's network on images at random. Only then does it get its name.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models
from benchmark.errors import InputError
from benchmark.export.about import NAME
from benchmark.export.packages import need
from benchmark.training.finished import Finished, Predictor
from benchmark.training.kept_weights import AT_TEST

SUFFIXES = {"torch": ".pt", "safetensors": ".safetensors", "torchscript": ".ts", "onnx": ".onnx"}
"""Formats -> suffixes of their files."""

CLOSE = 1e-4
"""The largest difference of logits, relative to the largest logit, where another program computes them."""


class Unlike(InputError):
    """A file that was written gives other logits than the run's network."""


def write(run: Finished, to: str, path: Path, about: Mapping[str, Any]) -> None:
    """Write the run's weights to `path`. to: one of `SUFFIXES`. about: facts that the file states.

    Raises `InputError` if a package is missing, and `Unlike`; an older file stays then.
    """
    writers: dict[str, Callable[[Finished, Path, Mapping[str, Any]], None]] = {
        "torch": _write_torch,
        "safetensors": write_safetensors,
        "torchscript": _write_torchscript,
        "onnx": _write_onnx,
    }
    with _draft(path) as draft:
        writers[to](run, draft, about)


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, in a folder of its own, that replaces it at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder, path.name)
        yield draft
        os.replace(draft, path)


def images(size: int, batch: int = 4) -> Tensor:
    """Return normalised images at random, the same at each call, without touching the global generator.

    size: their side in pixels. An ONNX model takes no images of another one.
    """
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def _expected(net: Predictor, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


def _compare(path: Path, logits: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """Raise `Unlike` if logits differ. tolerance: allowed difference, relative to the largest logit."""
    largest = float(expected.abs().max())
    difference = float((logits - expected).abs().max()) if logits.shape == expected.shape else float("inf")
    if not difference <= tolerance * largest:
        raise Unlike(
            f"{path.name}: gives other logits than the run's network (by {difference:.2g}, with logits up to "
            f"{largest:.2g}), so it was not kept; choose another format, and report this"
        )


# --- state dicts --------------------------------------------------------------------------------------------


def _write_torch(run: Finished, path: Path, about: Mapping[str, Any]) -> None:
    """Write `{"model": state dict, ...}`, with what the file states beside it, for `torch.load`."""
    predictors = {f"{AT_TEST}{name}": m.state_dict() for name, m in run.net.at_test.items()}
    models.save_weights(run.net.student, path, **predictors, **about)
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = dict(content["model"])
    for entry in predictors:
        state |= {f"{entry}.{name}": tensor for name, tensor in content[entry].items()}
    _check_state(run, path, state)


def write_safetensors(run: Finished, path: Path, about: Mapping[str, Any]) -> None:
    """Write one file of tensors. What it states is JSON in its metadata, under `about.NAME`."""
    library = need("safetensors.torch", "safetensors")
    tensors = {name: t.detach().contiguous().clone() for name, t in run.net.tensors().items()}
    library.save_file(tensors, path, metadata={"format": "pt", NAME: json.dumps(about)})
    _check_state(run, path, library.load_file(path, device="cpu"))


def _check_state(run: Finished, path: Path, state: Mapping[str, Tensor]) -> None:
    """Compare the logits of a blank network with the tensors of a file."""
    net = copy.deepcopy(run.net)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
        for name, tensor in net.tensors().items():
            tensor.copy_(state[name])
    x = images(run.size)
    _compare(path, _expected(net, x), _expected(run.net, x))


# --- programs -----------------------------------------------------------------------------------------------


def _check_facts(path: Path, stated: str, about: Mapping[str, Any]) -> None:
    """Raise `Unlike` if a file states other facts (as JSON) than were written into it."""
    if json.loads(stated) != about:
        raise Unlike(f"{path.name}: does not state what was written into it, so it was not kept")


def _write_torchscript(run: Finished, path: Path, about: Mapping[str, Any]) -> None:
    """Write a traced module for `torch.jit.load`. What it states is its extra file `kd-tables.json`."""
    extra = f"{NAME}.json"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that TorchScript is not developed any more
        traced = torch.jit.trace(run.net, images(run.size))
        torch.jit.save(traced, str(path), _extra_files={extra: json.dumps(about)})
        files = {extra: ""}
        loaded = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
        x = images(run.size, batch=3)  # another size of the batch than it was traced with
        logits = loaded(x)
    _check_facts(path, files[extra], about)
    _compare(path, logits, _expected(run.net, x), CLOSE)


def _write_onnx(run: Finished, path: Path, about: Mapping[str, Any]) -> None:
    """Write an ONNX model with a free batch size. What it states is JSON in its `metadata_props`."""
    runtime = need("onnxruntime", "onnx")
    need("onnx", "onnx")
    need("onnxscript", "onnx")
    x = images(run.size)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                program = torch.onnx.export(
                    run.net,
                    (x,),
                    dynamo=True,
                    verbose=False,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                )
    except Exception as error:  # the exporter's errors have many types
        raise InputError(
            f"{run.key}: torch.onnx cannot write this network ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}); try --to torchscript"
        ) from error
    assert program is not None
    program.model.metadata_props[NAME] = json.dumps(about)
    program.save(str(path), external_data=False)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _check_facts(path, session.get_modelmeta().custom_metadata_map.get(NAME, "null"), about)
    x = images(run.size, batch=3)
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    _compare(path, torch.from_numpy(logits), _expected(run.net, x), CLOSE)
