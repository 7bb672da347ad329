"""PhotoTour folders: the patches, the pairs, damaged input, and the download against a server of its own."""

import functools
import hashlib
import http.server
import re
import threading
import zipfile

import cv2
import numpy as np
import pytest

from hardnet.errors import PatchSetError
from hardnet.patchsets import phototour
from hardnet.patchsets.phototour import download_phototour, read_pairs, read_phototour
from tests.hardnet.patch_fixtures import write_phototour

PAIRS = "m50_100000_100000_0.txt"


@pytest.fixture
def folder(tmp_path):
    write_phototour(tmp_path / "liberty")
    return tmp_path / "liberty"


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_patches_and_ids(tmp_path):
    patches, points, _ = write_phototour(tmp_path / "set", count=300)  # the second mosaic is partly filled
    read = read_phototour(tmp_path / "set")
    np.testing.assert_array_equal(read.patches, patches)
    np.testing.assert_array_equal(read.point_ids, points)
    np.testing.assert_array_equal(read.scene_ids, np.arange(300) % 2)
    assert read.point_ids.dtype == read.scene_ids.dtype == np.int32
    assert (read.name, read.context) == ("set", 1.0)
    assert isinstance(read.patches, np.memmap)


def test_mosaics_are_decoded_once(folder, capfd):
    first = np.array(read_phototour(folder).patches)
    for mosaic in folder.glob("*.bmp"):
        mosaic.unlink()
    np.testing.assert_array_equal(read_phototour(folder).patches, first)
    assert sorted(path.name for path in folder.iterdir()) == ["info.txt", PAIRS, "patches.npy"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", ["shorter", "torn"])
def test_a_cache_of_another_set_is_rebuilt(folder, damage):
    patches = np.array(read_phototour(folder).patches)
    if damage == "shorter":
        np.save(folder / "patches.npy", patches[:-1])
    else:
        (folder / "patches.npy").write_bytes((folder / "patches.npy").read_bytes()[:5000])
    np.testing.assert_array_equal(read_phototour(folder).patches, patches)


def test_a_missing_mosaic_is_named(folder):
    (folder / "patches0001.bmp").unlink()
    with pytest.raises(PatchSetError, match=r"patches0001\.bmp is missing") as caught:
        read_phototour(folder)
    one_line(caught)
    (folder / "patches0000.bmp").unlink()
    with pytest.raises(PatchSetError, match=r"patches0000\.bmp is missing"):
        read_phototour(folder)


@pytest.mark.parametrize("lines", [256, 513])
def test_info_of_another_length_than_the_mosaics(folder, lines):
    (folder / "info.txt").write_text("1 0\n" * lines)
    expected = r"patches0001\.bmp is one mosaic too many" if lines == 256 else r"patches0002\.bmp is missing"
    with pytest.raises(PatchSetError, match=expected):
        read_phototour(folder)
    assert not (folder / "patches.npy").exists()


@pytest.mark.parametrize("content", ["cut", "empty", "text", "small"])
def test_damaged_mosaics(folder, content, capfd):
    path = folder / "patches0001.bmp"
    if content == "small":
        cv2.imwrite(str(path), np.zeros((512, 1024), np.uint8))
    else:
        path.write_bytes({"cut": path.read_bytes()[:400_000], "empty": b"", "text": b"no picture " * 200_000}[content])
    expected = r"patches0001\.bmp has 1024 x 512 pixels" if content == "small" else r"patches0001\.bmp is damaged"
    with pytest.raises(PatchSetError, match=expected) as caught:
        read_phototour(folder)
    one_line(caught)
    assert not list(folder.glob("*.npy"))
    assert not list(folder.glob(".*"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("line", ["", "12", "12 x", "-1 0", "1.5 0", "99999999999 0"])
def test_malformed_info_is_told_with_its_line(folder, line):
    lines = (folder / "info.txt").read_text().splitlines()
    lines[41] = line
    (folder / "info.txt").write_text("\n".join(lines))
    with pytest.raises(PatchSetError, match=r"info\.txt, line 42 is " + re.escape(repr(line))) as caught:
        read_phototour(folder)
    one_line(caught)


def test_no_folder_and_an_empty_info(tmp_path, folder):
    with pytest.raises(PatchSetError, match=r"holds no info\.txt"):
        read_phototour(tmp_path / "nothing")
    (folder / "info.txt").write_text("\n")
    with pytest.raises(PatchSetError, match="is empty"):
        read_phototour(folder)


def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(phototour.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(PatchSetError, match=r"cannot be written \(Permission denied\).*copy the folder") as caught:
        read_phototour(folder)
    one_line(caught)


def test_pairs(tmp_path):
    _, points, lines = write_phototour(tmp_path / "set", pairs=50)
    left, right, match = read_pairs(tmp_path / "set")
    rows = [[int(field) for field in line.split()] for line in lines]
    assert left.tolist() == [row[0] for row in rows]
    assert right.tolist() == [row[3] for row in rows]
    assert match.tolist() == [points[row[0]] == points[row[3]] for row in rows]
    assert (left.dtype, right.dtype, match.dtype) == (np.int64, np.int64, bool)
    assert 0 < match.sum() < 50


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("300 7 0 1 7 0 0", "line 3 names a patch beyond the 300"),
        ("0 7 0 5 9 0 0", "line 3 gives another 3-D point"),
        ("0 7 0 1", "line 3 is '0 7 0 1', expected at least 5"),
        ("0 7 0 one 7 0 0", "line 3 is "),
    ],
)
def test_pairs_that_disagree(folder, line, message):
    lines = (folder / PAIRS).read_text().splitlines()
    lines[2] = line
    (folder / PAIRS).write_text("\n".join(lines))
    with pytest.raises(PatchSetError, match=message) as caught:
        read_pairs(folder)
    one_line(caught)


def test_pairs_that_are_not_there(folder):
    with pytest.raises(PatchSetError, match=r"m50_0\.txt cannot be read"):
        read_pairs(folder, "m50_0.txt")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/www in the place of the publisher; counts the requests."""
    (tmp_path / "www").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as service:
        service.requests = 0
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(phototour, "_URL", f"http://127.0.0.1:{service.server_port}")
        yield service
        service.shutdown()
        thread.join()


def pack(archive, folder, prefix="", extra=()):
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, prefix + path.name)
        for name in extra:
            packed.writestr(name, "elsewhere")


@pytest.mark.parametrize("prefix", ["", "liberty/"])
def test_download(tmp_path, server, folder, prefix):
    pack(tmp_path / "www" / "liberty.zip", folder, prefix)
    got = download_phototour("liberty", tmp_path / "data")
    assert got == tmp_path / "data" / "liberty"
    np.testing.assert_array_equal(read_phototour(got).patches, read_phototour(folder).patches)
    sha256 = hashlib.sha256((tmp_path / "www" / "liberty.zip").read_bytes()).hexdigest()
    assert (tmp_path / "data" / "liberty.zip.sha256").read_text() == f"{sha256}  liberty.zip\n"
    assert download_phototour("liberty", tmp_path / "data") == got
    assert server.requests == 1


def test_nothing_lands_outside(tmp_path, server, folder):
    pack(tmp_path / "www" / "liberty.zip", folder, extra=["../../evil.txt", "/abs/other.txt", "run.sh", "..\\back.txt"])
    got = download_phototour("liberty", tmp_path / "data")
    assert {path.parent for path in tmp_path.rglob("evil.txt")} <= {got}
    assert {path.parent for path in tmp_path.rglob("*back.txt")} <= {got}
    assert not list(tmp_path.rglob("run.sh"))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "liberty",
        "liberty.zip",
        "liberty.zip.sha256",
    ]


def test_another_archive_than_before_is_refused(tmp_path, server, folder):
    pack(tmp_path / "www" / "liberty.zip", folder)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "liberty.zip.sha256").write_text("0" * 64 + "  liberty.zip\n")
    with pytest.raises(PatchSetError, match=r"expected 0000.*remove it"):
        download_phototour("liberty", tmp_path / "data")
    assert not (tmp_path / "data" / "liberty").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_archives(tmp_path, server, folder, damage):
    archive = tmp_path / "www" / "liberty.zip"
    pack(archive, folder)
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        archive.write_bytes(data[:-1000])
    elif damage == "flipped":
        data[len(data) // 2] ^= 255
        archive.write_bytes(data)
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("other.txt", "1")
    with pytest.raises(PatchSetError, match=r"is damaged|holds no info\.txt") as caught:
        download_phototour("liberty", tmp_path / "data")
    assert "remove it" in one_line(caught)
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]


def test_download_errors(tmp_path, server):
    with pytest.raises(PatchSetError, match="the names are liberty, notredame, yosemite"):
        download_phototour("paris", tmp_path)
    with pytest.raises(PatchSetError, match=r"yosemite cannot be downloaded \(404.*save it as .*yosemite\.zip"):
        download_phototour("yosemite", tmp_path / "data")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PatchSetError, match="choose another folder"):
        download_phototour("yosemite", tmp_path / "file" / "below")
