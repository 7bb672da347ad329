"""A photograph at an address is the one of the same bytes in a folder, whatever its key, and errors are one line."""

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("upath", reason="needs the extra s3")

from upath import UPath

from retrieval.config import ImageConfig
from retrieval.errors import DatasetError, ImageError, RetrievalError
from retrieval.photographs import addresses, stores
from retrieval.photographs.addresses import is_address, located, require_local
from retrieval.photographs.decoding import load_image, load_picture, load_pixels, look_at, read_photograph
from retrieval.photographs.files import file_state
from retrieval.photographs.folder import ImageSet, list_images
from retrieval.photographs.places import Place, place_of
from tests import encoded, hostile
from tests.object_store import KEY, SECRET, environment

FIRST, SECOND = hostile.pictures()
PNG = encoded.still(".png", FIRST)
TWO = encoded.several(".tif", [FIRST, SECOND])
ONE = ImageConfig(pages="first")
PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda part: not part.startswith(".") and "::" not in part
)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://bucket/a b.jpg", "bucket/a b.jpg"),
        ("S3://bucket/folder/", "bucket/folder"),
        ("s3://bucket", "bucket/"),
        ("s3://bucket/scan.tif#2", "bucket/scan.tif#2"),
        ("s3://bucket/what?.jpg", "bucket/what?.jpg"),
        ("s3://bucket/a@b:c/d.jpg", "bucket/a@b:c/d.jpg"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/point/d.jpg", "arn:aws:s3:eu-west-1:1:accesspoint/point/d.jpg"),
        ("memory://folder/x.jpg", "/folder/x.jpg"),
    ],
)
def test_addresses(text, key):
    found = located(text)
    assert is_address(text)
    assert is_address(found)
    assert (found.path, located(str(found)), located(found)) == (key, found, found)


@pytest.mark.parametrize(
    "path", ["a.jpg", "/a/b.jpg", "./s3:/x", "s3:/bucket/x", "a::b://c", "c:x", "://x", "4://x", ""]
)
def test_paths_are_no_addresses(path):
    assert not is_address(path)
    assert not is_address(Path(path))
    assert located(path) == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        "https://ghp_secret@example.org/x",
        "http://u%3Asecret@h/x",
        "http://h/x.jpg?key=secret",
        "https://h/x#access_token=secret",
        "s3://b/x?X-Amz-Signature=secret",
        "simplecache::s3://KEY:secret@b/x",
    ],
)
def test_secrets_of_other_forms_are_refused_and_not_repeated(address):
    with pytest.raises(RetrievalError, match="not taken") as told:
        located(address)
    assert "secret" not in str(told.value)


def test_files_of_this_machine_have_paths(tmp_path):
    (tmp_path / "a#1.png").write_bytes(PNG)
    assert located(f"file://{tmp_path}/a#1.png") == tmp_path / "a#1.png"
    assert load_image(f"file://{tmp_path}/a#1.png").width == FIRST.shape[1]
    assert not is_address(UPath(tmp_path))
    assert located(os.fsencode(tmp_path)) == tmp_path


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_names_come_back(parts):
    """From a listing's key to a name, to an address, to its text in an index, and to the key again."""
    name = "/".join(parts)
    path = located("s3://bucket/photos") / name
    again = located(str(path))
    assert path.path == again.path == f"bucket/photos/{name}"
    assert addresses.below(again, located("s3://bucket/photos/")) == name
    assert addresses.below(again, located("s3://bucket/photo")) is None
    assert addresses.below(Path(name), located("s3://bucket/photos")) is None
    assert addresses.below(again, Path("/photos")) is None


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA123:s3cr3t@bucket/x.jpg",
        "s3://AKIA123:s3/cr3t@bucket/x.jpg",
        "s3://AKIA123:42/s3cr3t@bucket/x.jpg",
        "s3://AKIA123@bucket/x.jpg",
        "gs://user:s3cr3t@bucket",
        "https://me:s3cr3t@example.org/x.jpg",
        "https://me:s3/cr3t@example.org:8000/x.jpg",
        "https://example.org/x.jpg?X-Amz-Algorithm=a&X-Amz-Signature=s3cr3t",
        "az://container/x.jpg?sv=1&sig=s3cr3t",
    ],
)
def test_secrets_in_addresses_are_refused_and_not_repeated(text, tmp_path):
    for read in (located, load_image, list_images, place_of, lambda one: require_local(one, "an index")):
        with pytest.raises(RetrievalError) as error:
            read(text)
        assert "cr3t" not in str(error.value)
        assert "AKIA" not in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["s3://", "s3:///photos", "gs:///x.jpg"])
