"""Sound clips: files as images, folders and their errors, and taggers trained on them by the command line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sounds import KINDS, RATE, sound, write_clips, write_wave
from training_kit import FP32, weights

from benchmark import data
from benchmark.__main__ import main
from benchmark.data import spectrogram as s
from benchmark.data.clips import NOMINAL, list_clips
from benchmark.data.stream import Stream
from benchmark.errors import InputError
from benchmark.spec.resolver import Resolver
from benchmark.spec.runs import Request, Run, skip_reason
from benchmark.training.execution import ExecutionRequest
from benchmark.training.options import TrainingOptions
from benchmark.training.pack import train_pack
from benchmark.work.order import WorkSettings, work, work_order
from results.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def nominal_clips() -> object:
    """Register the nominal clips again after each test."""
    yield
    data.DATASETS["clips"] = NOMINAL


# --- a file ---


def tone(hz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("hz", [150, 440, 1_000, 5_000])
def test_a_tone_is_loudest_in_its_band_at_every_sampling_rate(hz: int, rate: int) -> None:
    image = s.spectrogram(tone(hz, rate=rate), rate)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    expected_band = (mel(hz) - mel(50)) / (
        mel(8_000) - mel(50)
    ) * 33 - 1  # centres of the bands are 0, 1, 2 ...
    assert all(abs(band - expected_band) < 1 for band in image[:, :, 0].argmax(axis=1))
    assert image[:, :, 0].max() == 255


def test_the_weights_of_every_band_sum_to_one() -> None:
    bank = s.mel_bank(16_000, 1024)
    np.testing.assert_allclose(bank.sum(axis=0), 1)
    assert (bank >= 0).all() and all((column > 0).any() for column in bank.T)
    hz = np.arange(513) * 16_000 / 1024
    assert not bank[(hz < 50)].any() and (np.diff((bank * hz[:, None]).sum(axis=0)) > 0).all()


def test_powers_are_means_of_windows_in_plain_loops() -> None:
    samples, window, hop = sound("rising", 1, seconds=0.4), 400, 160
    windows = [samples[i : i + window] for i in range(0, len(samples) - window + 1, hop)]
    first = windows[:2]  # 38 windows: six frames of two, the rest of one
    assert len(windows) == 38
    shape = [0.5 - 0.5 * math.cos(2 * math.pi * i / window) for i in range(window)]
    total = np.zeros(513)
    for w in first:
        padded = np.zeros(1024)
        padded[:window] = [a * b for a, b in zip(shape, w, strict=True)]
        total += [
            abs(sum(padded * np.exp(-2j * np.pi * k * np.arange(1024) / 1024))) ** 2 / 2 for k in range(513)
        ]
    np.testing.assert_allclose(s.band_powers(samples, RATE)[0], total @ s.mel_bank(RATE, 1024), rtol=1e-8)


def test_slopes_in_plain_loops() -> None:
    x = np.random.default_rng(0).normal(size=(7, 2))
    for f in range(7):
        for m in range(2):
            at = [x[min(max(f + n, 0), 6), m] for n in (-2, -1, 0, 1, 2)]
            assert s.slope(x)[f, m] == pytest.approx((-2 * at[0] - at[1] + at[3] + 2 * at[4]) / 10)


def test_gain_does_not_matter_and_silence_is_constant() -> None:
    samples = sound("rising", 3)
    assert np.array_equal(s.spectrogram(samples, RATE), s.spectrogram(samples / 64, RATE))
    silent = s.spectrogram(np.zeros(8_000), RATE)
    assert (silent[:, :, 0] == 0).all() and (silent[:, :, 1:] == 128).all()


def test_time_runs_down_the_rows() -> None:
    rising, falling = (
        s.spectrogram(sound(k, 0), RATE)[:, :, 0].argmax(axis=1) for k in ("rising", "falling")
    )
    assert (np.diff(rising[1:-1].astype(int)) >= 0).all() and (np.diff(falling[1:-1].astype(int)) <= 0).all()
    assert rising[-2] - rising[1] > 8


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_is_read(width: int, channels: int, tmp_path: Path) -> None:
    samples = sound("rising", 5)
    write_wave(tmp_path / "a.wav", samples, rate=22_050, width=width, channels=channels)
    read, rate = s.read_wave(tmp_path / "a.wav")
    assert rate == 22_050 and np.abs(read - samples).max() <= 2.0 ** (1 - 8 * width)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    write_wave(good, sound("noise", 0))
    whole = good.read_bytes()
    cases = {
        "empty": (b"", "cannot be read"),
        "text": (b"not a sound at all, but long enough to be one", "cannot be read"),
        "header": (whole[:30], "cannot be read"),
        "cut": (whole[: len(whole) // 2], "is truncated"),
        "float": (whole[:20] + b"\x03\x00" + whole[22:], "cannot be read"),
    }
    for name, (content, reason) in cases.items():
        path = tmp_path / f"{name}.wav"
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name}.wav: {reason}"):
            s.read_wave(path)
    write_wave(tmp_path / "slow.wav", sound("noise", 0), rate=8_000)
    write_wave(tmp_path / "short.wav", sound("noise", 0, seconds=0.1))
    with pytest.raises(InputError, match="8000 samples per second; allowed: 16000"):
        s.read_wave(tmp_path / "slow.wav")
    with pytest.raises(InputError, match=r"lasts 0\.10 s"):
        s.read_wave(tmp_path / "short.wav")


# --- a folder ---


def test_a_folder_is_counted_read_and_ordered_evenly(folder: Path) -> None:
    known = data.register_clips(folder)
    assert (known.num_classes, known.train_images, known.test_images) == (3, 48, 18) and data.info(
        "clips"
    ) == known
    clips = data.load("clips", folder)
    assert clips.train.images.shape == (48, 32, 32, 3) and clips.train.images.dtype == torch.uint8
    assert clips.train.take(6).labels.bincount().tolist() == [
        2,
        2,
        2,
    ] and clips.test.labels.bincount().tolist() == [6, 6, 6]
    assert data.load("clips", folder) is clips, "read once a process"
    assert clips.classes == KINDS
    first = s.spectrogram(*s.read_wave(folder / "clips" / "test" / KINDS[1] / "000.wav"))
    of_class = clips.test.images[clips.test.labels == 1]
    assert any(np.array_equal(first, image.numpy()) for image in of_class)


def test_the_stated_statistics_are_near_those_of_sounds(folder: Path) -> None:
    info = data.register_clips(folder)
    pixels = data.load("clips", folder).train.images.double() / 255
    for k in range(3):
        assert abs(pixels[..., k].mean().item() - info.mean[k]) < info.std[k] / 2
        assert info.std[k] / 2 < pixels[..., k].std().item() < 2 * info.std[k]


def test_without_augmentation_every_epoch_shows_the_clip_as_it_is(folder: Path) -> None:
    info = data.register_clips(folder)
    train = data.load("clips", folder).train
    stream = Stream(
        train,
        mean=info.mean,
        std=info.std,
        sampler=data.SHUFFLE,
        batch_size=48,
        drop_last=False,
        seed=0,
        augment="none",
    )
    for epoch in (1, 2):
        batch = next(stream.epoch("main", epoch, [data.NORMAL, data.SECOND, data.ROTATED]))
        plain = data.normalise(train.images[batch.indices], torch.tensor(info.mean), torch.tensor(info.std))
        assert torch.equal(batch.views["normal"], plain) and torch.equal(batch.views["second"], plain)
        assert torch.equal(batch.views["rotated"][48:96], plain.flip(2, 3)), "turned, and not cut"


def broken(folder: Path, kind: str) -> None:
    clips = folder / "clips"
    match kind:
        case "no test":
            shutil.rmtree(clips / "test")
        case "one class":
            for k in KINDS[1:]:
                shutil.rmtree(clips / "train" / k)
        case "other classes":
            (clips / "test" / "noise").rename(clips / "test" / "hiss")
        case "empty class":
            for path in (clips / "test" / "noise").iterdir():
                path.unlink()


WRONG_FOLDERS = {
    "no test": "no folder .*test; set DATA= to a folder that has clips/",
    "one class": "has 1 classes; it must have at least two folders",
    "other classes": "class hiss is not in both train and test",
    "empty class": "noise has no .wav file",
}


@pytest.mark.parametrize("kind", WRONG_FOLDERS)
def test_a_wrong_folder_is_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken(write_clips(tmp_path, 2, 1), kind)
    with pytest.raises(InputError, match=WRONG_FOLDERS[kind]) as caught:
        list_clips(tmp_path)
    assert "\n" not in str(caught.value)
    assert data.register_clips(tmp_path) == NOMINAL, (
        "most commands need no clips; those that do raise the error"
    )
    assert (
        main(["run", "iusp-table", *FAST, "--data", str(tmp_path), "--results", str(tmp_path / "runs")]) == 2
    )
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] == [
        f"error: {caught.value}"
    ]


def test_a_wrong_clip_ends_the_command_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_clips(tmp_path, 2, 1) / "clips" / "train" / "noise" / "000.wav").write_bytes(b"RIFF")
    assert (
        main(["run", "iusp-table", *FAST, "--data", str(tmp_path), "--results", str(tmp_path / "runs")]) == 2
    )
    assert "noise/000.wav: cannot be read" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("verb", ["status", "plan", "diff", "table", "report", "retry"])
def test_a_mistyped_data_folder_is_an_error(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys contain the clips.

    Without them all runs would look absent, and the table would be written like that.
    """
    folders = ["--data", str(tmp_path / "sndd"), "--results", str(tmp_path)]
    out = ["--out", str(tmp_path / "out")] if verb in ("table", "report") else []
    assert main([verb, "iusp-table", "--profile", "short", *folders, *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"error: no folder {tmp_path / 'sndd' / 'clips' / 'train'}; set DATA= ")
        and not (tmp_path / "out").exists()
    )
    other = ["iusp-table", "--profile", "quick"] if verb != "report" else ["crd-table1", "--profile", "short"]
    assert main([verb, *other, *folders, *out]) == 0, "a command that needs no clips does not fail"


