"""Files are there whole or not at all."""

import stat

import pytest

from decalign_core.files import atomic_path, write_string


def test_text_is_written_as_utf8_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "text.json"
    write_string(path, "ν ≥ 0\n")
    assert path.read_bytes() == "ν ≥ 0\n".encode()
    write_string(str(path), "again\r\n")
    assert path.read_bytes() == b"again\r\n"


def test_readable_by_others_and_nothing_beside_it(tmp_path):
    path = tmp_path / "text.txt"
    write_string(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "text.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError, match="stopped"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert [found.read_text() for found in tmp_path.iterdir()] == ([] if before is None else [before])


def test_the_old_file_stands_until_the_block_ends(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "a rename between file systems would not be atomic"
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"


def test_writer_may_replace_the_temporary_file(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.unlink()
        temporary.write_text("made anew")
    assert (tmp_path / "a.txt").read_text() == "made anew"
