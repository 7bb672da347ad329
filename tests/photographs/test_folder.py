import os
import shutil
from pathlib import Path

import pytest

from retrieval.errors import DatasetError, ImageError
from retrieval.photographs.decoding import load_image
from retrieval.photographs.folder import ImageSet, by_stem, list_images


def test_lists_recursively_and_sorts_bytewise(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    for name in ("b/x.jpg", "a.JPG", "é.png", "Z.jpg", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"-")
    images = list_images(tmp_path)
    assert images.names == ("Z.jpg", "a.JPG", "b.jpg", "b/x.jpg", "notes.txt", "é.png")
    assert images.path("b/x.jpg") == tmp_path / "b" / "x.jpg"


def test_links_and_special_files(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "x.jpg").write_bytes(b"-")
    (real / "loop").symlink_to(real, target_is_directory=True)
    (real / "linked.jpg").symlink_to(real / "x.jpg")
    (real / "broken.jpg").symlink_to(real / "nowhere")
    os.mkfifo(real / "pipe.jpg")
    names = ("broken.jpg", "linked.jpg", "loop", "pipe.jpg", "x.jpg")
    assert list_images(real).names == names
    for name in set(names) - {"linked.jpg", "x.jpg"}:  # listed, and refused with a reason
        with pytest.raises(ImageError, match=name):
            load_image(real / name)


def test_odd_bytes_survive(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"-")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (name,) = list_images(tmp_path).names
    assert name == "caf\udce9.jpg"
    assert list_images(tmp_path).path(name).read_bytes() == b"-"


def test_root_must_hold_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        list_images(tmp_path / "missing")
    with pytest.raises(DatasetError, match="holds no file"):
        list_images(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(DatasetError, match="not a folder"):
        list_images(tmp_path / "x")


def test_by_stem_names_both_files(tmp_path: Path) -> None:
    assert by_stem(ImageSet(tmp_path, ("a/x.jpg", "y.tar.gz"))) == {"x": "a/x.jpg", "y.tar": "y.tar.gz"}
    with pytest.raises(DatasetError, match=r"a/x\.jpg and b/x\.png"):
        by_stem(ImageSet(tmp_path, ("a/x.jpg", "b/x.png")))


def test_indexes_among_the_photographs_are_passed_over(photos: Path, index: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(index, tmp_path / "photos" / "old.index")
    (tmp_path / "photos" / "web").mkdir()
    (tmp_path / "photos" / "web" / "manifest.json").write_text('{"name": "a web page"}')
    names = list_images(tmp_path / "photos").names
    assert set(names) == {*list_images(photos).names, "web/manifest.json"}
