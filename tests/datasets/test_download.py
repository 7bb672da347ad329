import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.datasets import transfer as module
from retrieval.datasets.download import SOURCES, Download, Source, download
from retrieval.datasets.transfer import fetch, unpack
from retrieval.errors import RetrievalError
from tests.file_server import Server, photo, serving, tgz


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


SMALL = {
    "paris6k": Source(
        "http://invalid.invalid",
        ("one.tgz", "two.tgz"),
        "gt.tgz",
        image_counts=(4,),
        groundtruth_count=2,
        corrupt=frozenset({"bad"}),
    ),
    "roxford5k": Source("http://invalid.invalid", files=("gnd_roxford5k.pkl",)),
}


def fill(server: Server) -> None:
    server.files = {
        "one.tgz": tgz({"paris/louvre/a.jpg": photo(10), "paris/louvre/b.jpg": photo(20)}),
        "two.tgz": tgz({"paris/eiffel/c.jpg": photo(30), "paris/eiffel/bad.jpg": b"no photograph"}),
        "gt.tgz": tgz({"a_1_query.txt": b"a 0 0 1 1\n", "a_1_good.txt": b""}),
        "gnd_roxford5k.pkl": b"cos\nsystem\n(S'false'\ntR.",
    }


def get(server: Server, data: Path, name: str = "paris6k") -> Download:
    urls = {"paris6k": server.url, "roxford5k": server.url}
    return download(name, data, base_urls=urls, sources=SMALL, pause=0, jobs=1)


def test_table_of_benchmarks() -> None:
    assert set(SOURCES) == {"oxford5k", "paris6k", "roxford5k", "rparis6k"}
    assert SOURCES["oxford5k"].image_counts == (5062, 5063)
    assert SOURCES["paris6k"].image_counts == (6412,)
    assert SOURCES["paris6k"].groundtruth_count == SOURCES["oxford5k"].groundtruth_count == 220


