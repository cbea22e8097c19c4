"""Networks of KD_PLUGINS: features by hooks, checks, keys, skip reasons, training."""

from __future__ import annotations

import copy
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from plugins_kit import TINY, VIT, use
from torch.nn import functional as F
from training_kit import FP32, small_run, train, weights

import models
from benchmark import methods
from benchmark.__main__ import main
from benchmark.bench.ours import open_active_runs, random_split
from benchmark.errors import InputError
from benchmark.seeds import global_states
from benchmark.spec.imported import read_checkpoint
from benchmark.spec.runs import network_info, skip_reason

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    methods.clear_cache()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use(tmp_path / "p", monkeypatch, tiny=TINY, vit=VIT)


def test_features_are_those_of_the_sub_modules(folder: Path) -> None:
    net = models.build("tiny", 10).eval()
    inner = net.inner
    features = net.features(X)
    stem = inner.stem(X)
    one = inner.one
    preact = F.relu(one.norm(one.conv(stem))) + one.skip(stem)
    assert torch.equal(features.stem, stem)
    assert torch.equal(features.preacts[0], preact) and (preact < 0).any()
    assert torch.equal(features.stages[0], F.relu(preact))
    assert torch.equal(features.embedding, inner.pooled(X))
    assert torch.equal(features.logits, inner.head(inner.pooled(X)))
    assert torch.equal(features.logits, net(X)) and net.linear_head() is inner.head
    assert not net.features(X, preacts=False).has("preacts")
    assert {id(m) for m in net.feature_modules()} == {
        id(m) for m in (inner.stem, inner.one, inner.two, inner.drop)
    }


def test_tokens_become_maps(folder: Path) -> None:
    net = models.build("tiny_vit", 10).eval()
    features = net.features(X)
    tokens = net.inner.blocks[0](
        torch.cat([net.inner.token.expand(3, -1, -1), net.inner.patches(X).flatten(2).transpose(1, 2)], 1)
    )
    assert features.stages[0].shape == (3, 8, 8, 8)
    assert torch.equal(features.stages[0][1, :, 2, 5], tokens[1, 1 + 2 * 8 + 5])
    (loose,) = [m for m in net.feature_modules() if isinstance(m, torch.nn.ParameterList)]
    assert list(loose) == [net.inner.token]


def test_sizes(folder: Path) -> None:
    info = network_info("tiny", 10)
    assert (info.stem_shape, info.stage_shapes) == ((4, 8, 8), ((8, 4, 4), (8, 2, 2)))
    assert (info.embedding_dim, info.by_hooks) == (8, True) and "preacts" in info.parts
    convolution = 16 * 8 * 4 * 9 + 16 * 8 * 4 + 4 * 8 * 8 * 9 + 4 * 8 * 8
    assert info.macs == 64 * 4 * 3 * 9 + convolution + 8 * 10
    assert network_info("tiny_vit", 10).macs == 64 * 8 * 3 * 16 + 2 * 65 * 8 * 8 + 8 * 10