def test_an_address_names_a_bucket(text):
    with pytest.raises(DatasetError, match=r"names no bucket: expected (s3|gs)://BUCKET/PATH"):
        located(text)


def test_what_pathlib_makes_of_an_address_is_told(tmp_path, monkeypatch):
    for read in (located, list_images, load_image):
        with pytest.raises(
            RetrievalError, match=r"^s3:/\.\.\. is what pathlib makes of an address s3://\.\.\.: give it as"
        ):
            read(Path("s3://key:s3cr3t@bucket/x.jpg"))
    monkeypatch.chdir(tmp_path)
    Path("s3:", "bucket").mkdir(parents=True)
    assert located(Path("s3:/bucket/x.jpg")) == Path("s3:/bucket/x.jpg")


def test_options_of_a_upath_are_refused():
    with pytest.raises(RetrievalError, match="environment") as error:
        located(UPath("s3://bucket/x.jpg", key="k", secret="s3cr3t"))
    assert "s3cr3t" not in str(error.value)


def test_what_is_missing_is_named(monkeypatch):
    addresses._require.cache_clear()
    with pytest.raises(RetrievalError, match=r"xy://\.\.\.: there is no such kind of store: expected s3://"):
        located("xy://bucket/x")
    found = addresses.importlib.util.find_spec
    for scheme, package, extra in (("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs"), ("abfs", "adlfs", "az")):
        missing = {package}
        monkeypatch.setattr(addresses.importlib.util, "find_spec", lambda n, m=missing: None if n in m else found(n))
        with pytest.raises(RetrievalError, match=rf"need {package}: install the extra {extra}.*\[{extra}\]"):
            located(f"{scheme}://bucket/x")
        missing.update({"upath", package})
        with pytest.raises(RetrievalError, match=rf"universal-pathlib, {package}: install the extra {extra}"):
            located(f"{scheme}://bucket/x")
    addresses._require.cache_clear()


def test_only_photographs_have_addresses():
    for given_as in ("s3://bucket/x", Path("s3://bucket/x"), located("s3://bucket/x")):
        with pytest.raises(RetrievalError, match=r"an index is given by an address \(s3:\.\.\.\).*local or shared"):
            require_local(given_as, "an index")
    for path in ("x", Path("/x/s3:/y"), "a:b"):
        require_local(path, "an index")