def test_complete_download_and_second_call(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(server)
    done = get(server, tmp_path)
    root = tmp_path / "paris6k"
    assert (done.root, done.images, done.already_there) == (root, 4, False)
    assert done.undecodable == ("paris/eiffel/bad.jpg",)
    assert (root / "images/paris/louvre/a.jpg").read_bytes() == photo(10)
    assert sorted(path.name for path in (root / "groundtruth").iterdir()) == ["a_1_good.txt", "a_1_query.txt"]
    assert json.loads((root / "verified.json").read_text())["undecodable"] == ["paris/eiffel/bad.jpg"]
    record = json.loads((root / "archives/one.tgz.json").read_text())
    assert record["sha256"] == hashlib.sha256(server.files["one.tgz"]).hexdigest()
    assert not list(root.rglob("*.part*"))
    count = len(server.requests)
    with caplog.at_level("INFO"):
        again = get(server, tmp_path)
    assert again.already_there
    assert again.undecodable == done.undecodable
    assert len(server.requests) == count
    assert "already there" in caplog.text


def test_cut_transfer_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.files["x"] = bytes(range(256)) * 400
    server.cut_at = 70_000
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == server.files["x"]
    assert server.requests == [("x", None), ("x", "bytes=70000-")]


def test_server_without_ranges_restarts(server: Server, tmp_path: Path) -> None:
    server.files["x"] = bytes(range(256)) * 400
    server.cut_at, server.ranges = 70_000, False
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == server.files["x"]


def test_part_of_another_file_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files["x"] = b"new content"
    (tmp_path / "x.part").write_bytes(b"old")
    (tmp_path / "x.part.json").write_text('{"validator": "\\"old\\""}')
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == b"new content"
    (tmp_path / "y.part").write_bytes(b"longer than the file")
    server.files["y"] = b"short"
    fetch(f"{server.url}/y", tmp_path / "y", pause=0)
    assert (tmp_path / "y").read_bytes() == b"short"


def test_whole_part_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    server.files["x"] = b"content"
    (tmp_path / "x.part").write_bytes(b"content")
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == b"content"
    assert len(server.requests) == 1


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.files["x"], server.failures = b"content", 3
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert (tmp_path / "x").read_bytes() == b"content"
    server.failures = 9
    with pytest.raises(RetrievalError, match="503"):
        fetch(f"{server.url}/x", tmp_path / "z", pause=0, retries=2)


def test_no_network_says_what_to_put_where(server: Server, tmp_path: Path) -> None:
    fill(server)
    missing = tmp_path / "paris6k/archives/two.tgz"
    content = server.files.pop("two.tgz")
    with pytest.raises(RetrievalError, match=r"cannot download .*two\.tgz.*by hand") as caught:
        get(server, tmp_path)
    assert str(missing) in str(caught.value)
    assert not (tmp_path / "paris6k/images").exists()
    missing.write_bytes(content)
    assert get(server, tmp_path).images == 4
    with pytest.raises(RetrievalError, match="by hand"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", pause=0, retries=2)


def test_changed_archive_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["x"] = b"first"
    fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    (tmp_path / "x").unlink()
    server.files["x"] = b"second"
    with pytest.raises(RetrievalError, match=r"sha256 .*the first download had"):
        fetch(f"{server.url}/x", tmp_path / "x", pause=0)
    assert not (tmp_path / "x").exists()


def test_a_wrong_number_of_files_is_told_and_taken(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(server)
    server.files["two.tgz"] = tgz({"c.jpg": photo(1)})
    lists = {"a_1_query.txt": b"a 0 0 1 1\n", "a_1_good.txt": b"a\n", "a_1_ok.txt": b"d\n", "a_1_junk.txt": b""}
    server.files["gt.tgz"] = tgz(lists)
    assert get(server, tmp_path).images == 3
    assert "holds 3 photographs, expected 4; the ground truth's but not there: d: " in caplog.text
    assert "holds 4 text files, expected 2: " in caplog.text
    caplog.clear()
    count = len(server.requests)
    assert get(server, tmp_path).already_there  # another download would bring the same
    assert len(server.requests) == count
    (tmp_path / "paris6k" / "images" / "c.jpg").unlink()  # but what has gone since is noticed
    assert get(server, tmp_path).images == 2
    assert "holds 2 photographs, expected 4" in caplog.text
    caplog.clear()
    fill(server)
    server.files["one.tgz"] = tgz({"a.jpg": photo(1), "b.jpg": photo(2), "d.jpg": photo(3), "list.txt": b"a b d"})
    server.files["gt.tgz"] = tgz({"a_1_query.txt": b"a 0 0 1 1\n"})
    assert get(server, tmp_path / "other").images == 6
    assert "holds 6 photographs, expected 4; no photographs: list.txt: " in caplog.text
    assert "holds 1 text files, expected 2; missing: a_1_good.txt, a_1_junk.txt, a_1_ok.txt: " in caplog.text
    server.files["gt.tgz"] = tgz({"readme": b"nothing"})
    with pytest.raises(RetrievalError, match="holds no text file, expected 2"):
        get(server, tmp_path / "third")


def test_revisited_is_stored_and_not_loaded(server: Server, tmp_path: Path) -> None:
    fill(server)
    done = get(server, tmp_path, "roxford5k")
    assert (done.root / "gnd_roxford5k.pkl").read_bytes() == server.files["gnd_roxford5k.pkl"]
    assert "sha256" in json.loads((done.root / "gnd_roxford5k.pkl.json").read_text())
    assert get(server, tmp_path, "roxford5k").already_there
    with pytest.raises(RetrievalError, match="unknown benchmark"):
        get(server, tmp_path, "oxford6k")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member("/etc/evil"), "leads outside"),
        (member("a/../../evil"), "leads outside"),
        (member("..\\evil"), "leads outside"),
        (member("evil", tarfile.SYMTYPE, "/etc/passwd"), "link or device"),
        (member("evil", tarfile.LNKTYPE, "x"), "link or device"),
        (member("evil", tarfile.CHRTYPE), "link or device"),
        (member("evil", tarfile.FIFOTYPE), "link or device"),
        (b"no archive", "is damaged"),
        (tgz({"x": bytes(10_000)})[:60], "is damaged"),
    ],
    ids=["absolute", "dots", "backslash", "symlink", "hardlink", "device", "fifo", "garbage", "truncated"],
)
def test_hostile_or_damaged_archives(tmp_path: Path, content: bytes, message: str) -> None:
    archive = tmp_path / "x.tgz"
    archive.write_bytes(content)
    with pytest.raises(RetrievalError, match=message):
        unpack([archive], tmp_path / "in" / "images")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.tgz"]
    assert not list((tmp_path / "in").glob("*"))


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(server)
    usage = module.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(RetrievalError, match="GB free"):
            get(server, tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copyfileobj", full)
        with pytest.raises(RetrievalError, match="is full"):
            get(server, tmp_path)
    assert get(server, tmp_path).images == 4
