"""Networks of any torch module: its stages, embedding and logits are taken by forward hooks.

`NetworkByHooks` names the sub-modules. So a network of torchvision, of timm or of one's own needs no
rewriting:

    network = NetworkByHooks(
        name="resnet18_tv", build=build, stem="maxpool",
        stages=("layer1", "layer2", "layer3", "layer4"), classifier="fc",
    )

A name stands for the output of the sub-module, `NAME:input` for its (first) input. A sub-module that runs
several times in a pass gives its last run. Outputs are maps `[B, C, H, W]`, or tokens `[B, N, D]`, which
become maps `[B, D, H, W]` of the square grid that the tokens form.

ReLUs that work in place are switched to ordinary ones, because they would overwrite pre-activations.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.features import Features
from models.network import Network

INPUT = ":input"
"""Follows the name of a sub-module to mean its input."""

_IDENTIFIER = re.compile("[A-Za-z][A-Za-z0-9_]*")


class NetworkError(ValueError):
    """A network of the user's is wrong. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class NetworkByHooks:
    """A network made of any torch module. Raises `ValueError` for a field of the wrong type."""

    name: str
    """The name in pairs and tables: letters, digits and `_`."""

    build: Callable[[int], nn.Module]
    """Makes the module for a number of classes. Its weights are drawn from the global generators of PyTorch,
    Python or NumPy, which a run seeds before. Images are `[B, 3, 32, 32]`."""

    stem: str
    """The sub-module after which the stages begin."""

    stages: tuple[str, ...]
    """One sub-module for each stage, in order."""

    classifier: str
    """The last linear layer (an `nn.Linear`); its output has a column for each class."""

    embedding: str = ""
    """What the classifier reads, `[B, D]`; by default the classifier's input. Name it where a dropout layer
    comes between."""

    logits: str = ""
    """The logits; by default what the module returns."""

    preacts: tuple[str, ...] = ()
    """The map of each stage before its last ReLU (in a torchvision ResNet, `layer1.1.relu:input`). Empty:
    the network gives no pre-activations, and methods that read them cannot train it."""

    extra_tokens: int = 0
    """Tokens that are no part of the grid and come first, such as a class token."""

    channels_last: bool = False
    """Whether four-dimensional outputs are `[B, H, W, C]`, as those of Swin transformers."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _IDENTIFIER.fullmatch(self.name):
            raise ValueError(f"a network is called {self.name!r}; allowed: letters, digits and _")
        for field in ("stages", "preacts"):
            value = getattr(self, field)
            if not isinstance(value, tuple | list) or not all(isinstance(v, str) and v for v in value):
                raise ValueError(f"{field} of network {self.name} is {value!r}; give a tuple of names")
        for field in ("stem", "classifier", "embedding", "logits"):
            if not isinstance(value := getattr(self, field), str):
                raise ValueError(
                    f"{field} of network {self.name} is {value!r}; give the name of a sub-module"
                )
        if not self.stages or not self.stem or not self.classifier:
            raise ValueError(f"network {self.name} needs a stem, at least one stage and a classifier")
        if self.preacts and len(self.preacts) != len(self.stages):
            raise ValueError(
                f"network {self.name} has {len(self.stages)} stages and {len(self.preacts)} preacts; "
                "give one for each stage, or none"
            )
        if not callable(self.build):
            raise ValueError(
                f"build of network {self.name} is {self.build!r}; give a function of num_classes"
            )

    def __call__(self, num_classes: int) -> HookedNetwork:
        """Return the network with fresh weights."""
        return HookedNetwork(self, num_classes)

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of everything that is taken from a pass, each once."""
        embedding = self.embedding or self.classifier + INPUT
        named = (self.stem, *self.stages, *self.preacts, embedding, self.logits)
        return tuple(dict.fromkeys(name for name in named if name))


class _Passes(threading.local):
    """The passes that a thread is in: what is kept of each by name, None for one that keeps nothing."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any] | None] = []


_passes = _Passes()
"""Each thread has its own, so students that are stepped side by side can share a teacher."""


class _Versions(dict[str, Any]):
    """What is kept of a pass, with the number of changes in place that each tensor had when it was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[str, int] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if isinstance(value, Tensor):
            self.versions[name] = value._version


