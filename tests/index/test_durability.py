"""A power cut loses what was not synced: all that a manifest names is on disk before the rename that makes it count."""

import os
from pathlib import Path

import pytest

from retrieval.index import changes
from tests.survival import make_world, one_thread, run_index, run_remove, run_replace, signature_of, without_detection


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        one_thread()
        without_detection(patch)
        yield make_world(tmp_path_factory.mktemp("world"), patch)


class Disk:
    """Knows by inode what has been synced, and complains where a rename or a removal comes too early.

    Args:
        index: the index that is made or changed.
        monkeypatch: for the functions of `os`.
    """

    def __init__(self, index: Path, monkeypatch):
        self.index = index
        self.old = {path.lstat().st_ino for path in index.rglob("*")} if index.exists() else set()
        self.synced: set[int] = set()
        self.commits = 0
        self.pending: Path | None = None  # folder of a commit that is not durable yet
        real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "rmdir")}

        def fsync(descriptor):
            real["fsync"](descriptor)
            self.synced.add(os.fstat(descriptor).st_ino)
            if self.pending and os.path.samestat(os.fstat(descriptor), self.pending.stat()):
                self.pending = None

        def moved(name):
            def move(source, target):
                target = Path(target)
                self.require_durable(f"{name} to {target}")
                if target in (index, index / "manifest.json"):
                    self.require_synced(Path(source))
                    self.commits += 1
                    self.pending = target.parent
                real[name](source, target)
                self.synced.discard(target.parent.stat().st_ino)  # its entries have changed
                self.synced.discard(Path(source).parent.stat().st_ino)

            return move

        def removed(name):
            def remove(path, *, dir_fd=None):
                self.require_durable(f"{name} {path}")
                self.synced.discard(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_ino)  # may be used again
                real[name](path, dir_fd=dir_fd)

            return remove

        monkeypatch.setattr(os, "fsync", fsync)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, moved(name))
        for name in ("unlink", "rmdir"):
            monkeypatch.setattr(os, name, removed(name))

    def require_durable(self, what):
        assert self.pending is None, f"{what}, before the change itself was on disk"

    def require_synced(self, source):
        """The new files, and the folders that list them, are on disk."""
        root = source if source.is_dir() else self.index
        found = [path for path in root.rglob("*") if ".adding" not in path.parts and path.name != ".lock"]
        new = [path for path in found if path.lstat().st_ino not in self.old]
        assert new
        for path in new:
            assert path.lstat().st_ino in self.synced, f"{path} is not on disk"
            if path != source:
                assert path.parent.stat().st_ino in self.synced, f"{path} is not listed on disk"


@pytest.mark.parametrize("name", ["index", "add", "remove", "compact"])
def test_nothing_counts_before_it_is_on_disk(world, name, monkeypatch):
    if name == "index":
        index = world.folder / "made" / "index"
        index.parent.mkdir()
    else:
        index = world.copy(world.grown, name)
    run = {
        "index": lambda: run_index(world.photos, index),
        "add": lambda: run_replace(world, index),
        "remove": lambda: run_remove(index, "1.png"),
        "compact": lambda: changes.compact(index),
    }[name]
    with monkeypatch.context() as patch:
        disk = Disk(index, patch)
        run()
    assert disk.commits == 1
    assert disk.pending is None
    signature_of(index)
