"""Protocols of KD_PLUGINS: fields, base, checks; cosine schedule, label smoothing and mixup."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plugins_kit import use
from torch.nn import functional as F
from training_kit import small_run, train, weights

from benchmark import methods
from benchmark.__main__ import main
from benchmark.data.datasets import Split
from benchmark.data.mixup import draw_shares
from benchmark.data.samplers import SHUFFLE
from benchmark.data.stream import Stream
from benchmark.data.views import NORMAL
from benchmark.errors import InputError
from benchmark.seeds import seed_of
from benchmark.spec import protocols, teacher_cache_rule
from benchmark.spec.plan import pack_key
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, skip_reason
from models import Features

LONG = """
base = "crd"
epochs = 480
batch_size = 128
schedule = "cosine"
warm_up = 20
label_smoothing = 0.1
mixup = 0.4
method_settings = { "kd.temperature" = 2.0 }
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


def test_a_protocol_with_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path / "p", monkeypatch, long_toml=LONG, longer_toml='base = "long"\nepochs = 960\nlr = 1\n')
    crd, long = protocols.get_protocol("crd"), protocols.get_protocol("long")
    assert long == replace(
        crd,
        name="long",
        epochs=480,
        batch_size=128,
        schedule="cosine",
        warm_up=20,
        label_smoothing=0.1,
        mixup=0.4,
        milestones=(300, 360, 420),  # in proportion
        method_settings=(("kd.temperature", 2.0),),
    )
    longer = protocols.get_protocol("longer")
    assert (longer.epochs, longer.lr, longer.mixup) == (960, 1.0, 0.4)
    request = Request("cifar100", "long", "paper", "resnet56", "resnet20", "kd")
    run = Resolver().run(request, 0)
    assert run.recipe.epochs == 480 and run.recipe.batch_size == 128
    assert run.settings["recipe"]["mixup"] == 0.4 and "label_smoothing" in run.settings["recipe"]
    assert run.settings["method"]["components"]["kd"]["temperature"] == 2.0
    assert run.teacher_ref is not None and run.teacher_ref.run is not None
    assert run.teacher_ref.run.protocol == "crd"


def test_the_new_fields_are_in_no_key_of_the_old_recipes() -> None:
    assert not {"schedule", "mixup", "label_smoothing"} & small_run("kd").settings["recipe"].keys()
    keys = {
        small_run("kd", **{f"recipe__{k}": v for k, v in change.items()}).key
        for change in ({}, {"schedule": "cosine"}, {"mixup": 0.2}, {"label_smoothing": 0.1})
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epochs = ", "not valid TOML"),
        ("epochs = 480", 'title is missing; give it, or base = "crd"'),
        ('base = "crdd"', r"unknown protocol in .*mine.toml: base 'crdd' \(did you mean crd\?\)"),
        ('base = "mine"', "leads back to mine"),
        ('base = ["crd"]', "base = .'crd'.; allowed: the name of a protocol"),
        ('base = "crd"\nepoch = 3', r"unknown field in .*mine.toml: 'epoch' \(did you mean epochs\?\)"),
        ('base = "crd"\nepochs = 3.5', "epochs = 3.5; allowed: whole numbers"),
        ('base = "crd"\nepochs = 0', "epochs = 0; allowed: 1 to 1e"),
        ('base = "crd"\nschedule = "linear"', "schedule = 'linear'; allowed: step, cosine"),
        ('base = "crd"\nmilestones = [200, 100]', "milestones = .200, 100.; allowed: rising"),
        ('base = "crd"\nmean = [0.5]', "mean = .0.5.; allowed: a list of 3 values"),
        ('base = "crd"\nlr = nan', "lr = nan; allowed"),
        ('base = "crd"\nwarm_up = 240', "warm_up = 240; allowed: below"),
        ('base = "crd"\nteacher_protocol = "no"', "teacher_protocol 'no'"),
        (
            'base = "crd"\nmethod_settings = { "kd.temp" = 1 }',
            "method_settings: unknown setting of kd 'temp'",
        ),
        ('base = "crd"\nwarm_up_from = "x"', "warm_up_from = 'x'; allowed: numbers"),
        ('base = "crd"\nteacher_method = "no"', "mine.toml: teacher_method 'no'"),
        ("[[rows]]", "is a table and no protocol"),
    ],
)
def test_a_wrong_protocol_is_one_line(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path / "p", monkeypatch, mine_toml=text)
    with pytest.raises(InputError, match=problem) as error:
        protocols.get_protocol("mine")
    assert "mine.toml" in str(error.value) and "\n" not in str(error.value)


