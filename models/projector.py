"""Projectors: the small networks on top of the embedding with which self-supervised networks are trained.

A projector is a sequence of layers called `projector.0`, `projector.2` ... in a state dict. Two forms are
known, told apart by their tensors:

    MoCo-v2, SimCLR    Linear-ReLU-Linear               0, 2       released as encoder_q.fc.0, encoder_q.fc.2
    SwAV               Linear-BatchNorm-ReLU-Linear     0, 1, 3    released as projection_head.0, .1, .3

Networks released with such a projector have no classifier.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

PREFIX = "projector."
"""What the names of a projector's tensors begin with in the state dict of a network."""

_SWAV, _SWAV_ONLY = "projection_head.", ("prototypes.",)
_MOCO = ("fc.0.", "fc.2.")


def with_known_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which the tensors of MoCo-v2's and SwAV's projectors are called `projector.*`.

    SwAV's prototypes, which only its pre-training uses, are left out.
    """
    names = {}
    for key in state:
        if key.startswith(_MOCO):
            names[key] = PREFIX + key.removeprefix("fc.")
        elif key.startswith(_SWAV):
            names[key] = PREFIX + key.removeprefix(_SWAV)
        elif not key.startswith(_SWAV_ONLY):
            names[key] = key
    return {name: state[key] for key, name in names.items()}


def of_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the projector's tensors in the state dict of a network, under the names of its own modules."""
    return {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}


def state_of_projector(projector: nn.Module | None) -> dict[str, Tensor]:
    """Return a projector's tensors as they are called in the state dict of a network; {} for None."""
    state = {} if projector is None else projector.state_dict()
    return {PREFIX + key: tensor for key, tensor in state.items()}


def mlp(size: int, hidden: int, out: int, *, norm: bool = False) -> nn.Sequential:
    """Return Linear-ReLU-Linear, with a batch norm before the ReLU if `norm`: `[n, size]` to `[n, out]`."""
    norms = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(size, hidden), *norms, nn.ReLU(), nn.Linear(hidden, out))


def build_projector(state: Mapping[str, Tensor]) -> nn.Sequential | None:
    """Return a projector for these tensors, with fresh weights; None if it is of no known form."""
    norm = "1.weight" in state
    first, last = state.get("0.weight"), state.get("3.weight" if norm else "2.weight")
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        return None
    return mlp(first.shape[1], first.shape[0], last.shape[0], norm=norm)
