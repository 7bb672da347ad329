"""Stores whose clients are not S3's: what gcsfs and adlfs answer and raise, said by objects of this process.

Each of these was seen with the clients themselves, gcsfs 2026.10.1 and adlfs 2026.8.0, before emulators.
"""

import logging
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("upath", reason="needs the extra s3")

import fsspec
from upath import UPath

from retrieval.config import ImageConfig
from retrieval.errors import DatasetError, RetrievalError
from retrieval.photographs import addresses, stores
from retrieval.photographs.addresses import located
from retrieval.photographs.decoding import load_image, read_photograph
from retrieval.photographs.folder import list_images
from retrieval.photographs.places import Place, place_of
from tests import encoded, hostile

FIRST, SECOND = hostile.pictures()
PNG = encoded.still(".png", FIRST)
TWO = encoded.several(".tif", [FIRST, SECOND])
ACCOUNT_KEY = "of+the/tests/alone=="


class Client:
    """Objects by key. As adlfs it lists a key without the slash at its end, and of a file its name alone."""

    def __init__(self, objects):
        self.objects = objects

    def find(self, path, detail):
        assert detail
        if path in self.objects:
            return [path]
        return {
            key.rstrip("/"): {"type": "file", "size": len(data)}
            for key, data in self.objects.items()
            if key.startswith(f"{path.rstrip('/')}/")
        }

    def info(self, path):
        if path in self.objects:
            return {"type": "file", "size": len(self.objects[path])}
        if any(key.startswith(f"{path.rstrip('/')}/") for key in self.objects):
            return {"type": "directory", "size": None}
        raise FileNotFoundError(path)

    def cat_file(self, path, start, end):
        return self.objects[path][start:end]


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As if the packages were."""
    monkeypatch.setattr(addresses, "_require", lambda scheme: None)


@pytest.fixture
def hold(monkeypatch):
    def held(**objects):
        client = Client({f"c/{key}": data for key, data in objects.items()})
        monkeypatch.setattr(stores, "_store", lambda path: client)

    return held


@pytest.mark.parametrize("scheme", ["gs", "gcs", "az", "abfs"])
def test_a_number_is_no_version(scheme):
    """universal_pathlib takes it for one in gs://, which would be an option of the address."""
    path = located(f"{scheme}://c/photos/scan.tif#2")
    assert path.path == "c/photos/scan.tif#2"
    assert located(str(path)) == path == located(path) == pickle.loads(pickle.dumps(path))
    assert located(UPath(f"{scheme}://c/photos/scan.tif#2")) == path
    assert located(f"{scheme}://c/photos") / "scan.tif#2" == path
    assert path.with_name("scan.tif") == located(f"{scheme}://c/photos/scan.tif")
    with pytest.raises(RetrievalError, match="a UPath with options of its own"):
        located(UPath(f"{scheme}://c/x.jpg", account_key="secret"))


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_pictures_of_a_file(scheme, hold):
    hold(**{"photos/scan.tif": TWO, "photos/a.png": PNG})
    images = list_images(f"{scheme}://c/photos", ImageConfig())
    assert images.names == ("a.png", "scan.tif", "scan.tif#2")
    second = load_image(images.path("scan.tif#2"))
    assert np.array_equal(second.gray, load_image(str(images.path("scan.tif#2"))).gray)
    assert not np.array_equal(second.gray, load_image(images.path("scan.tif")).gray)
    assert place_of(f"{scheme}://c/photos/scan.tif#2") == Place(images.path("scan.tif"), 2)


def test_a_file_is_not_a_folder(hold):
    hold(**{"photos/a.png": PNG})
    with pytest.raises(DatasetError, match=r"^az://c/photos/a\.png is not a folder: expected"):
        list_images("az://c/photos/a.png")


def test_what_stands_for_a_folder_is_none_of_its_files(hold):
    hold(**{"photos/": b"", "photos/sub/": b"", "photos/sub/a.png": PNG, "photos/none.png": b""})
    assert list_images("az://c/photos").names == ("none.png", "sub/a.png")


def test_what_an_address_does_not_spell(hold, caplog):
    """In az:// they are passed over, as they would be looked for under other names; in gs:// they are names."""
    odd = ("a?b#c.png", "end#", "end?", "tab\t.png", "line\n.png")
    fine = ("a#b?c.png", "what?.png", "scan.png#2")
    hold(**{f"photos/{name}": PNG for name in (*odd, *fine)})
    assert list_images("az://c/photos").names == tuple(sorted(fine))
    assert "5 files are passed over" in caplog.text
    images = list_images("gs://c/photos")
    assert set(images.names) == {*odd, *fine}
    for name in images.names:
        assert read_photograph(images.path(name)).data == PNG


def _raised(name, message, base=Exception, **attributes):
    return type(name, (base,), attributes)(message)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("Forbidden: https://storage.googleapis.com/b/c/o\nx lacks storage.objects.list"), "access denied: "),
        (_raised("HttpError", "Anonymous caller does not have access, 401", code=401), "access denied: "),
        (_raised("HttpResponseError", "This request is not authorized", status_code=403), "access denied: "),
        (_raised("HttpError", "Backend Error, 503", code=503), "the store says: Backend Error, 503"),
        (_raised("ServiceRequestError", "Cannot connect to host a:443"), "the store cannot be reached: "),
        (_raised("ServiceResponseError", "Server disconnected"), "the store cannot be reached: "),
        (_raised("TransportError", "Max retries", _raised("GoogleAuthError", "").__class__), "the store cannot be rea"),
        (_raised("RefreshError", "no", _raised("GoogleAuthError", "").__class__), "there are no credentials for it: "),
    ],
)
def test_what_they_raise(error, told):
    with pytest.raises(stores.StoreError) as found, stores.told():
        raise error
    assert str(found.value).startswith(told)
    assert "\n" not in str(found.value)


def test_a_client_that_cannot_be_made(monkeypatch):
    """Its words are told, but for a key, also where it stands alone."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=someaccount;AccountKey={ACCOUNT_KEY};x")

    def refuse(**options):
        raise ValueError(f"unable to connect to someaccount by {ACCOUNT_KEY}")

    monkeypatch.setattr(stores, "_kind_of_client", lambda protocol: refuse)
    with pytest.raises(DatasetError) as error:
        list_images("az://c/photos")
    assert str(error.value).startswith("az://c/photos cannot be listed: its credentials are missing or malformed: ")
    assert str(error.value).endswith("(unable to connect to someaccount by ...)")


def test_google_is_asked_by_http(monkeypatch):
    """Unless the environment speaks of it: by gRPC gcsfs would wait a minute at every read where it does not come."""
    plain, both = type("Plain", (), {}), type("Both", (), {})
    monkeypatch.setitem(sys.modules, "gcsfs", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "gcsfs.core", SimpleNamespace(GCSFileSystem=plain))
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda protocol: both)
    monkeypatch.delenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", raising=False)
    assert [stores._kind_of_client(protocol) for protocol in ("gs", "gcs", "az")] == [plain, plain, both]
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "true")
    assert stores._kind_of_client("gs") is both


def test_what_is_raised_is_not_logged_as_well(monkeypatch, caplog):
    for name in ("gcsfs", "azure"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
        logging.getLogger(name).manager._clear_cache()
    monkeypatch.setattr(stores, "_kind_of_client", lambda protocol: lambda **options: None)
    stores._client.__wrapped__("gs", 0, b"")
    logging.getLogger("gcsfs").error("_request out of retries")
    logging.getLogger("azure.identity.aio").warning("failed to retrieve a token\nof these:")
    assert caplog.text == ""