def test_every_field_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with the fields of a built-in protocol, whose base is another one, is that protocol."""
    fields = asdict(protocols.get_protocol("seed"))
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in fields.items()
        if key not in ("name", "method_settings") and value is not None
    ]
    use(tmp_path / "p", monkeypatch, mine_toml="\n".join(['base = "lightskd"', *lines]))
    assert protocols.get_protocol("mine") == replace(protocols.get_protocol("seed"), name="mine")


def test_a_built_in_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(tmp_path / "p", monkeypatch, crd_toml='base = "sskd"')
    assert main(["plan", "crd-table1", "--protocol", "none"]) == 2
    assert "the protocol crd is built in; rename the file" in capsys.readouterr().err


def test_cosine_with_warm_up() -> None:
    recipe = replace(small_run("kd").recipe, epochs=10, warm_up=2, schedule="cosine", milestones=())
    rates = [recipe.lr_at(epoch) / recipe.lr for epoch in range(1, 11)]
    assert rates == pytest.approx([0.5, 1, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))])
    assert recipe.lr_at(1, step=1, steps=4) == pytest.approx(recipe.lr / 8)


def test_the_task_loss_is_smoothed_and_mixed() -> None:
    generator = torch.Generator().manual_seed(0)
    z, labels = torch.randn(4, 10, generator=generator), torch.tensor([1, 2, 3, 4])
    objective = methods.Objective(methods.parse("plain"), None, lambda _: 0)  # type: ignore[arg-type]
    objective.label_smoothing = 0.2
    step = methods.Step(
        labels=labels,
        indices=labels,
        images={},
        students={"normal": Features(logits=z)},
        teachers={},
        generator=generator,
        mix=torch.tensor(0.3),
    )
    targets = 0.3 * F.one_hot(labels, 10) + 0.7 * F.one_hot(torch.tensor([2, 3, 4, 1]), 10)
    expected = -((0.8 * targets + 0.02) * torch.log_softmax(z, 1)).sum(1).mean()
    total, terms = objective({"": step})
    assert float(total) == pytest.approx(float(expected), rel=1e-5) and terms.keys() == {"ce"}


def test_the_images_of_a_batch_are_mixed_with_the_next_ones() -> None:
    images = torch.randint(0, 256, (12, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    split = Split(images, torch.arange(12) % 3)

    def stream(alpha: float) -> Stream:
        return Stream(
            split,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            sampler=SHUFFLE,
            batch_size=5,
            drop_last=False,
            seed=3,
            mixup=alpha,
        )

    shares = np.random.default_rng(seed_of(3, "mixup", "main", 2)).beta(0.4, 0.4, size=12)
    assert torch.equal(
        draw_shares(12, 0.4, seed_of(3, "mixup", "main", 2))[:, 0], torch.tensor(shares).float()
    )
    pairs = zip(stream(0.0).epoch("main", 2, [NORMAL]), stream(0.4).epoch("main", 2, [NORMAL]), strict=True)
    for number, (plain, mixed) in enumerate(pairs):
        share = float(shares[5 * number])
        assert plain.mix is None and mixed.mix is not None and float(mixed.mix) == pytest.approx(share)
        x = plain.views["normal"]
        expected = share * x + (1 - share) * torch.cat([x[1:], x[:1]])
        torch.testing.assert_close(mixed.views["normal"], expected)
        assert torch.equal(plain.labels, mixed.labels)


def test_runs_with_mixup_are_packed_apart_and_read_no_teacher_cache() -> None:
    plain, mixed = small_run("kd"), small_run("kd", recipe__mixup=0.2)
    assert pack_key(plain) != pack_key(mixed)
    assert teacher_cache_rule.can_use_cache(plain) and not teacher_cache_rule.can_use_cache(mixed)


def test_methods_that_read_single_images_or_labels_are_skipped() -> None:
    def reasons(name: str) -> list[bool]:
        changes = ({"recipe__mixup": 0.2}, {"recipe__label_smoothing": 0.1})
        return [skip_reason(small_run(name, teacher="resnet14", **c)) is not None for c in changes]

    for name in ("kd", "at", "sp", "fitnet", "ab", "ofd", "simkd", "kd+ls"):
        assert reasons(name) == [False, False], name
    for name in ("crd", "dkd", "wsld", "sskd", "dlb", "mlld", "crd+kd"):
        assert reasons(name)[0], name
    for name in ("label_smoothing", "cskd"):  # in place of the cross-entropy
        assert reasons(name) == [True, True], name


def test_a_run_gives_the_same_weights_alone_in_a_pack_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = LONG.replace("480", "240").replace("warm_up = 20", "warm_up = 100")
    use(tmp_path / "p", monkeypatch, long_toml=protocol)
    run, mate = (
        small_run(m, teacher="resnet8", protocol="long", recipe__train_images=32) for m in ("at", "kd")
    )
    assert run.recipe.warm_up == 1 and run.recipe.mixup == 0.4
    train([mate, run], tmp_path / "pack")
    (teacher,) = run.needs_runs
    for name in ("alone", "resumed"):
        shutil.copytree(tmp_path / "pack" / teacher.key, tmp_path / name / teacher.key)
    train([run], tmp_path / "alone")
    train([run], tmp_path / "resumed", until=1)
    assert [o.status for o in train([run], tmp_path / "resumed")] == ["done"]
    assert len({weights(run, tmp_path / name) for name in ("alone", "pack", "resumed")}) == 1
