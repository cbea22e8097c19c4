"""Rules that every method must follow. The tests run for all methods found, so a new file is tested as well.

Steps are made as the trainer makes them: with the method's own sampler and views, small networks, and a
student that runs all of its views in one batch, or each by itself, as the method says.
"""

import copy
import dataclasses
import inspect
import io
import json
import re

import pytest
import torch
from kit import batches, build, context_for, no_sync, on_meta, real_step, weights
from torch import nn

from benchmark import methods
from benchmark.methods import Method, MethodConfig, Objective
from benchmark.spec.protocols import Protocol
from models import PARTS, MissingPart, info
from models import names as network_names

FILES = methods.names()
every_file = pytest.mark.parametrize("name", FILES)
# A wrapper has no loss of its own; it is tested in its own file.
NAMES = [n for n in FILES if not methods.get(n).is_wrapper()]
every_method = pytest.mark.parametrize("name", NAMES)
N, BATCH = 30, 8  # the last batch of an epoch is smaller

PAIRS = """wrn_40_2:wrn_16_2 wrn_40_2:wrn_40_1 resnet56:resnet20 resnet110:resnet20 resnet110:resnet32
resnet32x4:resnet8x4 vgg13:vgg8 vgg13:MobileNetV2 ResNet50:MobileNetV2 ResNet50:vgg8 resnet32x4:ShuffleV1
resnet32x4:ShuffleV2 wrn_40_2:ShuffleV1"""


def built_method(name, dtype=torch.float32, seed=0):
    """Return `(method class, context, built method)`, with the defaults of its config."""
    method_class = methods.get(name)
    context = context_for(method_class, n=N, batch_size=BATCH)
    return method_class, context, build(name, context, dtype=dtype, seed=seed)


def stages_of(method_class, config):
    """Return `(needs, name of the loss function)` of the initialisation stage, if any, and of the main
    stage."""
    init = [(method_class.init_needs(config), "init_loss")] if method_class.init_epochs else []
    return [*init, (method_class.needs(config), "loss")]


def total_of(terms):
    return torch.stack(list(terms.values())).sum()


# --- what a class declares -------------------------------------------------------------------------------


def bibtex_fields(entry):
    """Return `{"": kind, field: value}` of a BibTeX entry. Raises `ValueError` if it is not valid."""
    head = re.match(r"\s*@(\w+)\s*\{\s*([\w:.-]+)\s*,", entry)
    if not head:
        raise ValueError("no @kind{key,")
    fields, at = {"": head[1]}, head.end()
    while not re.match(r"\s*\}\s*$", entry[at:]):
        field = re.match(r"\s*(\w+)\s*=\s*\{", entry[at:])
        if not field:
            raise ValueError(f"no field = {{ at: {entry[at : at + 30]!r}")
        start = at = at + field.end()
        depth = 1
        while depth:
            if at == len(entry):
                raise ValueError(f"the brace of {field[1]} is not closed")
            depth += {"{": 1, "}": -1}.get(entry[at], 0)
            at += 1
        fields[field[1].lower()] = " ".join(entry[start : at - 1].split())
        if comma := re.match(r"\s*,", entry[at:]):
            at += comma.end()
        elif not re.match(r"\s*\}\s*$", entry[at:]):
            raise ValueError(f"no comma after {field[1]}")
    return fields


@pytest.mark.parametrize(
    "entry",
    [
        "@article{a, title = {x}",
        "article{a, title = {x}}",
        "@article{a, title = {x} year = {y}}",
        "@article{a, title = {{x}, year = {y}}",
    ],
)
def test_a_broken_entry_does_not_parse(entry):
    with pytest.raises(ValueError):
        bibtex_fields(entry)


@every_file
def test_documentation_is_complete(name):
    method = methods.get(name)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    file = method.__module__.rpartition(".")[2].removeprefix("kd_methods_")
    assert file == name, "a method's file has its name"
    assert method.title and method.formula and method.paper
    assert all("\n" not in text for text in (method.title, method.formula, method.paper)), "one line each"
    assert len(inspect.getmodule(method).__doc__.splitlines()) > 3, (
        "the module's docstring has the formula and the sources"
    )
    assert isinstance(method.revision, int) and method.revision >= 1


