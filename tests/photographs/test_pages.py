"""Several pictures in a file: counted by structure as the decoders count them, and each shown as it is."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
import skimage.data
from PIL import Image

from retrieval.config import ImageConfig
from retrieval.errors import ImageError
from retrieval.photographs.decoding import load_image, load_picture, look_at, read_header
from retrieval.photographs.files import Encoded, Peek
from retrieval.photographs.folder import list_images
from retrieval.photographs.headers import count_pictures
from tests import encoded, hostile
from tests.encoded import LOSSY, SEVERAL, pillow, several

PICTURES = [
    np.ascontiguousarray(picture[60:140, 100:212])
    for picture in (skimage.data.coffee(), skimage.data.astronaut(), skimage.data.chelsea())
]
FILES = {suffix: several(suffix, PICTURES) for suffix in SEVERAL}


def peeked(path):
    with path.open("rb") as file:
        return count_pictures(Peek(file))


@pytest.mark.parametrize("suffix", SEVERAL)
def test_every_picture_is_itself(suffix, tmp_path):
    path = tmp_path / f"many{suffix}"
    path.write_bytes(FILES[suffix])
    assert peeked(path) == count_pictures(FILES[suffix]) == read_header(FILES[suffix]).pages == 3
    for number, picture in enumerate(PICTURES, 1):
        place = tmp_path / (f"many{suffix}" if number == 1 else f"many{suffix}#{number}")
        image = load_image(place)
        assert (image.pages, image.number) == (3, number)
        assert np.abs(image.gray - picture.mean(axis=2)).mean() < LOSSY.get(suffix, 1e-3)
        shown = load_picture(place)[:, :, ::-1].astype(float)
        assert np.abs(shown - picture).mean() < 3 * LOSSY.get(suffix, 1e-3)
        assert look_at(place) == (112, 80)
    with pytest.raises(ImageError, match=r"#4: the file holds 3 pictures, and no picture 4"):
        load_image(tmp_path / f"many{suffix}#4")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_frames_are_as_pillow_shows_them(suffix):
    """Of animations whose pictures change parts of those before, and dispose of what they have changed."""
    base = PICTURES[0].copy()
    frames = [base]
    for i in range(1, 6):
        frame = frames[-1].copy()
        frame[8 * i : 8 * i + 20, 10 * i : 10 * i + 30] = PICTURES[1][8 * i : 8 * i + 20, 10 * i : 10 * i + 30]
        frames.append(frame)
    options = {".gif": {"disposal": 2}, ".png": {"disposal": 1}}.get(suffix, {})
    data = several(suffix, frames, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert count_pictures(data) == image.n_frames == 6
        for number in range(1, 7):
            image.seek(number - 1)
            expected = np.asarray(image.convert("RGB")).astype(float).mean(axis=2)
            np.testing.assert_allclose(load_image(Encoded(data, number)).gray, expected, atol=0.51)


def test_the_picture_before_an_animation_is_the_first(tmp_path):
    """A PNG may show another one where animations are not known: OpenCV would give the animation's first."""
    first, *others = map(Image.fromarray, PICTURES)
    data = pillow(first, "PNG", save_all=True, append_images=others, default_image=True)
    assert count_pictures(data) == 3
    for number, picture in enumerate(PICTURES, 1):
        np.testing.assert_allclose(load_image(Encoded(data, number)).gray, picture.mean(axis=2), atol=1e-3)


