"""Where photographs lie: at a path, or at an address in an object store, ``s3://bucket/holidays/tower.jpg``.

An address becomes a `upath.UPath`, which has of a `pathlib.Path` what is used of one: its name, its parent, ``/``,
equality, and its text again. So an address goes wherever a path does; what is asked of a file is asked by
`retrieval.photographs.stores`. Nothing is imported before the first address.

Credentials come from the environment alone. No address holds any, and so none is stored, pickled or logged.
"""

import functools
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, cast

from retrieval.errors import DatasetError, RetrievalError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")  # what `pathlib` makes of one
_LOCAL = ("file", "local")
CHAIN = "::"  # fsspec's way to say that one store lies in another
_SIGNED = re.compile(r"[?&](x-amz-|x-goog-|awsaccesskeyid|signature|sig|token|access_token)", re.IGNORECASE)
_STORED = re.compile(r"[?&](x-amz-|x-goog-)", re.IGNORECASE)
_OF_LINKS = re.compile(r"[?#\t\r\n]")
_UNVERSIONED: dict[str, Any] = {"version_aware": False}  # else x.tif#2 of gs:// would be read as a version of x.tif
_EXTRAS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "adl": "az",
}  # fmt: skip


def is_address(given: object) -> bool:
    """Whether a photograph or a folder is given by its address in a store, as text or as `UPath`."""
    if isinstance(given, str):
        found = _ADDRESS.match(given)
        return found is not None and found[1].lower() not in _LOCAL
    if isinstance(given, os.PathLike) or "upath" not in sys.modules:
        return False
    from upath import UPath

    return isinstance(given, UPath)


def located(given: object) -> Path:
    """A path, or the `UPath` of an address, which is used as one.

    Args:
        given: a path or an address, as text or already as such an object. ``file://`` is a path.

    Raises:
        RetrievalError: an address with a key, a password or a signature in it, a `UPath` with options, a kind of store
            that is unknown, or one for which packages are missing; the message says what to do, and repeats no secret.
    """
    if isinstance(given, Path):
        if _COLLAPSED.match(str(given)) and not os.path.lexists(given.parent):
            scheme = str(given).split(":", 1)[0]
            raise RetrievalError(
                f"{scheme}:/... is what pathlib makes of an address {scheme}://...: give it as text, or as a UPath"
            )
        return given
    if not is_address(given):
        text = os.fsdecode(cast(str, given))
        if CHAIN in text.partition("://")[0] and "@" in text.partition("://")[2]:  # not to be repeated
            raise DatasetError(f"an address with {CHAIN} before its kind of store is not taken: stores are not chained")
        found = _ADDRESS.match(text)
        return Path(text if found is None else found[2])  # file://
    scheme, rest = cast(re.Match[str], _ADDRESS.match(str(given))).groups()
    _refuse_secrets(scheme, rest)
    known: dict[str, Any] = _UNVERSIONED if _EXTRAS.get(scheme.lower()) in ("gs", "az") else {}
    if CHAIN in rest:
        raise DatasetError(f"{given}: a name with {CHAIN} in it is not taken, as stores are chained so: rename it")
    if scheme.lower() in _EXTRAS and rest[:1] in ("", "/"):
        raise DatasetError(f"{given} names no bucket: expected {scheme}://BUCKET/PATH")
    if not isinstance(given, str):
        if set(getattr(given, "storage_options", ())) - set(known):
            raise RetrievalError(
                f"{given}: a UPath with options of its own is not taken, as they would be stored and sent to other "
                "processes: leave them out, and give credentials and endpoints by the environment"
            )
        if getattr(given, "storage_options", {}) == known:
            return cast(Path, given)
    scheme = scheme.lower()
    _require(scheme)
    from upath import UPath

    try:
        found_at = UPath(f"{scheme}://{rest}", **known)
        if found_at.storage_options != known:
            raise DatasetError(f"{scheme}://...: a kind of store whose addresses name a host is not taken")
        return cast(Path, found_at)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DatasetError(f"{given} is no address of a photograph or a folder") from error


