"""A run's folder: one process at a time, and nothing left of a run that did not begin."""

import threading

import pytest
from filelock import FileLock
from refusals import refusal

from decalign_core.lab.distributed import Group
from decalign_core.lab.folders import alone

GROUP = Group()


def test_what_was_made_and_is_empty_is_removed(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), alone(tmp_path / "there" / "a" / "b", GROUP):
        raise KeyError
    assert not list((tmp_path / "there").iterdir())
    with alone(tmp_path / "there", GROUP):
        pass
    assert (tmp_path / "there").is_dir(), "it was there before"


def test_what_holds_anything_stays(tmp_path):
    with pytest.raises(KeyError), alone(tmp_path / "a" / "b", GROUP):
        (tmp_path / "a" / "b" / "config.json").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["config.json"]


def test_the_lock_of_another_stays(tmp_path):
    with FileLock(tmp_path / ".lock"):
        refusal(lambda: alone(tmp_path, GROUP).__enter__(), "run_dir: wanted a folder that no other process trains in")
        assert (tmp_path / ".lock").exists()


def test_those_who_come_and_go_at_the_same_time_do_not_meet(tmp_path):
    inside, most, failed = [], [], []

    def begin():
        for _ in range(40):
            try:
                with alone(tmp_path / "a" / "b", GROUP):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except ValueError:  # the other has held it for a second
                pass
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and max(most) == 1
