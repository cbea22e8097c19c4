"""The files of a teacher cache: what an interrupted process leaves can be continued, damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.training.cache_blocks import BlockFile, Layout, index_path, layout_of, ranges

LAYOUT = Layout(
    teacher="a/key@last",
    part="logits",
    precision="bf16",
    device="cpu",
    dtype="float16",
    rows=10,
    width=3,
    block_rows=4,
)
"""Three blocks; the last one has two rows."""
ROWS = torch.arange(30, dtype=torch.float16).view(10, 3) + 1


def data(block: int) -> bytes:
    return ROWS[4 * block : 4 * block + 4].numpy().tobytes()


def written(path: Path, *blocks: int) -> BlockFile:
    """Write and commit blocks as one process does."""
    file = BlockFile(path, LAYOUT)
    file.begin_writing()
    for block in blocks:
        file.write(block, data(block))
    file.commit()
    file.end_writing()
    return file


def test_blocks_in_any_order_and_by_several_processes_make_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert BlockFile(path, LAYOUT).missing() == {0, 1, 2}
    written(path, 2, 0)
    assert BlockFile(path, LAYOUT).missing() == {1}
    written(path, 1)
    file = BlockFile(path, LAYOUT)
    assert file.missing() == set() and not any(map(file.is_damaged, range(3)))
    assert torch.equal(file.tensor(), ROWS) and layout_of(path) == LAYOUT


def test_what_was_not_committed_does_not_count(tmp_path: Path) -> None:
    file = BlockFile(tmp_path / "x", LAYOUT)
    file.begin_writing()
    file.write(0, data(0))
    file.commit()
    file.write(1, data(1))
    assert BlockFile(tmp_path / "x", LAYOUT).missing() == {1, 2}
    file.end_writing()
    assert file.missing() == {1, 2}


@pytest.mark.parametrize("damage", ["zeros", "flipped bit", "short"])
def test_damaged_data_are_noticed(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    written(path, 0, 1, 2)
    raw = bytearray(path.read_bytes())
    if damage == "zeros":
        raw[24:48] = bytes(24)
    elif damage == "flipped bit":
        raw[30] ^= 1
    else:
        raw = raw[:40]
    path.write_bytes(raw)
    file = BlockFile(path, LAYOUT)
    assert [file.is_damaged(b) for b in range(3)] == [False, True, damage == "short"]
    written(path, 1, 2)
    assert torch.equal(BlockFile(path, LAYOUT).tensor(), ROWS)


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_line_of_the_index_does_not_count_and_is_not_continued(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    written(path, 0, 1)
    index = index_path(path).read_bytes()
    index_path(path).write_bytes(index[:-cut])
    missing = BlockFile(path, LAYOUT).missing()
    assert missing == ({1, 2} if cut <= 35 else {0, 1, 2}), "a line has 35 characters"
    written(path, *missing)
    file = BlockFile(path, LAYOUT)
    assert file.missing() == set() and not any(map(file.is_damaged, range(3)))


def test_a_file_that_does_not_fit_is_replaced_and_a_reader_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mapped = written(path, 0, 1, 2).tensor()
    index_path(path).write_text("{}\n")
    assert layout_of(path) is None and BlockFile(path, LAYOUT).missing() == {0, 1, 2}
    written(path, 0)
    assert torch.equal(mapped, ROWS) and BlockFile(path, LAYOUT).missing() == {1, 2}


@pytest.mark.parametrize("index", [b"", b"[1]", b"\xff\xfe", b'{"format": 99}\n', b"[" * 100_000])
def test_a_damaged_index_counts_as_none(index: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    written(path, 0, 1, 2)
    index_path(path).write_bytes(index)
    assert BlockFile(path, LAYOUT).missing() == {0, 1, 2} and layout_of(path) is None


def test_the_same_weights_under_another_identity_have_the_same_files(tmp_path: Path) -> None:
    written(tmp_path / "x", 0, 1, 2)
    imported = Layout(**{**LAYOUT.__dict__, "teacher": "weights:0123"})
    assert BlockFile(tmp_path / "x", imported).missing() == set()


def test_ranges_of_blocks_are_short() -> None:
    assert ranges({3, 1, 4, 5, 9}) == "1, 3 to 5, 9"
    assert ranges(range(0, 100, 2)) == "0, 2, 4, 6, 8, ..."
