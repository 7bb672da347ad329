"""Pixels of files that EXIF turns, against the function that turns pixels, and what has to be there."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import PIL.Image
import pytest

from retrieval.errors import ImageError
from retrieval.exchange.files import PhotographFile, in_file, photograph_files, to_file
from retrieval.index.collection import Collection
from retrieval.photographs.sizes import turned

WIDTH, HEIGHT = 7, 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_seen_pixel_is_the_pixel_of_the_file(orientation):
    """A picture that shows, in each pixel, where in the file it lies, turned as photographs are."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    seen = turned(np.stack([x, y], axis=2), orientation)
    linear, shift = to_file(orientation, WIDTH, HEIGHT)
    for row in range(seen.shape[0]):
        for column in range(seen.shape[1]):
            np.testing.assert_array_equal(linear @ (column, row) + shift, seen[row, column])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_ellipse_is_turned_with_its_photograph(orientation):
    region = np.array([[3.25, 2.5, 4, 1, 2, 0.7]], np.float32)
    x, y, a, b, c, angle = region[0].astype(float)
    file = PhotographFile("a.jpg", WIDTH, HEIGHT, orientation, None)
    linear, shift = to_file(orientation, WIDTH, HEIGHT)
    centres, frames = in_file(region, file)
    for turn in np.linspace(0, 2 * np.pi, 7):
        cosine, sine = np.cos(turn + angle), np.sin(turn + angle)
        on_ellipse = np.array([x + a * cosine, y + b * cosine + c * sine])
        found = centres[0] + frames[0] @ (np.cos(turn), np.sin(turn))
        np.testing.assert_allclose(found, linear @ on_ellipse + shift, atol=1e-6)
    assert np.sign(np.linalg.det(frames[0])) == (-1 if orientation in (2, 4, 5, 7) else 1)


@pytest.fixture
def moved(index, photos, tmp_path):
    """An index whose photographs lie where a test may change them."""
    shutil.copytree(photos, tmp_path / "photos")
    collection = Collection.open(index)
    return replace(collection, root=str(tmp_path / "photos")), tmp_path / "photos"


def test_files_are_those_of_the_index(moved):
    collection, _ = moved
    files = list(photograph_files(collection))
    assert tuple(file.name for file in files) == collection.names
    for file, size in zip(files, collection.snapshot.sizes.tolist(), strict=True):
        assert [file.width, file.height] == size
        assert (file.orientation, file.focal) == (1, None)


def test_what_is_gone_or_changed_is_told(moved):
    collection, folder = moved
    name = collection.names[0]
    kept = (folder / name).read_bytes()
    picture = cv2.imread(str(folder / name))
    cv2.imwrite(str(folder / name), 255 - picture)  # of the same size
    with pytest.raises(ImageError, match="is another photograph than the indexed one"):
        list(photograph_files(collection))
    (folder / name).unlink()
    with pytest.raises(ImageError, match="is not there any more"):
        list(photograph_files(collection))
    (folder / name).write_bytes(kept)
    assert len(list(photograph_files(collection))) == len(collection.names)


def test_an_orientation_that_the_index_ignores_is_none(moved):
    collection, folder = moved
    name = "scenes/coffee_0.jpg"
    exif = PIL.Image.Exif()
    exif[274] = 6
    with PIL.Image.open(folder / name) as picture:
        picture.save(folder / name, exif=exif)
    ignoring = replace(collection.config, images=replace(collection.config.images, exif="ignore"))
    state = collection.state
    unknown = replace(collection, config=ignoring, state=state)
    with pytest.raises(ImageError, match="another photograph"):  # its content has changed
        list(photograph_files(unknown))