def test_a_report_of_all_tables_says_that_it_lacks_the_clips(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.register_clips(folder)
    assert [
        o.status
        for o in train_pack([tagger("plain")], Store(tmp_path / "runs"), TrainingOptions(FP32, folder))
    ] == ["done"]
    argv = [
        "report",
        "--profile",
        "short",
        "--methods",
        "iusp,kd",
        "--results",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*argv, "--data", str(tmp_path / "sndd")]) == 0
    assert f"runs on clips are left out: {tmp_path / 'sndd'} has no clips" in capsys.readouterr().err
    assert main([*argv, "--data", str(folder)]) == 0
    assert "left out" not in capsys.readouterr().err


def test_other_clips_are_other_runs(folder: Path, tmp_path: Path) -> None:
    def key() -> str:
        return tagger("plain").key

    nominal = key()
    data.register_clips(folder)
    mine = key()
    data.register_clips(write_clips(tmp_path, 3, 2))
    others = key()
    data.register_clips(folder)
    assert key() == mine and len({nominal, mine, others}) == 3
    write_wave(folder / "clips" / "train" / "noise" / "999.wav", sound("noise", 7))
    with pytest.raises(InputError, match="the clips have changed since this command began"):
        data.load("clips", folder)
    (folder / "clips" / "train" / "noise" / "999.wav").unlink()