@every_file
def test_bibtex_parses(name):
    fields = bibtex_fields(methods.get(name).bibtex)
    assert {"title", "author", "year"} <= fields.keys()
    assert re.fullmatch(r"(19|20)\d\d", fields["year"])
    assert {"article": "journal", "inproceedings": "booktitle"}.get(fields[""], "title") in fields


@every_file
def test_hyper_parameters_are_documented_json_scalars(name):
    method = methods.get(name)
    assert issubclass(method.Config, MethodConfig)
    assert method.Config.__dataclass_params__.frozen
    for field in dataclasses.fields(method.Config):
        assert field.metadata.get("help") and field.metadata.get("source"), field.name
        assert type(field.default) in (bool, int, float, str), field.name
        assert field.type == type(field.default).__name__, f"{field.name}: annotation and default differ"
        allowed = field.metadata["allowed"]
        assert allowed is None or field.default in allowed, field.name
    assert [row["name"] for row in methods.hyper_parameters(method.Config)] == [
        f.name for f in dataclasses.fields(method.Config)
    ]


@every_file
def test_combined_defaults_are_fields_of_their_type(name):
    method = methods.get(name)
    defaults = {f.name: f.default for f in dataclasses.fields(method.Config)}
    for field, value in method.combined_defaults.items():
        assert type(value) is type(defaults[field])


@every_file
def test_constants_by_pair_are_fields_of_their_type_and_have_a_source(name):
    for table in methods.get(name).pair_constants:
        assert table.source and table.pairs
        assert table.methods <= set(FILES)
        for pair, values in table.pairs.items():
            teacher, student = pair.split(":")
            assert {teacher, student} <= {*network_names(), "none", "*"}, pair
            for setting, value in zip(table.settings, values, strict=True):
                owner, field = setting.split(".")
                config = Protocol if owner == "protocol" else methods.get(owner).Config
                (kind,) = {f.type for f in dataclasses.fields(config) if f.name == field}
                assert value is None or type(value).__name__ == kind, (setting, pair)


@every_method
def test_settings_are_stable_and_complete(name):
    spec = methods.parse(name)
    settings = spec.settings()
    assert json.loads(json.dumps(settings)) == settings == methods.parse(name).settings()
    listed = settings["components"][name]
    fields = dataclasses.fields(spec.components[0].config)
    left_out = {"ce"} | {f.name for f in fields if f.metadata.get("keep_keys")}
    assert listed.keys() - {"revision"} == {f.name for f in fields} - left_out
    assert listed["revision"] == methods.get(name).revision


@every_method
def test_resolved_values_given_as_strings_are_the_same_run(name):
    """The command line gives strings."""
    spec = methods.parse(name)
    words = {f"{name}.{k}": str(v) for k, v in dataclasses.asdict(spec.components[0].config).items()}
    assert methods.parse(name, words) == spec


@every_method
@pytest.mark.parametrize("pair", PAIRS.split())
def test_a_reason_is_one_line(name, pair):
    method = methods.get(name)
    teacher, student = (info(network, 100) for network in pair.split(":"))
    for networks in ((student, teacher), (None, teacher), (student, None), (None, None)):
        reason = method.skip(method.Config(), *networks)
        assert reason is None or (reason and "\n" not in reason)


@every_method
def test_needs_name_known_parts_and_views(name):
    method = methods.get(name)
    for needs, _ in stages_of(method, method.Config()):
        assert (needs.student | needs.teacher) <= set(PARTS)
        assert len({v.name for v in needs.views}) == len(needs.views)
        assert all(view.name != "normal" for view in needs.views[1:]), "the normal view comes first"
    if not method.trains_student:
        assert not method.needs(method.Config()).student


@every_method
def test_buffer_elements_is_the_size_of_buffers_per_image(name):
    """Buffers that grow with the training set grow by what `buffer_elements` returns."""
    method, held = methods.get(name), {}
    for n in (N, 2 * N):
        context = context_for(method, n=n, batch_size=BATCH)
        state = build(name, context, dtype=torch.float32).state_dict()
        held[n] = (
            sum(t.numel() for t in state.values()),
            method.buffer_elements(method.Config(), n, 10, context.teacher),
        )
    assert held[2 * N][0] - held[N][0] == held[2 * N][1] - held[N][1]


