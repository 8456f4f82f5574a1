import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from passband.atomic import atomic_path, check_destination, sweep, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_path(path) as temporary:
        # Below the same folder: a move within one file system cannot be seen halfway.
        assert temporary.parent.parent == tmp_path
        assert temporary.suffix == ".json"  # for writers that look at it
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_what_a_killed_writer_left_is_swept_out_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").touch()
    process = multiprocessing.get_context("spawn").Process(target=_die_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 3
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]


def _die_writing(folder: Path) -> None:
    """End this process while it writes a file, with one of the writer's own beside it."""
    with atomic_path(folder / "a.json") as temporary:
        temporary.write_text("half of the n")
        temporary.with_name(".tmp").write_text("half")
        os._exit(3)


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path) -> None:
    ordinary, path = tmp_path / "ordinary", tmp_path / "a"
    ordinary.write_bytes(b"")
    write_atomically(path, b"x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    path.chmod(0o640)
    write_atomically(path, b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "a", b"x")


def test_a_missing_folder_is_named_and_not_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent; make it$"):
        write_atomically(tmp_path / "absent" / "a", b"")


def test_a_destination_is_checked_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_destination(tmp_path / "new" / "folder" / "file")
    check_destination(tmp_path, is_folder=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IsADirectoryError, match="it is a folder; name a file in it"):
        check_destination(tmp_path)
    (tmp_path / "file").touch()
    for path, is_folder in ((tmp_path / "file" / "a", False), (tmp_path / "file", True)):
        with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
            check_destination(path, is_folder=is_folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="no permission to write in"):
        check_destination(tmp_path / "new" / "file")
