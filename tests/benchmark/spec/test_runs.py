"""Keys, protocols, tables as data, plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_kit import small_run

from benchmark.bench.ours import pair_runs
from benchmark.errors import InputError
from benchmark.spec import cost, matrix, plan, protocols
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, TeacherRef, skip_reason
from results.store import Store


def key(method: str = "kd", **changes: object) -> str:
    values = {
        "dataset": "cifar100",
        "protocol": "crd",
        "profile": "paper",
        "teacher": "resnet56",
        "student": "resnet20",
        "overrides": (),
    }
    return Resolver().run(Request(method=method, **{**values, **changes}), 0).key  # type: ignore[arg-type]


def test_a_key_is_readable_and_stable() -> None:
    assert key().startswith("cifar100/crd/paper/resnet56-resnet20/kd/seed0-")
    assert key() == key()
    assert key("at+kd") == key("kd+at")


def test_every_hyper_parameter_the_teacher_and_the_revision_are_in_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmark import methods

    keys = [
        key(),
        key(overrides=(("kd.temperature", 8.0),)),
        key(overrides=(("recipe.epochs", 10),)),
        key(profile="short"),
        key("kd+sp"),
    ]
    imported = Resolver({("cifar100", "resnet56"): TeacherRef("resnet56", weights="ab12")})
    keys.append(imported.run(Request("cifar100", "crd", "paper", "resnet56", "resnet20", "kd"), 0).key)
    monkeypatch.setattr(methods.get("kd"), "revision", 99)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_nothing_about_the_machine_is_in_the_settings() -> None:
    text = small_run("kd").settings_json
    assert not any(word in text for word in ("device", "precision", "threads", "host", "pack"))


def test_lr_falls_after_the_milestones_epoch() -> None:
    run = Resolver().run(Request("cifar100", "crd", "paper", "resnet56", "resnet20", "kd"), 0)
    assert [run.recipe.lr_at(e) for e in (1, 150)] == [0.05, 0.05]
    assert run.recipe.lr_at(151) == pytest.approx(0.005) and run.recipe.lr_at(211) == pytest.approx(0.00005)


@pytest.mark.parametrize("student", ["MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_mobile_and_shuffle_students_start_at_001(student: str) -> None:
    for method, teacher in (("kd", "vgg13"), ("plain", "none")):
        assert (
            Resolver().run(Request("cifar100", "sskd", "paper", teacher, student, method), 0).recipe.lr
            == 0.01
        )


def test_schedules_keep_their_proportions() -> None:
    short = Resolver().run(Request("cifar100", "crd", "short", "resnet56", "resnet20", "ab"), 0)
    assert (short.recipe.epochs, short.recipe.milestones, short.init_epochs) == (
        15,
        (9, 11, 13),
        (("ab", 2),),
    )
    quick = Resolver().run(Request("digits", "crd", "quick", "resnet56", "resnet20", "ab"), 0)
    assert (quick.recipe.epochs, quick.init_epochs, quick.recipe.train_images) == (2, (("ab", 1),), 512)
    head = Resolver().run(Request("cifar100", "sskd", "paper", "resnet56", "resnet20", "sskd"), 0).heads[0]
    assert (head.recipe.epochs, head.recipe.milestones, head.student) == (60, (30, 45), "none")


def test_teachers_are_shared_and_of_the_protocols_epoch() -> None:
    resolver = Resolver()
    runs = {
        p: resolver.run(Request("cifar100", p, "paper", "resnet56", "resnet20", "kd"), 3)
        for p in ("crd", "sskd", "dlkd")
    }
    refs = {p: r.teacher_ref for p, r in runs.items()}
    assert (
        refs["crd"].epoch == "last"
        and refs["sskd"].epoch == "best"
        and refs["dlkd"].identity == refs["sskd"].identity
    )  # type: ignore[union-attr]
    assert all(r.needs_runs[0].seed == 0 for r in runs.values())


def test_orders_make_the_same_run_elsewhere_and_notice_changed_code() -> None:
    run = small_run("sskd")
    assert Resolver().from_order(run.order()) == run
    with pytest.raises(InputError, match="order it again"):
        Resolver().from_order({**run.order(), "key": "digits/other"})


@pytest.mark.parametrize("name", matrix.table_names())
def test_every_table_expands_and_names_a_reason_for_each_empty_cell(name: str) -> None:
    table = matrix.load_table(name)
    expansion = matrix.expand(table, "paper")
    assert len(expansion.cells) == len(table.columns) * len(table.rows)
    assert all(c.runs or c.reason for c in expansion.cells)
    ordered = [r.key for r in expansion.runs]
    assert all(ordered.index(n.key) < ordered.index(r.key) for r in expansion.runs for n in r.needs_runs)


def test_self_distillation_has_columns_without_a_teacher() -> None:
    table = matrix.load_table("lightskd")
    e = matrix.expand(table, "paper")
    assert {c.teacher for c in e.cells} == {"none"} and {r.teacher for r in e.runs} == {"none"}
    (recipe,) = {(r.recipe.epochs, r.recipe.batch_size, r.recipe.drop_last, r.recipe.augment) for r in e.runs}
    assert recipe == (200, 128, True, "resized-crop-flip")
    assert {c.pair for c in matrix.expand(table, "quick").cells} == {"none:ResNet18"}, "its quick columns"
    chosen = matrix.expand(table, "quick", pairs=["none:ResNet101"])
    assert {c.pair for c in chosen.cells} == {"none:ResNet101"}, "a column that is asked for is made"


def test_quick_columns_are_columns(tmp_path: Path) -> None:
    text = (
        (matrix.FOLDER / "lightskd.toml")
        .read_text()
        .replace('quick_columns = ["none:', 'quick_columns = ["none:resnet8", "none:')
    )
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(InputError, match=r"quick_columns has none:resnet8; allowed: none:ResNet18, "):
        matrix.load_table("t", tmp_path)


def test_runs_shared_by_tables_are_the_same_runs() -> None:
    keys = {
        n: {r.key for r in matrix.expand(matrix.load_table(n), "paper").runs}
        for n in ("dlkd-table1", "sskd-table3", "crd-table1")
    }
    assert (
        len(keys["dlkd-table1"] & keys["sskd-table3"]) > 100 and not keys["crd-table1"] & keys["sskd-table3"]
    )


def test_fsp_answers_unequal_channels_by_a_reason() -> None:
    run = Resolver().run(Request("cifar100", "crd", "paper", "wrn_40_2", "wrn_40_1", "fsp"), 0)
    assert "channel" in (skip_reason(run) or "")


def test_a_plan_counts_packs_and_puts_teachers_first(tmp_path: Path) -> None:
    runs = [small_run(m, seed=s) for m in ("kd", "at", "sskd") for s in (0, 1)]
    found = plan.make_plan(runs, Store(tmp_path))
    assert [len(p.runs) for p in found.packs] == [1, 1, 3, 3], "teacher; its head; a pack for each seed"
    assert [p.level for p in found.packs] == [0, 1, 2, 2]
    numbers = plan.summary(found, "cpu")
    assert (
        numbers["runs"] == 8 and numbers["missing"] == 8 and numbers["packs"] == 4 and numbers["hours"] >= 0
    )
    assert max(len(p.runs) for p in plan.make_plan(runs, None, max_pack=2).packs) == 2


def test_packs_share_the_cost_of_the_teacher() -> None:
    runs = [
        Resolver().run(Request("cifar100", "crd", "paper", "resnet32x4", "resnet8x4", m), 0)
        for m in ("kd", "at", "sp", "crd")
    ]
    together, apart = cost.estimate([runs], "cuda"), cost.estimate([[r] for r in runs], "cuda")
    teacher = cost.macs(list(cost.teacher_passes(runs)), "cifar100")
    assert apart.macs - together.macs == pytest.approx(3 * teacher)
    assert apart.hours > together.hours
    ab, kd = (
        cost.macs(
            list(
                cost.teacher_passes(
                    [Resolver().run(Request("cifar100", "crd", "paper", "resnet56", "resnet20", m), 0)]
                )
            ),
            "cifar100",
        )
        for m in ("ab", "kd")
    )
    assert ab == pytest.approx(30 / 240 * kd)  # AB asks its teacher in the initialisation stage alone


@pytest.mark.parametrize(
    ("table", "pair", "ms"),
    [  # what an H100 took for a step of the full pack (docs/speed.md), and two cores
        ("crd-table1", "resnet56:resnet20", ("cuda", 10.8)),
        ("crd-table1", "wrn_40_2:wrn_16_2", ("cuda", 12.0)),
        ("crd-table2", "resnet32x4:ShuffleV1", ("cuda", 34.0)),
        ("crd-table2", "resnet32x4:ShuffleV2", ("cuda", 23.6)),
        ("crd-table1", "resnet56:resnet20", ("cpu", 14 * 64e3 / 617)),
        ("crd-table1", "wrn_40_2:wrn_16_2", ("cpu", 14 * 64e3 / 318)),
    ],
)
def test_the_cost_model_is_near_what_was_measured(table: str, pair: str, ms: tuple[str, float]) -> None:
    runs = pair_runs(table, pair)
    device, measured = ms
    main = max(cost.steps(r) for r in runs if not r.init_epochs)
    assert 1000 * cost.pack_seconds(runs, device) / main == pytest.approx(measured, rel=0.35)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title = ", "not valid TOML"),
        ('title = "x"', "paper is missing; required: title, paper"),
        ('colour = "x"', "unknown field"),
        ("title = 3", "title = 3 is not a string"),
        ('seeds = "3"', "seeds = '3' is not a whole number"),
    ],
)
def test_a_broken_table_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        matrix.load_table(str(tmp_path / "mine.toml"))
    assert "\n" not in str(caught.value).strip()


def test_a_setting_reaches_a_row_however_it_is_written(tmp_path: Path) -> None:
    text = (matrix.FOLDER / "crd-table1.toml").read_text().replace('method = "crd+kd"', 'method = "crd + kd"')
    (tmp_path / "t.toml").write_text(text)
    found = matrix.expand(
        matrix.load_table("t", tmp_path), "paper", seeds=[0], overrides=(("kd.temperature", 8.0),)
    )
    runs = [r for r in found.runs if r.method == "crd+kd"]
    assert runs and all(r.settings["method"]["components"]["kd"]["temperature"] == 8.0 for r in runs)


def test_settings_are_checked() -> None:
    assert matrix.parse_overrides(["kd.temperature=8", "recipe.epochs=3", "ce=0.5"]) == (
        ("ce", 0.5),
        ("kd.temperature", 8.0),
        ("recipe.epochs", 3),
    )
    for wrong, problem in (
        ("kd.temperature", "is not written method.field=value"),
        ("kd.tau=3", "unknown setting of kd 'tau'"),
        ("nope.x=1", "unknown method 'nope'"),
        ("kd.temperature=warm", "kd.temperature='warm' is not"),
        ("kd.temperature=nan", "kd.temperature='nan' is not"),
        ("recipe.epochs=0", "recipe.epochs=0; allowed: 1 "),
        ("recipe.wings=2", "unknown setting of recipe 'wings'"),
    ):
        with pytest.raises(InputError, match=problem):
            matrix.parse_overrides([wrong])


def test_protocols_and_profiles_have_names() -> None:
    for wrong in (protocols.get_protocol, protocols.get_profile):
        with pytest.raises(InputError, match="allowed"):
            wrong("nope")