# --- what it does in a step -------------------------------------------------------------------------------


def walk(name, check, dtype=torch.float32):
    """Call `check(method, needs, loss, step)` for each stage and each batch of an epoch.

    The steps hold only the parts that `needs` names.
    """
    method_class, context, method = built_method(name, dtype)
    if context.student_net is not None:
        context.student_net.to(dtype)
    context.teacher_net.to(dtype)
    for needs, loss in stages_of(method_class, method.config):
        if loss == "loss":
            if method_class.init_epochs:
                method.after_init()
            method.start_epoch(1)
        for k, indices in enumerate(batches(method_class, context)):
            check(method, needs, getattr(method, loss), real_step(context, needs, indices, seed=k))


@every_method
def test_only_needed_parts_are_read_and_the_host_never_waits(name):
    """In a full batch and in the smaller last one; parts that `needs` does not name raise an error."""
    sizes = []

    def check(method, needs, loss, step):
        sizes.append(len(step.labels))
        with no_sync():
            terms = loss(step)
            task = method.task_loss(step) if method.trains_student else None
            for value in (*terms.values(), *([] if task is None else [task])):
                value.backward(retain_graph=True)

    walk(name, check)
    assert len(set(sizes)) > 1 and min(sizes) > 1


@every_method
def test_a_step_works_on_the_meta_device(name):
    """Shapes are static, no CPU tensor is mixed in, and no value is read."""

    def check(method, needs, loss, step):
        plain = dataclasses.replace(step)
        method = copy.deepcopy(method).to("meta")
        if hasattr(method, "head_of_student"):  # which is read, and no part of the method
            method.head_of_student().to("meta")
        terms = getattr(method, loss.__name__)(on_meta(plain, needs))
        if terms:
            total_of(terms).backward()

    method_class, context, method = built_method(name)
    for needs, loss in stages_of(method_class, method.config):
        if loss == "loss" and method_class.init_epochs:
            method.after_init()
        step = real_step(context, needs, torch.arange(BATCH), all_parts=True)
        check(method, needs, getattr(method, loss), step)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_are_scalars_named_by_weights(name, dtype):
    def check(method, needs, loss, step):
        terms = loss(step)
        for term, value in terms.items():
            assert term == name or term.startswith(f"{name}_"), "a term has its method's name"
            assert value.shape == () and value.dtype == dtype and value.isfinite()
            assert value.requires_grad
        if loss.__name__ == "loss":
            assert terms.keys() == {term for term, weight in weights(method).items() if weight}
        else:
            assert terms

    walk(name, check, dtype)


@every_method
def test_a_term_of_weight_zero_is_not_computed(name):
    method_class, context, method = built_method(name)
    needs = method_class.needs(method.config)
    step = real_step(context, needs, torch.arange(BATCH))
    full = weights(method)
    for off in full:
        method.weights = lambda config, off=off: {term: 0.0 if term == off else full[term] for term in full}
        assert off not in method.loss(step)
    method.weights = lambda config: dict.fromkeys(full, 0.0)
    blind = dataclasses.replace(
        step,
        students={k: v.select(frozenset()) for k, v in step.students.items()},
        teachers={k: v.select(frozenset()) for k, v in step.teachers.items()},
    )
    assert method.loss(blind) == {}


@every_method
def test_weights_scale_with_the_config(name):
    """If a config has the field `weight`, doubling it doubles every weight."""
    method_class, context, method = built_method(name)
    if not hasattr(method.config, "weight"):
        assert not any(f.name == "weight" for f in dataclasses.fields(method_class.Config))
        return
    twice = build(name, context, weight=2 * method.config.weight)
    assert weights(twice) == {term: 2 * weight for term, weight in weights(method).items()}


@every_method
def test_weights_are_known_before_building(name):
    """So a loss without a term is rejected before its teacher is trained."""
    _, _, method = built_method(name)
    assert methods.parse(name).components[0].weights() == method.weights(method.config)
    methods.check_loss(methods.parse(name), "", "")