class _KeepOutput:
    """A forward hook that keeps a module's output. An object, which a deep copy of the network copies."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if _passes.kept and (kept := _passes.kept[-1]) is not None:
            kept[self.name] = output


class _KeepInput(_KeepOutput):
    """A hook before a module that keeps its first input."""

    def __call__(self, _module: nn.Module, inputs: Any, output: Any = None) -> None:
        super().__call__(_module, None, inputs[0] if inputs else None)


class HookedNetwork(Network):
    """A torch module as a network. Its tensors are called as the module's, after `inner.`."""

    def __init__(self, spec: NetworkByHooks, num_classes: int) -> None:
        super().__init__()
        self.spec = spec
        inner = spec.build(num_classes)
        if not isinstance(inner, nn.Module):
            raise NetworkError(f"build returned a {type(inner).__name__}; it must return a torch module")
        self.inner = inner
        for module in inner.modules():
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        for name in spec.taps:
            path = name.removesuffix(INPUT)
            module = self._module(path)
            if name.endswith(INPUT):
                module.register_forward_pre_hook(_KeepInput(name))
            else:
                module.register_forward_hook(_KeepOutput(name))
        if not isinstance(self._module(spec.classifier), nn.Linear):
            kind = type(self._module(spec.classifier)).__name__
            raise NetworkError(f"the classifier {spec.classifier} is a {kind}; it must be an nn.Linear")

    def _module(self, path: str) -> nn.Module:
        try:
            return self.inner.get_submodule(path)
        except AttributeError:
            names = ", ".join(name for name, _ in self.inner.named_children())
            raise NetworkError(f"it has no sub-module {path}; its first level: {names}") from None

    # --- a pass ---------------------------------------------------------------------------------------------

    def run(self, x: Tensor, keep: bool, kept: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Run the module. Return its output, and what was taken by name. kept: receives what is taken."""
        kept = {} if kept is None else kept
        _passes.kept.append(kept if keep else None)
        try:
            output = self.inner(x)
        finally:
            _passes.kept.pop()
        return output, kept

    def features(self, x: Tensor, preacts: bool = True) -> Features:
        output, kept = self.run(x, keep=True)
        spec = self.spec
        return Features(
            stem=self._map(spec.stem, kept),
            stages=[self._map(name, kept) for name in spec.stages],
            preacts=[self._map(name, kept) for name in spec.preacts] if preacts and spec.preacts else None,
            embedding=_tensor(
                spec.embedding or spec.classifier + INPUT, kept.get(spec.embedding or spec.classifier + INPUT)
            ),
            logits=_tensor(spec.logits, kept.get(spec.logits)) if spec.logits else _tensor("", output),
        )

    def forward(self, x: Tensor) -> Tensor:
        output, kept = self.run(x, keep=bool(self.spec.logits))
        return _tensor(self.spec.logits, kept.get(self.spec.logits) if self.spec.logits else output)

    def overwritten(self, x: Tensor) -> dict[str, bool]:
        """Return, for each name that is taken, whether a later operator of the pass changes it in place."""
        kept = _Versions()
        self.run(x, keep=True, kept=kept)
        return {name: kept[name]._version != version for name, version in kept.versions.items()}

    def _map(self, name: str, kept: dict[str, Any]) -> Tensor:
        """Return what was taken under this name as a map."""
        x = _tensor(name, kept.get(name))
        if x.dim() == 4:
            return x.permute(0, 3, 1, 2) if self.spec.channels_last else x
        if x.dim() != 3:
            raise NetworkError(f"{name} is {tuple(x.shape)}; a map is [B, C, H, W], tokens are [B, N, D]")
        extra = self.spec.extra_tokens
        for skipped in dict.fromkeys((extra, 0)):  # a stem may come before the class token is added
            side = math.isqrt(max(x.shape[1] - skipped, 0))
            if side and side * side == x.shape[1] - skipped:
                return x[:, skipped:].transpose(1, 2).unflatten(2, (side, side))
        raise NetworkError(
            f"{name} has {x.shape[1]} tokens, {extra} of them extra; the others must form a square grid"
        )

    # --- what methods ask for -------------------------------------------------------------------------------

    def head_from_last_stage(self, x_last_map: Tensor) -> tuple[Tensor, Tensor]:
        """Raise `NotImplementedError`: nothing says how the module goes on from a map."""
        raise NotImplementedError(f"{self.name} is a network by hooks, which cannot be run from a map on")

    def linear_head(self) -> nn.Linear:
        head = self._module(self.spec.classifier)
        assert isinstance(head, nn.Linear)
        return head

    def feature_modules(self) -> list[nn.Module]:
        """Return everything but the classifier: the children of the module, and its other parameters."""
        first = self.spec.classifier.partition(".")[0]
        children = [child for name, child in self.inner.named_children() if name != first]
        loose = [p for _, p in self.inner.named_parameters(recurse=False)]
        return [*children, nn.ParameterList(loose)] if loose else children

    @classmethod
    def canonical_key(cls, key: str) -> str:
        return key if key.startswith("inner.") else f"inner.{key}"


def _tensor(name: str, value: Any) -> Tensor:
    """Return a value that was taken. Raises `NetworkError` if it is no tensor."""
    if isinstance(value, Tensor):
        return value
    where = name or "its result"
    if value is None:
        raise NetworkError(f"{where} does not run in a pass, or its input is a keyword; name another one")
    raise NetworkError(f"{where} is a {type(value).__name__} and not a tensor; name another sub-module")