def require_local(given: object, what: str) -> None:
    """Refuses an address where only photographs may have one.

    Args:
        given: a path, or an address in any form, also as `pathlib` leaves it.
        what: that is given, for the message.

    Raises:
        RetrievalError: it is an address.
    """
    if is_address(given) or (
        isinstance(given, str | Path) and _COLLAPSED.match(str(given)) and not Path(given).exists()
    ):
        raise RetrievalError(
            f"{what} is given by an address ({str(given).split(':', 1)[0]}:...), and only photographs may lie in an "
            "object store: indexes, features, vocabularies and all that is written lie in local or shared folders"
        )


def whole(path: Path) -> Path:
    """The path from the top of the file system, links resolved; an address as it is."""
    return path if is_address(path) else path.resolve()


def joined(root: Path, name: str) -> Path:
    """Where a file of a folder lies; a name that is an absolute path or an address stays what it is."""
    return located(name) if is_address(name) or os.path.isabs(name) else root / name


def below(path: Path, root: Path) -> str | None:
    """The POSIX path of a file relative to a folder; None where it does not lie below it. Neither is looked up."""
    if is_address(path) != is_address(root):
        return None
    if not is_address(path):
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else None
    name = str(path).removeprefix(f"{str(root).rstrip('/')}/")
    return None if name == str(path) else name


def is_spelled(name: str, root: Path) -> bool:
    """Whether the address of a name below a folder of a store leads to it: in az:// some signs make a link of it."""
    return not _OF_LINKS.search(name) or below(root / name, root) == name


def is_private(path: Path) -> bool:
    """Whether only this process can read it: ``memory://``."""
    return getattr(path, "protocol", None) == "memory"


def _refuse_secrets(scheme: str, rest: str) -> None:
    """Refuses a key, password or signature in an address; the message has nothing of the address but its scheme."""
    authority = rest.split("/", 1)[0]
    user, at, host = authority.rpartition("@")
    extra = _EXTRAS.get(scheme.lower())
    port = host.rpartition("]")[2].rpartition(":")  # of [::1]:8000 that behind the bracket
    odd = port[1] and (extra is not None or not port[2].isdigit()) and not host.startswith("arn:")
    secret = odd or ":" in user or (at and extra in (None, "s3", "gs"))
    # a key of s3 and gs may hold a ?; what others have behind one, or behind # with a value, may be a secret
    signed = _STORED.search(rest) if extra in ("s3", "gs") else _SIGNED.search(rest) or (extra is None and "?" in rest)
    signed = signed or (extra is None and re.search("#[^/]*=", rest))
    if secret or signed:
        raise RetrievalError(
            f"an address {scheme}://... with a key, password or signature in it (not repeated here) is not taken, as "
            "addresses are stored and shown: give credentials by the environment, for s3:// AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if at and extra == "az":
        raise RetrievalError(
            f"{scheme}://{authority}/...: name the account by the environment, AZURE_STORAGE_ACCOUNT_NAME, and give "
            "the address as az://CONTAINER/PATH"
        )


@functools.cache
def _require(scheme: str) -> None:
    """Refuses a store that is unknown, or whose packages are missing.

    Raises:
        RetrievalError: naming those that are known, or what to install.
    """
    from fsspec.registry import known_implementations, registry

    extra = _EXTRAS.get(scheme)
    if scheme not in known_implementations and scheme not in registry:
        raise RetrievalError(
            f"{scheme}://...: there is no such kind of store: expected s3://, gs://, az:// or another that fsspec knows"
        )
    needed = ["upath"]
    if scheme in known_implementations:
        needed.append(known_implementations[scheme]["class"].split(".")[0])
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        packages = ", ".join("universal-pathlib" if name == "upath" else name for name in missing)
        cure = f"install {packages}"
        if extra is not None or missing == ["upath"]:
            extra = extra or "s3"
            cure = f"install the extra {extra}, in the checkout: pip install -c constraints.txt -e '.[{extra}]'"
        raise RetrievalError(f"photographs at {scheme}:// need {packages}: {cure}")
