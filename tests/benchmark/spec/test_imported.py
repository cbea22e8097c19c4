"""Folders of teachers: which files are read, which network each is, and which epoch teaches."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

import models
from benchmark.__main__ import main
from benchmark.errors import InputError
from benchmark.spec.imported import networks_of, read_checkpoint, read_folder, refs_of, teachers_in
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request
from models import registry


def save(path: Path, network: str = "resnet8", fill: float = 0.0, key: str = "model") -> str:
    """Write a checkpoint whose weights are those of seed 0 plus `fill`. Returns their hash."""
    torch.manual_seed(0)
    net = models.build(network, 10)
    with torch.no_grad():
        net.linear_head().bias.add_(fill)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: net.state_dict()}, path)
    return models.weights_hash(net)


NAMES = {
    "resnet56_sskd.pth": ["resnet56"],
    "resnet56_vanilla/ckpt_epoch_240.pth": ["resnet56"],
    "cifar100_resnet20_xyz.pth": ["resnet20"],
    "teacher_wrn_40_2/ckpt/best.pth": ["wrn_40_2"],
    "WRN-40-2.pth": ["wrn_40_2"],
    "resnet8x4.th": ["resnet8x4"],
    "resnet50_default-1.pth": ["ResNet50_default"],
    "S:resnet20_T:resnet56_kd/last.pth": ["resnet20", "resnet56"],
    "resnet200.pth": [],
    "net.pth": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_that_a_file_is_named_after(name: str, tmp_path: Path) -> None:
    assert networks_of(tmp_path / name, tmp_path) == NAMES[name]


@pytest.mark.parametrize(
    "name",
    [
        *("net.pth", "cifar10_resnet8_x.pth", "teacher_X/ckpt/best.pth", "resnet8.th", "resnet8.pkl"),
        *(
            "resnet8",
            "latest",
            "resnet8.pth.tar",
            "resnet56-teachers/a.pth",
            "x.bin",
            "S:resnet8_T:vgg8/x.pth",
        ),
    ],
)
def test_a_file_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    digest = save(tmp_path / name)
    content = read_folder(tmp_path)
    assert [(t.network, t.weights) for t in content.teachers] == [("resnet8", digest)]
    assert content.notes == ()


def test_a_folder_may_be_a_link(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "resnet8.pth")
    (tmp_path / "teachers").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "teachers" / "linked")
    os.symlink(tmp_path / "teachers", tmp_path / "teachers" / "loop")
    content = read_folder(tmp_path / "teachers")
    assert len(content.teachers) == 1
    assert [note.partition(": ")[2] for note in content.notes] == [
        "a link to a folder that it is in; skipped"
    ]


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    save(tmp_path / "net.pth")
    save(tmp_path / "other.pth", "resnet14")
    assert list(teachers_in(tmp_path / "net.pth")) == [("cifar10", "resnet8")]


def test_files_that_look_like_weights_and_are_left_alone_are_named(tmp_path: Path) -> None:
    save(tmp_path / "resnet8.pth")
    (tmp_path / "resnet14.onnx").write_bytes(b"x")
    torch.save([1, 2], tmp_path / "list.pkl")
    save(tmp_path / "tiny.weights", "resnet8", fill=1.0)
    (tmp_path / "tiny.weights").write_bytes((tmp_path / "tiny.weights").read_bytes()[:-200])
    os.symlink("/nowhere", tmp_path / "resnet20.pth")
    for name, text in {
        "README.md": "text",
        "log.txt": "",
        "args.json": '{"lr": 0.1}',
        ".hidden": "x",
    }.items():
        (tmp_path / name).write_text(text)
    content = read_folder(tmp_path)
    assert [t.network for t in content.teachers] == ["resnet8"]
    for name in ("resnet14.onnx", "list.pkl", "resnet20.pth"):
        assert sum(name in note and "left alone" in note for note in content.notes) == 1, name
    assert len(content.notes) in (3, 4), "a truncated archive may not look like weights"


def test_a_damaged_checkpoint_is_an_error_whatever_its_suffix(tmp_path: Path) -> None:
    save(tmp_path / "resnet8.pth")
    (tmp_path / "resnet14.th").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"resnet14\.th: damaged"):
        read_folder(tmp_path)


def test_a_file_named_after_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "resnet14_x.pth", "resnet8")
    with pytest.raises(InputError, match=r"weights of another network.*\(they are those of resnet8\)"):
        read_folder(tmp_path)
    torch.save({"model": {"weight": torch.ones(2)}}, tmp_path / "resnet14_x.pth")
    with pytest.raises(InputError, match=r"expected resnet14 with 100 classes$"):
        read_folder(tmp_path)
    (tmp_path / "resnet14_x.pth").rename(tmp_path / "x.pth")
    with pytest.raises(InputError, match="its weights fit no network with 100 or 10 or 1000 classes"):
        read_folder(tmp_path)


def test_weights_that_fit_two_networks_need_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of ResNet50 and ResNet50_default, which differ only in their initialisation."""
    monkeypatch.setitem(registry.NETWORKS, "twin", registry.NETWORKS["resnet8"])  # type: ignore[arg-type]
    save(tmp_path / "net.pth", key="net")
    save(tmp_path / "resnet14.pth", "resnet14")
    with pytest.raises(InputError, match="fit resnet8 and twin; name one of them with --network"):
        read_folder(tmp_path)
    assert {t.network for t in read_folder(tmp_path, "twin").teachers} == {"twin", "resnet14"}
    assert read_folder(tmp_path / "net.pth", "resnet8").teachers[0].network == "resnet8"
    with pytest.raises(InputError, match="expected resnet14 with 100 classes"):
        read_folder(tmp_path / "net.pth", "resnet14")
    (tmp_path / "net.pth").unlink()
    with pytest.raises(InputError, match=r"--network vgg8: .* has no checkpoint of it"):
        read_folder(tmp_path, "vgg8")
    for argv in (["--network", "twim", "--teachers", str(tmp_path)], ["--network", "twin"]):
        assert main(["plan", "crd-table1", *argv]) == 2
    capsys.readouterr()