def test_threads_share_a_network_and_a_copy_is_independent(folder: Path) -> None:
    net = models.build("tiny", 10).eval()
    images = [X * (i + 1) for i in range(4)]
    expected = [net.features(x).stages[1] for x in images]
    wrong: list[int] = []

    def run(i: int) -> None:
        for _ in range(30):
            if not torch.equal(net.features(images[i]).stages[1], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.inner.stem.weight.zero_()
    assert torch.equal(net.features(X).stages[1], expected[0])
    assert not torch.equal(other.features(X).stem, net.features(X).stem)


def test_methods_that_read_what_is_missing_are_skipped(folder: Path) -> None:
    assert skip_reason(small_run("at", student="bare", teacher="bare")) is None
    assert skip_reason(small_run("ab", student="resnet8", teacher="bare")) == (
        "bare gives no pre-activations, which AB reads"
    )
    # it reads the teacher's pre-activations only
    assert skip_reason(small_run("reviewkd", student="bare", teacher="tiny")) is None
    assert skip_reason(small_run("ab", student="tiny", teacher="tiny")) is None
    assert "does not name" in str(skip_reason(small_run("ofd", student="resnet8", teacher="tiny")))


def test_the_file_is_part_of_the_key(folder: Path) -> None:
    student, teacher = small_run("kd", student="tiny"), small_run("kd", teacher="tiny")
    other = small_run("kd")
    (folder / "tiny.py").write_text(TINY + "# edited\n")
    methods.clear_cache()
    assert small_run("kd", student="tiny").key != student.key
    assert small_run("kd", teacher="tiny").key != teacher.key
    assert small_run("kd").key == other.key and "networks" not in other.settings


def test_a_run_gives_the_same_weights_alone_in_a_pack_and_resumed(folder: Path, tmp_path: Path) -> None:
    run, mate = (small_run(m, "tiny", "tiny_vit", recipe__train_images=48) for m in ("at", "kd"))
    train([mate, run], tmp_path / "pack")
    (teacher,) = run.needs_runs
    for name in ("alone", "resumed"):
        shutil.copytree(tmp_path / "pack" / teacher.key, tmp_path / name / teacher.key)
    train([run], tmp_path / "alone")
    train([run], tmp_path / "resumed", until=1)
    assert [o.status for o in train([run], tmp_path / "resumed")] == ["done"]
    hashes = {weights(run, tmp_path / name) for name in ("alone", "pack", "resumed")}
    assert len(hashes) == 1


def test_an_initialisation_stage_trains_all_but_the_classifier(folder: Path, tmp_path: Path) -> None:
    run = small_run("ab", student="tiny", teacher="tiny", recipe__train_images=32)
    assert [o.status for o in train([run], tmp_path / "r")] == ["done"]


def test_a_checkpoint_of_the_module_itself_is_read(folder: Path, tmp_path: Path) -> None:
    net = models.build("tiny", 10)
    torch.save(net.inner.state_dict(), tmp_path / "tiny.pth")
    teacher = read_checkpoint(tmp_path / "tiny.pth")
    assert (teacher.network, teacher.num_classes) == ("tiny", 10)
    assert teacher.weights == models.weights_hash(net)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('stages=("one"', 'stages=("three"'), "it has no sub-module three; its first level: stem, one,"),
        (('stem="stem"', 'stem="head"'), r"head is \(2, 10\); a map is \[B, C, H, W\]"),
        (('classifier="head"', 'classifier="drop"'), "the classifier drop is a Dropout; it must be an nn.L"),
        (('embedding="drop:input"', 'embedding="one"'), r"embedding is \(2, 8, 4, 4\) for 2 images; it must"),
        (("nn.Linear(8, classes)", "nn.Linear(8, 5)"), r"logits is \(2, 5\) for 2 images; it must be"),
        (("y + self.skip(x)", "y.add_(self.skip(x))"), "one.norm is overwritten later in the pass"),
        (("return self.head(", "return 2 * self.head("), "the classifier does not map the embedding to"),
        (("return self.head(", "return (0, self.head("), "fails: SyntaxError|cannot be imported"),
        (("super().__init__()\n        self.stem", "1 / 0\n        self.stem"), "fails: ZeroDivisionError"),
        (('"two.relu:input"), emb', '"one"), emb'), r"a pre-activation is .* and its stage"),
    ],
)
def test_a_wrong_network_is_one_line(
    change: tuple[str, str], problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TINY.replace(*change, 1)
    if "add_" in change[1]:  # the norm's output is changed in place by the sum
        text = text.replace("y = self.relu(self.norm(self.conv(x)))", "y = self.norm(self.conv(x))")
        text = text.replace('stem="stem"', 'stem="one.norm"', 1)
    assert text != TINY
    (folder / "tiny.py").write_text(text)
    methods.clear_cache()
    with pytest.raises(InputError, match=problem) as error:
        network_info("tiny", 10)
    assert str(folder / "tiny.py") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "net = NetworkByHooks(name='a b', build=f, stem='s', stages=('s',), classifier='c')",
            "called 'a b'",
        ),
        ("net = NetworkByHooks(name='a', build=f, stem='s', stages='s', classifier='c')", "give a tuple"),
        (
            "net = NetworkByHooks(name='a', build=f, stem='s', stages=(), classifier='c')",
            "at least one stage",
        ),
        (
            "net = NetworkByHooks(name='resnet8', build=f, stem='s', stages=('s',), classifier='c')",
            "is taken",
        ),
        ("class N(Network):\n    name = 'n'", "network n lacks feature_modules, features, forward"),
        ("class A(Network):\n    name = 'A b'", "is called 'A b'"),
    ],
)
def test_a_wrong_declaration_is_one_line(
    code: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd.py").write_text(f"from models import Network, NetworkByHooks\nf = print\n{code}\n")
    methods.clear_cache()
    assert main(["plan", "crd-table1", "--profile", "quick"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line and "odd.py" in line


def test_the_first_weights_depend_on_the_seed_of_the_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that a network draws from the generators of Python and NumPy."""
    head = "self.head = nn.Linear(8, classes)"
    drawn = f"{head}\n        nn.init.constant_(self.head.bias, random.random() + np.random.rand())"
    use(tmp_path, monkeypatch, tiny=f"import random\nimport numpy as np\n{TINY.replace(head, drawn)}")
    biases = []
    for seed in (0, 0, 1):
        run = small_run("plain", "tiny", seed=seed)
        models.info("tiny", 10)  # checks the network, once
        random.random()
        before = global_states()
        _, (active,) = open_active_runs([run], random_split(16, 10, seed=0), FP32, tmp_path)
        assert active.student is not None and global_states() == before
        biases.append(active.student.linear_head().bias[0].item())
    assert biases[0] == biases[1] != biases[2]
