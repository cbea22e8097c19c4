"""Runs: their keys, recipes, teachers and orders."""

from __future__ import annotations

import pytest
from spec_kit import make_run
from training_kit import small_run

from benchmark import methods
from benchmark.errors import InputError
from benchmark.spec import profiles, protocols
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import TeacherRef, skip_reason


def test_a_key_is_readable_and_stable() -> None:
    assert make_run().key.startswith("cifar100/crd/paper/resnet56-resnet20/kd/seed0-")
    assert make_run().key == make_run().key
    assert make_run("at+kd").key == make_run("kd+at").key


def test_hyper_parameters_the_teacher_the_seed_and_the_revision_change_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported = Resolver({("cifar100", "resnet56"): TeacherRef("resnet56", weights="ab12")})
    keys = [
        make_run().key,
        make_run(seed=1).key,
        make_run(overrides=(("kd.temperature", 8.0),)).key,
        make_run(overrides=(("recipe.epochs", 10),)).key,
        make_run(profile="short").key,
        make_run("kd+sp").key,
        make_run(resolver=imported).key,
    ]
    monkeypatch.setattr(methods.get("kd"), "revision", 99)
    keys.append(make_run().key)
    assert len(set(keys)) == len(keys)


def test_the_settings_say_nothing_about_the_machine() -> None:
    text = small_run("kd").settings_json
    assert not any(word in text for word in ("device", "precision", "threads", "host", "pack"))


def test_a_run_that_measures_an_imported_checkpoint() -> None:
    ref = TeacherRef("resnet56", weights="ab12", path="resnet56.pth")
    resolver = Resolver({("cifar100", "resnet56"): ref})
    run = resolver.imported_run(ref, dataset="cifar100", protocol="crd", profile="paper")
    assert run.key == "cifar100/crd/paper/none-resnet56/imported/ab12"
    assert run.method == "imported" and run.evaluates is ref and run.needs_runs == ()
    assert resolver.from_order(run.order()) == run
    with pytest.raises(InputError, match="its imported checkpoint is not here; set TEACHERS="):
        Resolver().from_order(run.order())


def test_the_learning_rate_falls_in_the_epoch_after_a_milestone() -> None:
    recipe = make_run().recipe
    assert [recipe.lr_at(e) for e in (1, 150)] == [0.05, 0.05]
    assert recipe.lr_at(151) == pytest.approx(0.005) and recipe.lr_at(211) == pytest.approx(0.00005)


@pytest.mark.parametrize("student", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
@pytest.mark.parametrize("method", ["kd", "plain"])
def test_mobilenet_and_shufflenet_start_at_a_learning_rate_of_001(student: str, method: str) -> None:
    assert make_run(method, f"vgg13:{student}", protocol="sskd").recipe.lr == 0.01


def test_milestones_and_stages_keep_their_proportions() -> None:
    short = make_run("ab", profile="short")
    assert (short.recipe.epochs, short.recipe.milestones) == (15, (9, 11, 13))
    assert short.init_epochs == (("ab", 2),)
    quick = make_run("ab", dataset="digits", profile="quick")
    assert (quick.recipe.epochs, quick.init_epochs, quick.recipe.train_images) == (2, (("ab", 1),), 512)
    head = make_run("sskd", protocol="sskd").heads[0]
    assert (head.recipe.epochs, head.recipe.milestones, head.student) == (60, (30, 45), "none")


def test_a_protocol_names_the_teachers_epoch_and_its_own_protocol() -> None:
    resolver = Resolver()
    runs = {p: make_run(protocol=p, seed=3, resolver=resolver) for p in ("crd", "sskd", "dlkd")}
    refs = {p: r.teacher_ref for p, r in runs.items()}
    assert (refs["crd"].epoch, refs["sskd"].epoch) == ("last", "best")  # type: ignore[union-attr]
    assert refs["dlkd"].identity == refs["sskd"].identity  # type: ignore[union-attr]
    assert all(r.needs_runs[0].seed == 0 for r in runs.values())


def test_an_order_gives_the_same_run_elsewhere_or_an_error() -> None:
    run = small_run("sskd")
    assert Resolver().from_order(run.order()) == run
    with pytest.raises(InputError, match="have changed since it was ordered; order it again"):
        Resolver().from_order({**run.order(), "key": "digits/other"})


def test_fsp_gives_a_reason_for_unequal_channels() -> None:
    assert "channel" in (skip_reason(make_run("fsp", "wrn_40_2:wrn_40_1")) or "")


@pytest.mark.parametrize("get", [protocols.get_protocol, profiles.get_profile])
def test_an_unknown_protocol_or_profile_is_an_error(get: object) -> None:
    with pytest.raises(InputError, match=r"unknown pro.* 'nope'; allowed: "):
        get("nope")  # type: ignore[operator]