# --- taggers ---

FAST = ["--profile", "short", "--seeds", "1", "--threads", "1", "--device", "cpu", "--precision", "fp32"]
FAST += ["--set", "recipe.epochs=6", "--set", "recipe.batch_size=12"]


def test_the_table_trains_on_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Teacher, student, KD and IUSP by the command line; in six epochs all learn the order of the frames."""
    folders = ["--data", str(folder), "--results", str(tmp_path)]
    argv = ["iusp-table", *FAST, "--methods", "kd,iusp", *folders]
    assert main(["run", *argv]) == 0
    assert main(["run", *argv]) == 0
    assert "nothing to train: 4 runs done" in capsys.readouterr().err
    records = [json.loads(p.read_text()) for p in tmp_path.rglob("record.json")]
    assert sorted(r["method"] for r in records) == ["iusp", "kd", "plain", "plain"]
    assert {r["test_images"] for r in records} == {18}
    assert all(r["top1_best"] > 60 for r in records), [(r["method"], r["top1_best"]) for r in records]
    capsys.readouterr()
    assert main(["table", "iusp-table", *FAST[:4], *FAST[-4:], *folders, "--out", str(tmp_path / "out")]) == 0
    assert "IUSP" in capsys.readouterr().out
    assert main(["clean", "--results", str(tmp_path), "--yes"]) == 0, (
        "without DATA= their keys are others: that is no reason"
    )
    assert len(list(tmp_path.rglob("record.json"))) == 4


def tagger(method: str, student: str = "crnn_16") -> Run:
    request = Request(
        dataset="clips",
        protocol="clips",
        profile="short",
        teacher="none" if method == "plain" else "crnn_64",
        student=student,
        method=method,
        overrides=(("recipe.batch_size", 12), ("recipe.epochs", 2)),
    )
    return Resolver().run(request, 0)


def test_a_work_order_needs_the_clips_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    """As in another process, or in a job on another machine."""
    data.register_clips(folder)
    order = {
        part: work_order(
            [tagger("plain")],
            WorkSettings(
                results=tmp_path / "runs",
                data=part,
                execution=ExecutionRequest(device="cpu", precision="fp32", threads=1),
            ),
        )
        for part in (folder, tmp_path)
    }
    data.DATASETS["clips"] = NOMINAL
    assert [o.status for o in work(order[folder])] == ["done"]
    with pytest.raises(InputError, match="the data have changed since it was ordered"):
        work(order[tmp_path])


def test_taggers_are_bit_equal_alone_and_in_an_interrupted_pack(folder: Path, tmp_path: Path) -> None:
    data.register_clips(folder)
    alone, packed = tmp_path / "alone", tmp_path / "packed"
    for runs_folder in (alone, packed):
        assert [
            o.status
            for o in train_pack(
                [tagger("plain", "crnn_64")], Store(runs_folder), TrainingOptions(FP32, folder)
            )
        ] == ["done"]
    runs = [tagger(m) for m in ("iusp", "kd", "at")]
    for options in (TrainingOptions(FP32, folder, until=1), TrainingOptions(FP32, folder)):
        outcomes = train_pack(runs, Store(packed), options)
    assert [o.status for o in outcomes] == ["done"] * 3
    train_pack(runs[:1], Store(alone), TrainingOptions(FP32, folder))
    assert weights(runs[0], alone) == weights(runs[0], packed) != weights(runs[1], packed)


def test_iusp_refuses_pairs_of_a_tagger_and_an_image_network() -> None:
    def reason(teacher: str, student: str) -> str | None:
        request = Request(
            dataset="digits",
            protocol="clips",
            profile="quick",
            teacher=teacher,
            student=student,
            method="iusp",
        )
        return skip_reason(Resolver().run(request, 0))

    assert reason("crnn_64", "crnn_16") is None and reason("resnet14", "resnet8") is None
    for pair in (("crnn_64", "resnet8"), ("resnet14", "crnn_16")):
        assert "frames" in (reason(*pair) or "")
