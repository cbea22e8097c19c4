"""Tables and clusters of the working folder beside the built-in ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.errors import InputError
from benchmark.spec import matrix
from benchmark.user_files import find_toml, toml_files
from slurm.cluster import cluster_names, load_cluster


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    built_in, user = tmp_path / "built-in", tmp_path / "user"
    built_in.mkdir()
    user.mkdir()
    (built_in / "lab.toml").write_text("a = 1")
    (user / "mine.toml").write_text("a = 2")
    return built_in, user


def test_both_folders_are_searched(folders: tuple[Path, Path]) -> None:
    built_in, user = folders
    assert toml_files(built_in, user) == {"lab": built_in / "lab.toml", "mine": user / "mine.toml"}
    assert find_toml("cluster", "lab", built_in, user) == built_in / "lab.toml"
    assert find_toml("cluster", "mine", built_in, user) == user / "mine.toml"
    assert find_toml("cluster", str(user / "mine.toml"), built_in, user) == user / "mine.toml"


def test_a_name_in_both_folders_is_refused(folders: tuple[Path, Path]) -> None:
    built_in, user = folders
    (user / "lab.toml").write_text("a = 3")
    with pytest.raises(
        InputError, match=r"the cluster lab is built in, and .*lab.toml differs from it; rename"
    ):
        find_toml("cluster", "lab", built_in, user)
    assert find_toml("cluster", str(user / "lab.toml"), built_in, user) == user / "lab.toml"
    (user / "lab.toml").write_text("a = 1")
    assert find_toml("cluster", "lab", built_in, user) == built_in / "lab.toml", (
        "the same content is no conflict"
    )


def test_an_unknown_name_lists_both(folders: tuple[Path, Path]) -> None:
    with pytest.raises(
        InputError, match=r"unknown cluster 'mines' \(did you mean mine\?\); allowed: lab, mine, a path"
    ):
        find_toml("cluster", "mines", *folders)
    with pytest.raises(
        InputError, match=r"no file nowhere.toml; allowed: the path of a cluster file, or one of lab"
    ):
        find_toml("cluster", "nowhere.toml", *folders)


def test_tables_and_clusters_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    text = (matrix.FOLDER / "crd-table1.toml").read_text()
    (tmp_path / "tables" / "mine.toml").write_text(text.replace('title = "', 'title = "Mine: ', 1))
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "ours.toml").write_text('partition = "long"')
    assert {"mine", "crd-table1"} <= set(matrix.table_names()) and "mine" not in matrix.built_in_tables()
    assert matrix.load_table("mine").title.startswith("Mine: ")
    assert {"ours", "lab"} <= set(cluster_names()) and load_cluster("ours").partition == "long"