@every_method
def test_gradients_reach_every_trainable_tensor_and_no_teacher(name):
    """They reach the method's own tensors in one of its stages, and the student if the method trains it."""
    method_class, context, method = built_method(name)
    own = {k for k, p in method.named_parameters() if p.requires_grad}
    reached = set()
    for needs, loss in stages_of(method_class, method.config):
        if loss == "loss" and method_class.init_epochs:
            method.after_init()
        for k, indices in enumerate(batches(method_class, context)[:2]):  # some terms read the batch before
            step = real_step(context, needs, indices, seed=k)
            terms = getattr(method, loss)(step)
            if loss == "loss" and method.trains_student and (task := method.task_loss(step)) is not None:
                terms = {**terms, "ce": task}
            if terms:
                total_of(terms).backward()
        reached |= {k for k, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == own
    assert all(p.grad is None for p in context.teacher_net.parameters())
    if method.trains_student:
        assert any(p.grad is not None and p.grad.any() for p in context.student_net.parameters())


@every_method
def test_student_and_teacher_are_not_in_its_state(name):
    _, context, method = built_method(name)
    nets = [net for net in (context.student_net, context.teacher_net) if net is not None]
    foreign = {p.data_ptr() for net in nets for p in net.parameters()}
    assert not foreign & {t.data_ptr() for t in (*method.parameters(), *method.buffers()) if t.numel()}


@every_method
def test_dead_and_equal_features_give_finite_gradients(name):
    """All images are equal, or all maps are zero: square roots and norms at zero."""

    def check(change):
        method_class, context, method = built_method(name, torch.float64)
        for needs, loss in stages_of(method_class, method.config):
            if loss == "loss" and method_class.init_epochs:
                method.after_init()
            leaves = []

            def leaf(t, leaves=leaves):
                leaves.append(change(t.detach().double()).requires_grad_())
                return leaves[-1]

            step = real_step(
                context, needs, torch.arange(4), all_parts=True, wrap=lambda f, leaf=leaf: f.map(leaf)
            )
            step = dataclasses.replace(
                step, teachers={k: v.map(lambda t: change(t.double())) for k, v in step.teachers.items()}
            )
            terms = getattr(method, loss)(step)
            if not terms:
                continue
            total = total_of(terms)
            assert total.isfinite()
            tensors = [*leaves, *(p for p in method.parameters() if p.requires_grad)]
            found = torch.autograd.grad(total, tensors, allow_unused=True)
            assert all(g.isfinite().all() for g in found if g is not None)

    check(lambda t: t[:1].expand_as(t).clone())
    check(torch.zeros_like)


@every_method
def test_all_draws_use_the_steps_generator(name):
    """Two equal methods agree bit by bit on one step, and the global generator is not used."""
    values = []
    for _ in range(2):
        method_class, context, method = built_method(name)
        for needs, loss in stages_of(method_class, method.config):
            step = real_step(context, needs, torch.arange(BATCH))
            before = torch.get_rng_state()
            values.append(getattr(method, loss)(step))
            assert torch.equal(before, torch.get_rng_state())
            torch.rand(3)  # the state of the global generator must not matter
    half = len(values) // 2
    for one, other in zip(values[:half], values[half:], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[term], other[term]) for term in one)


@every_method
def test_modules_depend_only_on_the_seed(name):
    one, other = (built_method(name)[2].state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


@every_method
def test_state_dict_is_all_that_a_checkpoint_needs(name):
    """A method built under another seed continues bit by bit once it has loaded the state (weights_only)."""
    method_class, context, method = built_method(name)
    needs = method_class.needs(method.config)
    epoch = batches(method_class, context)
    steps = [real_step(context, needs, indices, seed=k) for k, indices in enumerate(epoch)]
    method.start_epoch(1)
    for step in steps[:2]:
        method.loss(step)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    resumed = build(name, context, dtype=torch.float32, seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.start_epoch(1)
    for step in steps[2:]:
        state = step.generator.get_state()
        expected = method.loss(step)
        step.generator.set_state(state)
        found = resumed.loss(step)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[term], expected[term]) for term in found)


@every_method
def test_a_schedule_depends_only_on_the_epoch(name):
    one, other = (built_method(name)[2] for _ in range(2))
    for epoch in (1, 2, 3):
        one.start_epoch(epoch)
    other.start_epoch(3)
    assert weights(one) == weights(other)
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


