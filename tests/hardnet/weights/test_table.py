"""The table of names, the cache folder and downloads, against a server of its own."""

import dataclasses
import hashlib
import http.server
import threading

import pytest
import torch

from hardnet.descriptors.networks import TFeat, load_network
from hardnet.errors import WeightsError
from hardnet.weights import table

CONTENT = hashlib.sha256(b"seed").digest() * 10_000  # 320 kB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server():
    """Serves CONTENT; `cuts` is how many answers break off half-way, `ranges` whether ranges are honoured."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state = self.server
            requested = self.headers.get("Range")
            state.requests.append(requested)
            if state.status:
                self.send_error(state.status)
                return
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and state.ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            body = CONTENT[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.cuts:
                state.cuts -= 1
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        service.requests, service.cuts, service.ranges, service.status = [], 0, True, None
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        service.url = f"http://127.0.0.1:{service.server_port}/file"
        yield service
        service.shutdown()
        thread.join()


@pytest.fixture
def publish(server, monkeypatch):
    """Points a row of the table at the server."""

    def change(name="hardnet++", sha256=SHA256, url=None):
        row = dataclasses.replace(table.TABLE[name], url=url or server.url, sha256=sha256)
        monkeypatch.setitem(table.TABLE, name, row)

    return change


def test_table_has_the_promised_names():
    names = {"hardnet", "hardnet++", "hardnet-lib+", "hardnet-lib", "tfeat-lib", "l2net-lib+", "rootsift"}
    names |= {"hardnet-small", "affnet-open", "hardnet-lib+-nips", "hardnet-lib-nips", "affnet", "orinet", "hardtfeat"}
    names |= {f"desdis-{width}" for width in (8, 16, 24, 32)}
    assert set(table.TABLE) == names
    for row in table.TABLE.values():
        assert row.licence
        assert row.citation
        assert not row.url or row.url.startswith("https://")


def test_files_of_one_name_lie_apart_in_the_cache():
    """A repository has had several files under one name; the cache has each under its own."""
    files = [row.file_name for row in table.TABLE.values() if row.file_name]
    assert len(set(files)) == len(files)
    folder = "https://github.com/DagnyT/hardnet/raw/323b882/pretrained"
    with_aug, without = table.TABLE["hardnet-lib+-nips"], table.TABLE["hardnet-lib-nips"]
    assert with_aug.url == f"{folder}/train_liberty_with_aug/checkpoint_liberty_with_aug.pth"
    assert without.url == f"{folder}/train_liberty/checkpoint_liberty_no_aug.pth"
    for row in (with_aug, without):
        assert (row.network, row.sha256, row.verified) == ("hardnet", None, False)
        assert "not proven" in row.note


def test_another_version_of_a_file_is_told_by_its_git_name(cache, server, publish, monkeypatch):
    blob = hashlib.sha1(b"blob 320000\0" + CONTENT, usedforsecurity=False).hexdigest()
    publish("hardnet-lib-nips", sha256=None)
    with pytest.raises(WeightsError, match=rf"git object name {blob}, expected 9349e2ad\.\.\.; removed"):
        table.download("hardnet-lib-nips")
    assert list(cache.iterdir()) == []
    row = dataclasses.replace(table.TABLE["hardnet-lib-nips"], git_blob=blob[:8])
    monkeypatch.setitem(table.TABLE, "hardnet-lib-nips", row)
    path = table.resolve("hardnet-lib-nips").path
    assert path == cache / "checkpoint_liberty_no_aug-nips.pth"
    path.with_name(path.name + ".sha256").unlink()
    path.write_bytes(b"put there by hand")
    with pytest.raises(WeightsError, match=r"git object name .*remove it and fetch"):
        table.resolve("hardnet-lib-nips")


def test_the_name_that_git_gives(tmp_path):
    (tmp_path / "file").write_bytes(b"what is up, doc?")  # the example of "Pro Git", chapter 10.2
    assert table._git_blob(tmp_path / "file") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_download_lands_in_the_cache(cache, server, publish, capfd):
    publish()
    resolved = table.resolve("hardnet++")
    assert resolved == table.ResolvedWeights("hardnet++", "hardnet", cache / "HardNet++.pth", SHA256)
    assert resolved.path.read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["HardNet++.pth"]
    assert table.download("hardnet++") == resolved.path
    assert len(server.requests) == 1
    assert capfd.readouterr().err == ""  # no progress bar where there is no terminal


def test_a_cut_is_resumed_within_one_call(cache, server, publish):
    publish()
    server.cuts = 2
    assert table.download("hardnet++").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=160000-", "bytes=240000-"]


def test_a_cut_is_resumed_by_the_next_call(cache, server, publish):
    publish()
    server.cuts = 3
    with pytest.raises(WeightsError, match=r"the connection was cut.*HardNet\+\+\.pth"):
        table.download("hardnet++")
    assert not (cache / "HardNet++.pth").exists()
    assert table.download("hardnet++").read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=280000-"


def test_a_server_without_ranges_starts_again(cache, server, publish):
    publish()
    server.cuts, server.ranges = 1, False
    assert table.download("hardnet++").read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_dropped(cache, server, publish):
    publish()
    cache.mkdir()
    (cache / "HardNet++.pth.part").write_bytes(CONTENT + b"more")
    assert table.download("hardnet++").read_bytes() == CONTENT


def test_a_foreign_partial_file_ends_as_a_checksum_mismatch(cache, server, publish):
    publish()
    cache.mkdir()
    (cache / "HardNet++.pth.part").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="expected " + SHA256):
        table.download("hardnet++")
    assert list(cache.iterdir()) == []
    assert table.download("hardnet++").read_bytes() == CONTENT


def test_checksum_of_the_first_download_is_recorded(cache, server, publish):
    publish("hardnet-lib", sha256=None)
    path = table.resolve("hardnet-lib").path
    assert path.with_name(path.name + ".sha256").read_text() == f"{SHA256}  {path.name}\n"
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match="remove it"):
        table.resolve("hardnet-lib")


def test_without_network_the_message_says_what_to_put_where(cache, publish):
    publish(url="http://127.0.0.1:9/HardNet++.pth")  # port 9: nothing listens
    with pytest.raises(WeightsError) as caught:
        table.resolve("hardnet++")
    message = str(caught.value)
    assert "http://127.0.0.1:9/HardNet++.pth" in message
    assert str(cache / "HardNet++.pth") in message
    assert "\n" not in message


def test_not_found_is_not_retried(cache, server, publish):
    publish()
    server.status = 404
    with pytest.raises(WeightsError, match="404"):
        table.download("hardnet++")
    assert len(server.requests) == 1


def test_resolve_without_fetching(cache, server, publish):
    publish()
    with pytest.raises(WeightsError, match="--download hardnet"):
        table.resolve("hardnet++", fetch=False)
    assert server.requests == []


def test_a_file_put_there_by_hand_is_checked(cache, server, publish):
    publish()
    cache.mkdir()
    path = cache / "HardNet++.pth"
    path.write_bytes(CONTENT)
    assert table.resolve("hardnet++").sha256 == SHA256
    path.write_bytes(b"wrong")
    with pytest.raises(WeightsError, match="remove it"):
        table.resolve("hardnet++")
    assert server.requests == []


def test_the_cache_folder_cannot_be_made(tmp_path, monkeypatch, publish):
    publish()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HARDNET_WEIGHTS", str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match="HARDNET_WEIGHTS"):
        table.download("hardnet++")


def test_bundled_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "__file__", str(tmp_path / "weights" / "table.py"))
    with pytest.raises(WeightsError, match=r"bundled weights .*hardnet\.safetensors do not exist.*use another name"):
        table.resolve("hardnet")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "hardnet.safetensors").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=f"sha256 {SHA256}, expected .*: install that again"):
        table.resolve("hardnet")
    monkeypatch.setitem(table.TABLE, "hardnet", dataclasses.replace(table.TABLE["hardnet"], sha256=SHA256))
    assert table.resolve("hardnet").sha256 == SHA256
    with pytest.raises(WeightsError, match="part of this package"):
        table.download("hardnet")


def test_paths_and_unknown_names(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "mine.pth"
    torch.save(TFeat().state_dict(), path)
    resolved = table.resolve(path)
    assert (resolved.name, resolved.network, resolved.path) == ("mine.pth", None, path)
    assert table.resolve(str(path)) == resolved
    assert load_network(resolved)[0] == "tfeat"
    with pytest.raises(WeightsError, match=r"did you mean hardnet\+\+"):
        table.resolve("hardnet+++")
    with pytest.raises(WeightsError, match="is no file and no weights name"):
        table.resolve(str(tmp_path / "other.pth"))
    with pytest.raises(WeightsError, match="needs no weights"):
        table.resolve("rootsift")