def test_a_local_path_loads_nothing_of_this(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    code = (
        "import sys; from retrieval.photographs.decoding import load_image; from retrieval.photographs.folder import "
        f"list_images; images = list_images({str(tmp_path)!r}); load_image(images.path(images.names[0])); "
        "print([name for name in ('fsspec', 'upath', 's3fs', 'asyncio') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_photographs_are_those_of_the_folder(store, tmp_path):
    store.put("same", {"photos/a b.png": PNG, "photos/scan.tif": TWO, "photos/sub/c.png": PNG})
    (tmp_path / "sub").mkdir()
    for name, data in {"a b.png": PNG, "scan.tif": TWO, "sub/c.png": PNG}.items():
        (tmp_path / name).write_bytes(data)
    ours, theirs = list_images("s3://same/photos/", ImageConfig()), list_images(tmp_path, ImageConfig())
    assert ours.names == theirs.names == ("a b.png", "scan.tif", "scan.tif#2", "sub/c.png")
    for name in ours.names:
        one, other = ours.path(name), theirs.path(name)
        assert read_photograph(one).content == read_photograph(other).content
        assert np.array_equal(load_image(one).gray, load_image(other).gray)
        assert np.array_equal(load_picture(str(one)), load_picture(other))
        assert np.array_equal(load_pixels(str(one)), load_pixels(other))
        assert look_at(one) == look_at(other)
        assert ours.state(name)[0] == theirs.state(name)[0]
        assert ours.state(name) == file_state(one)
        assert file_state(one)[1] * 10**9 <= file_state(one, nanoseconds=True)[1]
    assert place_of("s3://same/photos/scan.tif#2") == Place(located("s3://same/photos/scan.tif"), 2)
    assert list_images("s3://same", ONE).names == ("photos/a b.png", "photos/scan.tif", "photos/sub/c.png")


def test_what_is_a_photograph(store, caplog):
    """Not what a key that ends in a slash stands for, what is hidden, or what no path spells."""
    odd = (
        "x y.png",
        "X Y.png",
        "what?.png",
        "a:b.png",
        "%41.png",
        "caf\xe9.png",
        "cafe\u0301.png",
        "[1]*.png",
        "é/# .png",
    )
    store.put("odd", {f"photos/{name}": PNG for name in odd})
    others = (
        "",
        "sub/",
        "sub/.hidden.png",
        ".cache/x.png",
        "a//b.png",
        "../up.png",
        "./here.png",
        "empty/of/all/",
        "a::b.png",
    )
    store.put("odd", {f"photos/{name}": b"" for name in others})
    store.put("odd", {"photos/none.png": b"", "photos2/y.png": PNG, "photos/scan.tif": TWO, "photos/scan.tif#2": PNG})
    found = list_images("s3://odd/photos", ImageConfig())
    assert found.names == tuple(sorted((*odd, "none.png", "scan.tif", "scan.tif#2"), key=os.fsencode))
    assert "2 files are passed over" in caplog.text
    assert "(a//b.png): rename them" in caplog.text
    with pytest.raises(DatasetError, match=r"s3://odd/photos/a::b\.png: a name with :: in it is not taken"):
        read_photograph("s3://odd/photos/a::b.png")
    for name in odd:
        assert read_photograph(found.path(name)).data == PNG
    assert load_image(found.path("scan.tif#2")).pages == 1  # a file is called so
    with pytest.raises(ImageError, match=r"^s3://odd/photos/none\.png: .*empty"):
        load_image(found.path("none.png"))


def test_indexes_among_the_photographs_are_passed_over(store, index):
    store.upload(index, "mixed", "photos/old.index/")
    store.put("mixed", {"photos/a.png": PNG, "photos/web/manifest.json": b'{"name": "a web page"}', "plan.json": b"{}"})
    store.requests.clear()
    assert list_images("s3://mixed/photos").names == ("a.png", "web/manifest.json")
    assert [path for _, path in store.requests[1:]] == [
        "/mixed/photos/old.index/manifest.json", "/mixed/photos/web/manifest.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("s3://nobody-has-it/photos", "does not exist: expected a folder of photographs, in a bucket that is there"),
        ("s3://few/nothing", "does not exist: expected a folder of photographs, in a bucket that is there"),
        ("s3://few/a.png", "is not a folder: expected a folder of photographs"),
        ("s3://few/empty", "holds no file: expected a folder of photographs"),
    ],
)
def test_no_folder(store, address, reason):
    store.put("few", {"a.png": PNG, "empty/": b""})
    with pytest.raises(DatasetError) as error:
        list_images(address)
    assert str(error.value) == f"{address} {reason}"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("missing.png", "no such file"),
        ("sub", "a folder, not a photograph"),
        ("missing.tif#2", "no such file"),
        ("denied.png", "cannot be read: access denied: check the credentials in the environment, and"),
    ],
)
def test_no_photograph(store, key, reason):
    store.denied.clear()
    store.put("bad", {"sub/a.png": PNG, "denied.png": PNG})
    store.denied.add("/bad/denied.png")
    with pytest.raises(ImageError) as error:
        load_image(f"s3://bad/{key}")
    assert str(error.value).startswith(f"s3://bad/{key}: {reason}")
    assert "\n" not in str(error.value)


def test_access_to_a_bucket_is_denied(store):
    store.put("closed", {"a.png": PNG})
    store.denied |= {"/closed", "/closed/", "/closed/a.png"}
    with pytest.raises(DatasetError, match=r"^s3://closed/ cannot be listed: access denied: check the credentials"):
        list_images("s3://closed")
    assert stores.there(located("s3://closed/a.png"))  # for all that is known
    assert not stores.there(located("s3://closed/a.png"), unsure=False)


def test_a_store_that_does_not_answer(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DatasetError, match=r"^s3://some/photos cannot be listed: the store cannot be reached: check"):
        list_images("s3://some/photos")