@every_method
def test_prediction_reads_only_what_needs_names(name):
    method_class, context, method = built_method(name)
    if context.student_net is None:
        assert not method_class.trains_student
        return
    needs = method_class.needs(method.config)
    with torch.no_grad():
        features = context.student_net.eval().features(torch.zeros(3, 3, 32, 32))
    logits = method.eval().predict(features.select(needs.student | {"logits"}))
    assert logits is None or logits.shape == (3, context.num_classes)


@every_method
def test_initialisation_stage_trains_init_modules(name):
    method_class, context, method = built_method(name)
    if not method_class.init_epochs:
        assert list(method.init_modules(context.student_net)) == []
        with pytest.raises(NotImplementedError):
            method.init_loss(None)
        return
    modules = list(method.init_modules(context.student_net))
    named = [p for module in modules for p in module.parameters()]
    assert named and all(isinstance(module, nn.Module) for module in modules)
    assert method.init_lr("resnet8", 0.05) > 0
    step = real_step(context, method_class.init_needs(method.config), torch.arange(BATCH))
    total_of(method.init_loss(step)).backward()
    assert all(p.grad is not None for p in named), "every tensor that is said to train gets a gradient"


@pytest.mark.parametrize("name", [n for n in NAMES if methods.get(n).trains_student])
def test_objective_is_the_weighted_sum_and_combines(name):
    """`x` and `x+kd`: total = ce * CE + sum of weight * term, and a step of it trains the student."""
    for text in (name, f"{name}+kd" if name != "kd" else "kd"):
        spec = methods.parse(text)
        context = context_for(methods.get(name), n=N, batch_size=BATCH)
        objective = Objective(spec, context, lambda _: 0)
        if any(stage for stage in spec.init_stages):
            for m in objective:
                m.after_init()
        objective.start_epoch(1)
        step = real_step(context, spec.needs(), torch.arange(BATCH))
        total, terms = objective({c.method.name: step for c in spec.components})
        all_weights = {"ce": spec.ce, **{t: w for m in objective for t, w in weights(m).items()}}
        expected = sum(all_weights[term] * value for term, value in terms.items())
        torch.testing.assert_close(total, expected)
        total.backward()
        trained = context.student_net if spec.ce == 0 else context.student_net.linear_head()
        assert any(p.grad is not None for p in trained.parameters())
        assert spec.ce == 0 or all(p.grad is not None for p in trained.parameters())


def test_the_guards_detect_violations():
    """They catch a method that reads a part it does not name, waits for the device, or keeps a CPU tensor."""
    method_class, context, _ = built_method("kd")
    needs = method_class.needs(method_class.Config())
    step = real_step(context, needs, torch.arange(BATCH))
    with pytest.raises(MissingPart, match="these features hold logits, but not 'embedding'"):
        step.student.embedding.sum()
    with pytest.raises(MissingPart, match="but not 'stem'; a method must name each part"):
        torch.relu(step.teacher.stem)
    for wait in (
        torch.Tensor.item,
        torch.nonzero,
        torch.unique,
        bool,
        lambda t: t[t > 0],
        lambda t: 1 if t > 0 else 0,
    ):
        with no_sync(), pytest.raises(AssertionError, match="host synchronisation"):
            wait(step.student.logits.sum())
    meta = on_meta(real_step(context, needs, torch.arange(BATCH), all_parts=True), needs)
    for wait in (torch.Tensor.tolist, torch.Tensor.cpu, lambda t: t + torch.ones(10)):
        with pytest.raises((NotImplementedError, RuntimeError)):
            wait(meta.student.logits)


def test_the_methods_of_the_tables_exist():
    """Those of the three benchmark tables."""
    rows = {
        "kd",
        "fitnet",
        "at",
        "sp",
        "cc",
        "vid",
        "rkd",
        "pkt",
        "ab",
        "ft",
        "fsp",
        "nst",
        "crd",
        "sskd",
        "dlkd",
    }
    assert rows <= set(NAMES)
    assert all(issubclass(methods.get(name), Method) for name in NAMES)