def test_a_weight_that_is_not_finite_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "resnet8.pth", fill=float("nan"))
    assert main(["plan", "crd-table1", "--teachers", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "resnet8.pth: fc.bias has NaN or infinity in 10 of 10 values" in line


# --- several epochs of one training ---


@pytest.fixture
def repdistiller(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Write RepDistiller's folder of a teacher. Returns it, and the hash of each file."""
    names = [f"ckpt_epoch_{n}.pth" for n in (40, 80, 120, 160, 200, 240)] + ["resnet14_best.pth"]
    hashes = {n: save(tmp_path / "resnet14_vanilla" / n, "resnet14", fill=i) for i, n in enumerate(names)}
    # the last file has the weights of the last epoch
    hashes["resnet14_last.pth"] = save(
        tmp_path / "resnet14_vanilla" / "resnet14_last.pth", "resnet14", fill=5
    )
    assert hashes["resnet14_last.pth"] == hashes["ckpt_epoch_240.pth"]
    return tmp_path, hashes


@pytest.mark.parametrize(
    ("removed", "last", "best"),
    [
        ([], "resnet14_last.pth", "resnet14_best.pth"),
        (["resnet14_last.pth"], "ckpt_epoch_240.pth", "resnet14_best.pth"),
        (["resnet14_best.pth"], "resnet14_last.pth", "resnet14_last.pth"),
        (["resnet14_best.pth", "resnet14_last.pth"], "ckpt_epoch_240.pth", "ckpt_epoch_240.pth"),
        (["ckpt_epoch_240.pth", "resnet14_last.pth"], "ckpt_epoch_200.pth", "resnet14_best.pth"),
    ],
)
def test_the_protocol_decides_which_epoch_teaches(
    repdistiller: tuple[Path, dict[str, str]], removed: list[str], last: str, best: str
) -> None:
    folder, hashes = repdistiller
    for name in removed:
        (folder / "resnet14_vanilla" / name).unlink()
    content = read_folder(folder)
    resolver = Resolver(refs_of(content.teachers))
    for protocol, name in (("crd", last), ("sskd", best)):
        run = resolver.run(Request("cifar10", protocol, "short", "resnet14", "resnet8", "kd"), 0)
        ref = run.teacher_ref
        assert ref is not None and ref.weights == hashes[name]
        measured = resolver.imported_run(ref, dataset="cifar10", protocol=protocol, profile="short")
        for each in (run, measured):
            assert resolver.from_order(each.order()) == each
    (note,) = content.notes
    assert "checkpoints before ckpt_epoch_2" in note and "ckpt_epoch_40.pth and" in note


@pytest.mark.parametrize("names", [("a.pth", "b.pth"), ("x/best.pth", "y/last.pth"), ("a.pth", "best.pth")])
def test_checkpoints_that_are_not_of_one_training_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    for i, name in enumerate(names):
        save(tmp_path / name, fill=i)
    with pytest.raises(InputError, match="are both checkpoints of resnet8; keep one of each network"):
        read_folder(tmp_path)
    save(tmp_path / names[1], fill=0)
    assert len(read_folder(tmp_path).teachers) == 1, "the same weights twice are one teacher"


def test_a_description_beside_other_json_files(tmp_path: Path) -> None:
    described = {"network": "resnet14", "num_classes": 100, "weights": "0123456789abcdef"}
    (tmp_path / "resnet14.json").write_text(json.dumps(described))
    (tmp_path / "config.json").write_text('{"epochs": 240, "model": "resnet14"}')
    (teacher,) = read_folder(tmp_path).teachers
    assert teacher.description_only and dataclasses.replace(teacher, path=Path()).network == "resnet14"


def test_a_network_can_be_named(tmp_path: Path) -> None:
    save(tmp_path / "anything.pth", key="state_dict")
    assert read_checkpoint(tmp_path / "anything.pth", "resnet8").network == "resnet8"


def test_torchvisions_file_of_an_imagenet_network_is_read_under_its_name(tmp_path: Path) -> None:
    """`resnet18-f37072fd.pth` begins with the name of a network for CIFAR that has another stem."""
    net = models.build("resnet18_imagenet", 1000)
    state = {
        key.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): tensor
        for key, tensor in net.state_dict().items()
    }
    torch.save(state, tmp_path / "resnet18-f37072fd.pth")
    teacher = read_checkpoint(tmp_path / "resnet18-f37072fd.pth")
    assert (teacher.network, teacher.num_classes) == ("resnet18_imagenet", 1000)
    assert teacher.weights == models.weights_hash(net)
    names = ("imagenet", "imagenet64")  # the same images in two sizes
    assert set(refs_of([teacher])) == {(name, "resnet18_imagenet") for name in names}


def test_a_file_of_the_cifar_network_of_that_name_is_still_its_own(tmp_path: Path) -> None:
    save(tmp_path / "resnet18_x.pth", "ResNet18")
    assert read_checkpoint(tmp_path / "resnet18_x.pth").network == "ResNet18"