def test_no_credentials(store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DatasetError, match=r"there are no credentials for it: set them in the environment"):
        list_images("s3://some/photos")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("bad sv=1&s3cr3t here"), r"^the store says: bad \.\.\. here$"),
        (TimeoutError(), r"^the store does not answer in time: .*\(TimeoutError\)$"),
        (type("ReadTimeoutError", (Exception,), {})("x" * 999), r"^the store does not answer in time: .*\(x{200}\)$"),
        (ConnectionResetError("reset\nby peer"), r"^the store cannot be reached: .*\(reset by peer\)$"),
        (
            OSError("no: https://me:s3cr3t@example.org/x?sig=s3cr3t \x1b[31m"),
            r"^the store says: no: https://example\.org/x\?\.\.\. \\x1b\[31m$",
        ),
    ],
)
def test_what_stores_raise_is_one_line(error, told, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&s3cr3t")
    with pytest.raises(stores.StoreError, match=told), stores.told():
        raise error


def test_too_large_to_be_read(store):
    store.put("large", {"a.png": PNG + b"\0" * (70 << 20)})
    small = ImageConfig(max_megapixels=0.01)
    store.requests.clear()
    with pytest.raises(ImageError, match=r"a file of \d+ bytes is larger than any photograph"):
        load_image("s3://large/a.png", small)
    assert list_images("s3://large", small).names == ("a.png",)
    assert [path for path in store.asked("GET") if path.startswith("/large/a.png")] == []


def test_a_listing_asks_once_for_a_thousand_files(store):
    keys = [f"photos/{number % 20}/{number:05}.jpg" for number in range(2100)]
    store.fill("many", keys, b"no photograph")
    store.requests.clear()
    images = list_images("s3://many/photos", ONE)
    assert {images.state(name)[0] for name in images.names} == {len(b"no photograph")}
    assert len(images.names) == 2100
    assert len(store.requests) == 3  # pages of a thousand
    store.requests.clear()
    assert len(list_images("s3://many/photos/7", ImageConfig()).names) == 105
    assert (len(store.asked("HEAD")), len(store.asked("GET"))) == (0, 106)  # and one look into each


def test_what_is_uploaded_later_is_found(store):
    store.put("later", {"photos/a.png": PNG})
    before = file_state(located("s3://later/photos/a.png"))
    assert list_images("s3://later/photos").names == ("a.png",)
    assert not stores.is_file(located("s3://later/photos/b.png"))
    store.put("later", {"photos/b.png": PNG, "photos/a.png": TWO})
    assert list_images("s3://later/photos").names == ("a.png", "b.png")
    assert stores.is_file(located("s3://later/photos/b.png"))
    assert file_state(located("s3://later/photos/a.png"))[0] == len(TWO) != before[0]


def test_the_environment_decides(store, monkeypatch):
    """Also where it changes: another client is made then."""
    store.put("here", {"a.png": PNG})
    assert stores.is_file(located("s3://here/a.png"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot be reached"):
        stores.status(located("s3://here/a.png"))


def test_other_processes_get_no_credentials(store):
    """An `ImageSet` that is sent to them finds its photographs there by their own environment."""
    store.put("sent", {"photos/a.png": PNG})
    images = list_images("s3://sent/photos")
    assert read_photograph(images.path("a.png")).data == PNG  # so a client is there
    sent = pickle.dumps((images, images.path("a.png")))
    assert KEY.encode() not in sent
    assert SECRET.encode() not in sent
    again, path = pickle.loads(sent)
    assert (again, path, dict(again.states)) == (images, images.path("a.png"), dict(images.states))
    code = (
        "import pickle, sys; from retrieval.photographs.files import read_photograph; images, path = pickle.loads("
        "sys.stdin.buffer.read()); print(read_photograph(images.path('a.png')).content)"
    )
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert told.stdout.decode().strip() == read_photograph(path).content


def test_a_forked_process_has_a_client_of_its_own(store):
    store.put("forked", {"a.png": PNG})
    path = located("s3://forked/a.png")
    status = stores.status(path)
    child = os.fork()
    if child == 0:
        os._exit(0 if stores.read(path, status, 1 << 20) == PNG else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_secret_is_logged(store, caplog):
    caplog.set_level(logging.DEBUG)
    store.put("logged", {"a.png": PNG})
    caplog.clear()
    stores._client.cache_clear()
    images = list_images("s3://logged", ImageConfig())
    assert read_photograph(images.path("a.png")).data == PNG
    with pytest.raises(ImageError):
        load_image("s3://logged/b.png")
    assert KEY not in caplog.text
    assert SECRET not in caplog.text
    assert json.dumps(environment(store.address)["AWS_ACCESS_KEY_ID"]) not in caplog.text


def test_files_in_memory():
    """fsspec's, of this process alone: what is not S3 takes the same way."""
    root = UPath("memory://photos")
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(PNG)
    images = list_images("memory://photos", ImageConfig())
    assert images.names == ("sub/a.png",)
    assert images.state("sub/a.png") == file_state(images.path("sub/a.png"))
    assert images.state("sub/a.png")[1] > 0
    assert read_photograph("memory://photos/sub/a.png").data == PNG
    assert addresses.is_private(images.path("sub/a.png"))
    assert not addresses.is_private(Path("a"))
    assert images == ImageSet(located("memory://photos"), ("sub/a.png",))
