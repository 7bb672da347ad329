"""A picture in a file has the file's name and a number; what is really called so is itself."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image
from retrieval.photographs.files import Encoded, content_of, read_photograph
from retrieval.photographs.places import Place, file_of, numbered, place_of, stem_of
from tests import encoded, hostile

FIRST, SECOND = hostile.pictures()
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200
)


@given(NAMES, st.integers(1, 9_999_999))
def test_a_name_and_a_number_come_back(tmp_path_factory, name, number):
    """Whatever the file is called: ``a#2`` and ``#3#4`` are names, too."""
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.touch()
    try:
        assert place_of(folder / numbered(name, number)) == Place(path, number)
        assert place_of(str(path)) == Place(path)
        assert file_of(folder / numbered(name, number)) == path
    finally:
        path.unlink()


@given(NAMES, st.integers(2, 9_999_999))
def test_names_of_pictures_are_told_apart(name, number):
    assert numbered(name, number) != numbered(name, number + 1) != numbered(name, 1) == name
    assert stem_of(numbered(name, number)).endswith(f"#{number}")


@pytest.mark.parametrize(
    "name", ["scan.tif#0", "scan.tif#1", "scan.tif#02", "scan.tif#", "scan.tif#x", "scan.tif#99999999"]
)
def test_other_numbers_are_names(tmp_path, name):
    (tmp_path / "scan.tif").write_bytes(encoded.several(".tif", [FIRST, SECOND]))
    assert place_of(tmp_path / name) == Place(tmp_path / name)
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / name)


def test_a_file_that_is_called_so_is_meant(tmp_path):
    data = encoded.several(".tif", [FIRST, SECOND])
    path = tmp_path / "scan.tif"
    path.write_bytes(data)
    second = load_image(tmp_path / "scan.tif#2").gray
    np.testing.assert_allclose(second, SECOND.mean(axis=2), atol=1e-3)
    (tmp_path / "scan.tif#2").write_bytes(encoded.still(".png", 255 - FIRST))
    np.testing.assert_allclose(load_image(tmp_path / "scan.tif#2").gray, 255 - FIRST.mean(axis=2), atol=1e-3)
    (tmp_path / "scan.tif#2#2").symlink_to("nowhere")  # a link that leads nowhere is a file, too
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "scan.tif#2#2")


def test_a_name_without_a_file_is_no_picture(tmp_path):
    with pytest.raises(ImageError, match=r"scan\.tif#2: no such file"):
        load_image(tmp_path / "scan.tif#2")
    assert place_of(tmp_path / "a\0b#2") == Place(tmp_path / "a\0b#2")


def test_contents_of_pictures_differ(tmp_path):
    """And that of the first is the file's, as earlier versions noted it."""
    import hashlib

    data = encoded.several(".tif", [FIRST, FIRST])
    (tmp_path / "scan.tif").write_bytes(data)
    contents = [read_photograph(tmp_path / numbered("scan.tif", number)).content for number in (1, 2)]
    digest = hashlib.sha256(data).hexdigest()
    assert contents[0] == digest == Encoded(data).content
    assert contents[1] == content_of(digest, 2) == hashlib.sha256(f"{digest}#2".encode()).hexdigest()