def test_what_is_transparent_in_a_frame_lies_over_grey():
    frames = []
    for shift in (0, 20):
        alpha = np.zeros((80, 112), np.uint8)
        alpha[20:60, 20 + shift : 70 + shift] = 255
        frames.append(Image.fromarray(np.dstack([PICTURES[0], alpha])))
    data = pillow(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    gray = load_image(Encoded(data, 2)).gray
    np.testing.assert_allclose(gray[:20], 128, atol=0.51)
    np.testing.assert_allclose(gray[20:60, 40:90], PICTURES[0].mean(axis=2)[20:60, 40:90], atol=1e-3)


@pytest.mark.parametrize(("primary", "order"), [(0, (0, 1, 2)), (1, (1, 0, 2)), (2, (2, 0, 1))])
def test_the_picture_that_a_heic_is_about_comes_first(primary, order):
    heif = pillow_heif.from_pillow(Image.fromarray(PICTURES[0]))
    for picture in PICTURES[1:]:
        heif.add_from_pillow(Image.fromarray(picture))
    stream = io.BytesIO()
    heif.save(stream, quality=95, primary_index=primary, save_all=True)
    for number, which in enumerate(order, 1):
        gray = load_image(Encoded(stream.getvalue(), number)).gray
        assert np.abs(gray - PICTURES[which].mean(axis=2)).mean() < 3


def test_pages_of_a_tiff_have_orientations_of_their_own():
    """And thumbnails and masks among them are no pages."""
    page, thumbnail = np.ascontiguousarray(PICTURES[0]), np.ascontiguousarray(PICTURES[0][::4, ::4])
    data = hostile.tiff_of(
        (page, {"t274": (3, (6,))}, False),
        (thumbnail, {"t254": (4, (1,))}, False),
        (PICTURES[1], {}, False),
        (page, {"t254": (4, (4,))}, False),
        (PICTURES[2], {"t274": (3, (3,)), "t254": (4, (2,))}, False),
    )
    assert count_pictures(data) == 3
    expected = (np.rot90(PICTURES[0], -1), PICTURES[1], np.rot90(PICTURES[2], 2))
    for number, picture in enumerate(expected, 1):
        np.testing.assert_allclose(load_image(Encoded(data, number)).gray, picture.mean(axis=2), atol=1e-3)


@pytest.mark.parametrize("sub", [False, True])
def test_a_thumbnail_in_front_costs_no_page(sub):
    """The largest picture is what the file is about, and the other full ones follow in their order."""
    small, large = np.ascontiguousarray(PICTURES[0][::4, ::4]), np.kron(PICTURES[1], np.ones((2, 2, 1), np.uint8))
    data = hostile.tiff_of(
        (small, {"t254": (4, (1,))}, False), (PICTURES[0], {}, False), (large, {}, sub), (PICTURES[2], {}, False)
    )
    assert count_pictures(data) == read_header(data).pages == 3
    for number, picture in enumerate((large, PICTURES[0], PICTURES[2]), 1):
        np.testing.assert_allclose(load_image(Encoded(data, number)).gray, picture.mean(axis=2), atol=1e-3)
    with pytest.raises(ImageError, match="no picture 4"):
        load_image(Encoded(data, 4))


def mpo(*kinds, xmp=b""):
    """An MPO of a photograph and others of some kinds (CIPA DC-007, table 4)."""
    data = bytearray(several(".mpo", [PICTURES[0], *PICTURES[1 : 1 + len(kinds)]]))
    at = data.index(b"MPF\0") + 4
    order = {b"II": "<", b"MM": ">"}[bytes(data[at : at + 2])]
    entries = data.index(struct.pack(order + "HH", 0xB002, 7), at)
    offset = at + struct.unpack_from(order + "I", data, entries + 8)[0]
    for number, kind in enumerate(kinds, 1):
        struct.pack_into(order + "I", data, offset + 16 * number, kind)
        if xmp:
            begin = at + struct.unpack_from(order + "I", data, offset + 16 * number + 8)[0]
            place = data.index(b"\xff\xdb", begin)
            segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
            data[place:place] = segment
            size = struct.unpack_from(order + "I", data, offset + 16 * number + 4)[0]
            struct.pack_into(order + "I", data, offset + 16 * number + 4, size + len(segment))
            for later in range(number + 1, len(kinds) + 1):
                start = struct.unpack_from(order + "I", data, offset + 16 * later + 8)[0]
                struct.pack_into(order + "I", data, offset + 16 * later + 8, start + len(segment))
    return bytes(data)


def test_previews_and_gain_maps_are_no_photographs():
    assert count_pictures(mpo(0x020003, 0x020002)) == 3
    assert count_pictures(mpo(0x010001, 0x010002)) == 1  # large thumbnails
    assert count_pictures(mpo(0, xmp=b"http://ns.adobe.com/xap/1.0/\0 http://ns.adobe.com/hdr-gain-map/1.0/")) == 1
    assert count_pictures(mpo(0, xmp=b"http://ns.adobe.com/xap/1.0/\0 something else")) == 2
    mixed = mpo(0x010001, 0x020002)
    assert count_pictures(mixed) == 2
    assert np.abs(load_image(Encoded(mixed, 2)).gray - PICTURES[2].mean(axis=2)).mean() < 3


def test_an_index_of_pictures_that_were_taken_out_is_no_damage():
    """Editors keep the index and leave the pictures out: the photograph is whole."""
    data = FILES[".mpo"]
    first = data[: data.index(b"\xff\xd9\xff\xd8") + 2]
    assert count_pictures(first) == read_header(first).pages == 1
    assert np.abs(load_image(first).gray - PICTURES[0].mean(axis=2)).mean() < 3


@pytest.mark.parametrize("suffix", [".tif", ".mpo", ".gif"])
def test_pictures_before_the_damage_are_whole(suffix):
    """A file whose last picture is cut off has the others still; the cut one is told and not shown."""
    cut = FILES[suffix][:-400]
    assert count_pictures(cut) == 3
    for number, picture in enumerate(PICTURES[:2], 1):
        assert np.abs(load_image(Encoded(cut, number)).gray - picture.mean(axis=2)).mean() < 3
    with pytest.raises(ImageError, match="truncated"):
        load_image(Encoded(cut, 3))


@pytest.mark.parametrize("separate", [False, True])
def test_a_frame_that_is_damaged_costs_itself_alone(separate, tmp_path):
    """In a PNG: its own checksum, and not that of a frame before it."""
    pictures = [*PICTURES[:2], 255 - PICTURES[0]]
    data = encoded.several(".png", pictures, default_image=separate)
    at = data.rindex(b"fdAT") + 200
    path = tmp_path / "damaged.png"
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert read_header(data).pages == 3
    for number in (1, 2):
        np.testing.assert_array_equal(
            load_picture(f"{path}#{number}" if number > 1 else path)[:, :, ::-1], pictures[number - 1]
        )
    with pytest.raises(ImageError, match="wrong checksum"):
        load_image(f"{path}#3")


def test_a_folder_is_listed_with_pictures(tmp_path, caplog):
    for suffix, data in FILES.items():
        (tmp_path / f"many{suffix}").write_bytes(data)
    (tmp_path / "one.jpg").write_bytes(hostile.encode(".jpg", PICTURES[0]))
    (tmp_path / "cut.tif").write_bytes(FILES[".tif"][:6])
    (tmp_path / "empty.gif").touch()
    (tmp_path / "dead.png").symlink_to("nowhere")
    plain = list_images(tmp_path).names
    assert plain == list_images(tmp_path, ImageConfig(pages="first")).names
    assert plain == tuple(sorted(path.name for path in tmp_path.iterdir()))
    listed = list_images(tmp_path, ImageConfig()).names
    several_of = {f"many{suffix}#{number}" for suffix in SEVERAL for number in (2, 3)}
    assert set(listed) == set(plain) | several_of
    assert listed == tuple(sorted(listed))
    assert not caplog.records
    short = list_images(tmp_path, ImageConfig(max_pages=2)).names
    assert set(short) == set(plain) | {f"many{suffix}#2" for suffix in SEVERAL}
    assert (
        caplog.records[0]
        .getMessage()
        .endswith("of its 3 pictures the first 2 are taken: images.max_pages says how many")
    )
    assert len(caplog.records) == len(SEVERAL)


def test_a_file_that_is_called_like_a_picture_keeps_its_name(tmp_path, caplog):
    (tmp_path / "scan.tif").write_bytes(FILES[".tif"])
    (tmp_path / "scan.tif#2").write_bytes(hostile.encode(".png", PICTURES[0]))
    assert list_images(tmp_path, ImageConfig()).names == ("scan.tif", "scan.tif#2", "scan.tif#3")
    (record,) = caplog.records
    assert "its picture 2 is left out, as a file is called scan.tif#2: rename that file" in record.getMessage()


def test_a_long_animation_is_cut_short_and_told(tmp_path, caplog):
    frames = [np.roll(PICTURES[0][:20, :20], i, axis=1) for i in range(140)]
    (tmp_path / "film.gif").write_bytes(encoded.several(".gif", frames))
    assert len(list_images(tmp_path, ImageConfig()).names) == 100
    assert "of its 140 pictures the first 100 are taken" in caplog.text


def test_structures_without_end_are_left(tmp_path):
    """Chains of empty blocks, fill bytes and chunks: counting them ends, and says one."""
    bombs = {
        "a.gif": b"GIF89a" + struct.pack("<HHBBB", 20, 20, 0, 0, 0) + b"\x21\xfe\x00" * 300_000,
        "b.jpg": b"\xff\xd8" + b"\xff" * 1_000_000,
        "c.png": hostile.PNG_MAGIC + hostile.ihdr() + bytes(12) * 100_000,
        "d.heic": b"\0\0\0\x18ftypheic" + bytes(12) + struct.pack(">I4s", 8, b"free") * 100_000,
        "e.tif": hostile.tiff(hostile.tiff_fields(PICTURES[0]), PICTURES[0].tobytes(), after="self"),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
        assert peeked(tmp_path / name) == 1


def test_looking_reads_little(tmp_path):
    """Of a photograph with one picture the beginning, however large it is."""
    path = tmp_path / "large.jpg"
    path.write_bytes(hostile.encode(".jpg", PICTURES[0]) + bytes(50 << 20))
    with path.open("rb") as file:
        peek = Peek(file)
        assert count_pictures(peek) == 1
        assert file.tell() < 100_000
        assert peek[len(peek) - 1] == 0
        assert peek[:3] == b"\xff\xd8\xff"
        assert peek[len(peek) :] == b""
