# SPDX-License-Identifier: Apache-2.0
"""A folder appears only when it is whole, and replaces another only then."""

import stat

import pytest

from prosparse.errors import UserError
from prosparse.records.files import put_in_place, refuse_existing, whole_folder


@pytest.fixture
def old(tmp_path):
    """A folder with something in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def write_then_fail(folder, error: BaseException, overwrite: bool = False) -> None:
    with whole_folder(folder, overwrite) as unfinished:
        (unfinished / "new.txt").write_text("half")
        raise error


def test_it_appears_at_the_end(tmp_path):
    folder = tmp_path / "deep" / "out"
    with whole_folder(folder) as unfinished:
        (unfinished / "new.txt").write_text("new")
        assert not folder.exists()
    assert (folder / "new.txt").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(error, tmp_path):
    with pytest.raises(error):
        write_then_fail(tmp_path / "out", error())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_content(error, old):
    with pytest.raises(error):
        write_then_fail(old, error(), overwrite=True)
    assert [path.name for path in old.iterdir()] == ["old.txt"]
    assert list(old.parent.iterdir()) == [old]


def test_overwrite_replaces(old):
    with whole_folder(old, overwrite=True) as unfinished:
        (unfinished / "new.txt").write_text("new")
        assert (old / "old.txt").exists()
    assert [path.name for path in old.iterdir()] == ["new.txt"]
    assert list(old.parent.iterdir()) == [old]


def test_overwrite_replaces_a_file(tmp_path):
    (tmp_path / "out").write_text("a file")
    with whole_folder(tmp_path / "out", overwrite=True):
        pass
    assert (tmp_path / "out").is_dir()
    assert len(list(tmp_path.iterdir())) == 1


def test_overwrite_replaces_a_link_and_not_what_it_points_to(old):
    link = old.with_name("link")
    link.symlink_to(old)
    with whole_folder(link, overwrite=True):
        pass
    assert not link.is_symlink()
    assert (old / "old.txt").exists()


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(old):
    with pytest.raises(FileNotFoundError):
        put_in_place(old.with_name("is not there"), old, overwrite=True)
    assert (old / "old.txt").exists()


def test_an_existing_folder_is_refused_before_the_work(old):
    with pytest.raises(UserError, match="out already exists; choose another --out or pass --over"):
        write_then_fail(old, AssertionError("the block ran"))
    assert list(old.parent.iterdir()) == [old]


def test_the_working_directory_is_never_replaced(old, monkeypatch):
    inside = old / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for folder in (inside, old):
        with pytest.raises(UserError, match="holds the working directory"):
            refuse_existing(folder, overwrite=True)
    refuse_existing(inside / "new", overwrite=True)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(old):
    with pytest.raises(UserError, match=r"cannot be written: .*old\.txt is no folder"):
        refuse_existing(old / "old.txt" / "out", overwrite=False)
