"""A number depends on its run alone, whatever a method of one's own does.

A method that changes what the runs share, or has an error in one of its functions, fails alone and by name;
the other runs get the weights that they get without it. Draws from global generators are repeatable.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tape import Tape
from torch import nn
from training_kit import FP32, small_run, train, weights

from benchmark import methods, torch_settings
from benchmark.bench.ours import open_active_runs, open_stream, random_split
from benchmark.data.stream import Batch
from benchmark.errors import InputError
from benchmark.methods import Leak, MethodError
from benchmark.seeds import global_states
from benchmark.spec.runs import Run
from benchmark.training import graphs
from benchmark.training import lockstep as lockstep_module
from benchmark.training.active_run import ActiveRun
from benchmark.training.graphs import GraphStepper
from benchmark.training.guard import Originals, RunGuard, named_tensors
from benchmark.training.lockstep import Lockstep


def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step the students in two lanes, although the teacher's pass uses one thread."""
    monkeypatch.setattr(lockstep_module, "lanes", lambda execution: lockstep_module._lanes(2, 1))


def enter(context: Any) -> None:
    context.__enter__()


def kept(context: Any, contexts: list[Any] = []) -> Any:  # noqa: B006
    """Return the context, and keep it: PyTorch leaves inference mode when its context is deleted."""
    contexts.append(context)
    return context


@torch.no_grad()
def zero(tensor: torch.Tensor) -> None:
    tensor.zero_()


def fc(method: Any) -> nn.Linear:
    return method.context.teacher_net.linear_head()


STEP_LEAKS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "labels": (lambda m, s: s.labels.zero_(), r"writes to step\.labels in place"),
    "indices": (lambda m, s: s.indices.zero_(), r"writes to step\.indices in place"),
    "images": (lambda m, s: s.images["normal"].mul_(2), r"writes to step\.images\['normal'\] in place"),
    "logits": (lambda m, s: s.teacher.logits.add_(1), r"writes to step\.teacher\.logits in place"),
}
"""What a step shares."""

KEPT_LEAKS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "train_labels": (lambda m, _: m.context.train_labels.zero_(), r"writes to context\.train_labels"),
    "weight": (lambda m, _: zero(fc(m).weight), r"changes the teacher \(.*weight\)"),
    "statistics": (
        lambda m, _: next(b for b in m.context.teacher_net.buffers() if b.dim() == 1).add_(1),
        r"changes the teacher \(.*running_mean\)",
    ),
    "train_mode": (lambda m, _: m.context.teacher_net.train(), "puts the teacher into train mode"),
}
"""What the runs share for longer than a step."""

SETTING_LEAKS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "autocast": (lambda m, _: enter(torch.autocast("cpu", torch.bfloat16)), "autocast on cpu"),
    "grad": (lambda m, _: torch.set_grad_enabled(not torch.is_grad_enabled()), "grad mode"),
    "inference": (lambda m, _: enter(kept(torch.inference_mode())), "inference mode"),
    "threads": (lambda m, _: torch.set_num_threads(torch.get_num_threads() + 1), "the number of threads"),
    "device": (lambda m, _: torch.set_default_device("cpu"), "the function modes"),
    "denormals": (lambda m, _: torch.set_flush_denormal(True), "flushing of denormals"),
    "dtype": (lambda m, _: torch.set_default_dtype(torch.float64), "the default dtype"),
    "matmul": (lambda m, _: torch.set_float32_matmul_precision("medium"), "float32 matmul precision"),
    "tf32": (lambda m, _: setattr(torch.backends, "fp32_precision", "tf32"), "fp32_precision of generic"),
    "cudnn": (lambda m, _: setattr(torch.backends.cudnn, "benchmark", True), r"cudnn\.benchmark"),
    "mkldnn": (lambda m, _: setattr(torch.backends.mkldnn, "enabled", False), r"mkldnn\.enabled"),
    "deterministic": (lambda m, _: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
    "anomaly": (lambda m, _: torch.autograd.set_detect_anomaly(True), "anomaly detection"),
}


def raise_input_error(method: Any, _: Any) -> None:
    raise InputError("planted")


OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "divide": lambda m, _: 1 / 0,
    "exit": lambda m, _: sys.exit(0),
    "input": raise_input_error,
    "past": lambda m, s: s.teacher.logits.data.add_(1),
    "past_weight": lambda m, _: fc(m).weight.data.zero_(),
    "dropout": lambda m, _: m.layer.bias.data.add_(m.dropout(torch.full((10,), 0.01))),
    "draws": lambda m, _: m.layer.bias.data.add_(
        0.01 * (torch.rand(()) + random.random() + float(np.random.rand()))
    ),
    "keeps": lambda m, _: setattr(m, "teacher", m.context.teacher_net),
    "list": lambda m, _: setattr(m, "nets", nn.ModuleList([m.context.teacher_net])),
    "head": lambda m, _: setattr(m.layer, "weight", fc(m).weight),
}


@pytest.fixture(autouse=True)
def leaky(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("methods")
    shutil.copy(Path(__file__).with_name("leaky.py"), folder)
    monkeypatch.setenv("KD_METHODS", str(folder))
    methods.clear_cache()
    cls: Any = methods.get("leaky")
    cls.acts = OTHERS | {k: act for k, (act, _) in (STEP_LEAKS | KEPT_LEAKS | SETTING_LEAKS).items()}
    yield cls
    monkeypatch.undo()
    methods.clear_cache()


def tiny(method: str = "leaky", act: str = "", epochs: int = 2) -> Run:
    settings: dict[str, object] = {"leaky__act": act} if act else {}
    return small_run(
        method,
        recipe__epochs=epochs,
        recipe__batch_size=8,
        recipe__train_images=16,
        recipe__test_images=16,
        **settings,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the teachers of `tiny` runs, and those runs of `kd` without a pack."""
    folder = tmp_path_factory.mktemp("trained")
    train([tiny("kd")], folder)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` without the runs of `kd`."""
    shutil.copytree(trained, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / tiny("kd").key)
    return tmp_path / "runs"


# --- changes of what the runs share -------------------------------------------------------------------------


class OneStep:
    """A pack of `leaky` and `kd` that is stepped once on 8 images."""

    def __init__(self, folder: Path, act: str, main: bool) -> None:
        runs = [tiny("leaky", act), tiny("kd")] if main else [tiny("leaky", act)]
        split = random_split(16, 10, seed=0)
        self.teacher, self.active_runs = open_active_runs(runs, split, FP32, folder, at_main_stage=main)
        assert self.teacher is not None
        self.shared = Originals({"labels": split.labels, **dict(named_tensors(self.teacher))})
        self.stream = open_stream(runs[0], split)
        self.failed: list[tuple[ActiveRun, Exception]] = []

    def step(self) -> Lockstep:
        for active in self.active_runs:
            active.begin_epoch()
        lockstep = Lockstep(self.active_runs, self.teacher, FP32)
        batch = next(lockstep.batches(self.stream, "main", 1))
        lockstep.step(batch, lambda active, error: self.failed.append((active, error)))
        return lockstep


def test_a_write_to_the_share_of_mixed_images_is_noticed() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    guard, share = RunGuard(None, labels), torch.tensor(0.3)
    with pytest.raises(Leak, match=r"writes to step\.mix in place"), guard.step("leaky"):
        mine, _ = guard.share(Batch({}, labels, labels, mix=share), {})
        assert mine.mix is not None
        mine.mix.zero_()


LEAKS = STEP_LEAKS | KEPT_LEAKS | SETTING_LEAKS
IN_STEPS = [(leak, "loss") for leak in LEAKS] + [
    (leak, hook)
    for hook in ("task_loss", "after_step", "init_loss")
    for leak in ("labels", "weight", "grad", "dtype")
    if not (hook == "after_step" and leak == "labels")  # it is not given the step
]


@pytest.mark.parametrize(("leak", "hook"), IN_STEPS)
def test_a_change_in_a_step_names_the_method_and_is_put_back(leak: str, hook: str, tmp_path: Path) -> None:
    settings = torch_settings.read_settings(torch_settings.ALL)
    pack = OneStep(tmp_path, f"{leak}@{hook}", main=hook != "init_loss")
    lockstep = pack.step()
    ((active, error),) = pack.failed
    assert active is pack.active_runs[0] and isinstance(error, Leak) and error.restored
    assert str(error).startswith(f"method 'leaky', {hook}: it ")
    assert re.search(LEAKS[leak][1], str(error)), error
    assert lockstep.spoiled and not lockstep.culprit_unknown
    assert torch_settings.read_settings(torch_settings.ALL) == settings
    assert not any(m.training for m in pack.teacher.modules())  # type: ignore[union-attr]
    if leak in ("train_labels", "weight", "statistics"):
        assert pack.shared.changed()
    pack.shared.put_back()
    assert not pack.shared.changed()


def test_a_method_that_changes_nothing_passes(tmp_path: Path) -> None:
    pack = OneStep(tmp_path, "keeps@__init__", main=True)
    lockstep = pack.step()
    assert not pack.failed and not lockstep.spoiled and not lockstep.values_changed()
    method = pack.active_runs[0].objective.method("leaky")
    assert method.teacher is method.context.teacher_net and not method.teacher.training  # type: ignore
    assert not any("teacher" in name for name in method.state_dict())


@pytest.mark.parametrize("act", ["list@__init__", "head@__init__"])
def test_the_teacher_cannot_be_part_of_a_method(act: str, tmp_path: Path) -> None:
    with pytest.raises(
        MethodError, match=r"method 'leaky', __init__: self\.(nets\.0|layer\.weight) belongs to"
    ):
        OneStep(tmp_path, act, main=True)


def outcomes(runs: list[Run], folder: Path, **options: object) -> dict[str, str]:
    """Train the runs in one pack. Returns status and reason by setting `act`, or by method."""
    ended = train(runs, folder, **options)
    return {
        getattr(o.run.spec.components[0].config, "act", o.run.method): f"{o.status} {o.reason}" for o in ended
    }


@pytest.mark.parametrize(
    ("in_lanes", "acts"),
    [
        (False, ("logits@loss", "past@task_loss", "past_weight@loss", "labels@init_loss")),
        (True, ("labels@loss", "dtype@loss")),
    ],
    ids=["in turn", "side by side"],
)
def test_the_others_of_a_pack_get_the_weights_that_they_get_alone(
    in_lanes: bool, acts: tuple[str, ...], trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_lanes:
        side_by_side(monkeypatch)
    good = tiny("kd")
    runs = [*(tiny("leaky", act) for act in acts), good]
    ended = outcomes(runs, folder)
    assert ended.pop("kd") == "done "
    for act in acts:
        assert ended[act].startswith("failed method 'leaky', "), ended
    assert weights(good, folder) == weights(good, trained)


def test_changes_between_the_steps(trained: Path, folder: Path) -> None:
    hooks = ("__init__", "start_epoch", "predict", "get_extra_state", "after_init", "train")
    leaks = ("weight", "threads", "train_labels", "past_weight", "dtype", "grad")
    acts = [f"{leak}@{hook}" for leak, hook in zip(leaks, hooks, strict=True)]
    runs = [*(tiny("leaky", act) for act in acts), tiny("kd")]
    ended = outcomes(runs, folder)
    assert ended.pop("kd") == "done "
    assert all(text.startswith("failed method 'leaky', ") for text in ended.values()), ended
    assert weights(runs[-1], folder) == weights(runs[-1], trained)


# --- errors -------------------------------------------------------------------------------------------------

HOOKS = (
    "__init__", "start_epoch", "loss", "task_loss", "after_step", "predict", "weight_factor", "init_modules",
    "init_lr", "init_loss", "after_init", "get_extra_state", "train",
)  # fmt: skip


TEXTS = {
    "divide": "ZeroDivisionError: division by zero",
    "exit": "SystemExit: 0",
    "input": "InputError: planted",
}


def test_an_error_in_any_function_ends_its_run_alone(trained: Path, folder: Path) -> None:
    kinds = {hook: list(TEXTS)[i % 3] for i, hook in enumerate(HOOKS)}
    runs = [*(tiny("leaky", f"{kinds[hook]}@{hook}") for hook in HOOKS), tiny("kd")]
    ended = outcomes(runs, folder)
    assert ended.pop("kd") == "done "
    shown = {"get_extra_state": "state_dict", "weight_factor": "weights"}
    for hook, kind in kinds.items():
        expected = f"failed method 'leaky', {shown.get(hook, hook)}: {TEXTS[kind]} (leaky.py, line "
        assert ended[f"{kind}@{hook}"].startswith(expected), ended[f"{kind}@{hook}"]
    assert weights(runs[-1], folder) == weights(runs[-1], trained)


def test_an_error_while_a_run_is_resumed(trained: Path, folder: Path, leaky: Any) -> None:
    bad, good = tiny("leaky", "divide@set_extra_state"), tiny("kd")
    outcomes([bad, good], folder, until=1)
    ended = outcomes([bad, good], folder)
    assert ended["kd"] == "done "
    assert ended["divide@set_extra_state"].startswith(
        "failed method 'leaky', load_state_dict: ZeroDivisionError"
    )
    assert weights(good, folder) == weights(good, trained)


def test_state_that_a_checkpoint_cannot_hold(
    folder: Path, leaky: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaky, "get_extra_state", lambda self: {"f": Path})
    (ended,) = outcomes([tiny()], folder).values()
    assert ended.startswith(
        "failed method 'leaky', get_extra_state: a checkpoint cannot hold what it returns"
    )


def test_ctrl_c_and_signals_are_passed_on(folder: Path, leaky: Any) -> None:
    def interrupt(method: Any, _: Any) -> None:
        raise KeyboardInterrupt

    def terminate(method: Any, _: Any) -> None:
        signal.raise_signal(signal.SIGUSR1)

    leaky.acts = {"interrupt": interrupt, "terminate": terminate}
    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit(3))
    try:
        with pytest.raises(KeyboardInterrupt):
            train([tiny("leaky", "interrupt@loss")], folder)
        with pytest.raises(SystemExit):
            train([tiny("leaky", "terminate@loss")], folder)
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- draws from global generators ---------------------------------------------------------------------------


def test_draws_from_global_generators_are_repeatable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, resumed in a pack, side by side, and whatever was drawn before."""
    acts = ("", "dropout@loss", "draws@loss", "draws@start_epoch", "draws@after_init")
    runs = [tiny("leaky", act) for act in acts]
    found = []
    for number, (packs, in_lanes, until) in enumerate(
        [([[run] for run in runs], False, None), ([runs[::-1]], False, 1), ([runs[1:3]], True, None)]
    ):
        if in_lanes:
            side_by_side(monkeypatch)
        torch.rand(number), random.random(), np.random.rand(number)
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        before = global_states()
        for pack in packs:
            if until:
                train(pack, copy, until=until)
            assert {o.status for o in train(pack, copy)} == {"done"}
        assert global_states() == before
        found.append([weights(run, copy) for pack in packs for run in pack])
    assert found[0] == found[1][::-1] and found[0][1:3] == found[2]
    assert len(set(found[0])) == len(acts), "the draws matter"


def test_a_step_that_draws_globally_is_not_replayed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, good = tiny("leaky", "dropout@loss"), tiny("kd")
    eager = tmp_path / "eager"
    shutil.copytree(folder, eager)
    train([run, good], eager)
    notes: list[str] = []
    monkeypatch.setattr(graphs, "stepper_for", lambda execution, note: GraphStepper(Tape(), notes.append))
    train([run, good], folder)
    assert [n for n in notes if run.key in n and "draws from a global generator" in n]
    for r in (run, good):
        assert weights(r, folder) == weights(r, eager)


def test_a_change_in_a_captured_step(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(graphs, "stepper_for", lambda execution, note: GraphStepper(Tape(), notes.append))
    bad, good = tiny("leaky", "logits@loss"), tiny("kd")
    ended = outcomes([bad, good], folder)
    assert ended["kd"] == "done " and "writes to step.teacher.logits" in ended["logits@loss"]
    assert weights(good, folder) == weights(good, trained)
