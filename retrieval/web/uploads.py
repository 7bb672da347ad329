"""Photographs that were sent to be searched with: checked, described once, and kept in memory while there is room."""

import hashlib
import re
from dataclasses import dataclass, replace

import cv2

from retrieval.config import Config
from retrieval.errors import ImageError
from retrieval.features.extractor import extract_image
from retrieval.features.store import ImageFeatures
from retrieval.photographs.decoding import display_name, load_picture, read_header
from retrieval.web import pictures
from retrieval.web.bounded import BoundedCache
from retrieval.web.problems import RequestError

NAME_LENGTH = 120  # characters that are shown of a file's name


@dataclass(frozen=True)
class Upload:
    """An uploaded photograph.

    Attributes:
        id: 32 hexadecimal digits of the sha256 of the file.
        name: to be shown; never a path.
        features: in original pixels.
        picture: a JPEG file, longest side at most `pictures.UPLOAD_SIDE`.
        data: the file, which the mirror image is described from; nobody gets it back. Empty where there was no room.
    """

    id: str
    name: str
    features: ImageFeatures
    picture: bytes
    data: bytes


class Uploads:
    """The latest uploads.

    Args:
        capacity: bytes that they take together.
        max_megapixels: of a photograph.
    """

    def __init__(self, capacity: int, max_megapixels: float):
        self.max_megapixels = max_megapixels
        self._cache: BoundedCache[Upload] = BoundedCache(capacity)

    def get(self, key: str, kind: str) -> Upload | None:
        """The upload of this id, while it is kept, as described for one kind of index."""
        return self._cache.get((key, kind))

    def clear(self) -> None:
        """Forgets them all."""
        self._cache.clear()

    def add(self, name: str, data: bytes, config: Config, kind: str) -> Upload:
        """Takes a photograph in; one that is there already is not described again.

        Args:
            name: as the client calls the file.
            data: the file.
            config: of the index.
            kind: what tells indexes apart whose features do not fit each other.

        Raises:
            RequestError: no photograph, damaged, or too large.
        """
        key = hashlib.sha256(data).hexdigest()[:32]
        known = self.get(key, kind)
        if known is not None:
            return known
        try:
            header = read_header(data)
            if header.width * header.height > self.max_megapixels * 1e6:
                raise RequestError(
                    413,
                    f"the photograph has {header.width} x {header.height} pixels; at most {self.max_megapixels:g} "
                    "megapixels are taken here: send a smaller copy",
                )
            features = extract_image(data, name, config)
            picture = pictures.encode(load_picture(data, config.images, pictures.UPLOAD_SIDE))
        except ImageError as error:
            reason = str(error).removeprefix("photograph: ")
            raise RequestError(422, f"this file cannot be used as a photograph: {reason}") from error
        except (cv2.error, MemoryError) as error:
            raise RequestError(422, "this file cannot be used as a photograph: it cannot be decoded") from error
        upload = Upload(key, shown_name(name), features, picture, data)
        size = features.regions.nbytes + features.codes.nbytes + len(picture) + 1000
        if self._cache.put((key, kind), upload, size + len(data)):
            return upload
        upload = replace(upload, data=b"")
        if not self._cache.put((key, kind), upload, size):
            raise RequestError(413, "the photograph is larger than the server's whole cache: send a smaller copy")
        return upload

    def mirrored(self, upload: Upload, config: Config, kind: str) -> ImageFeatures:
        """The features of the mirror image, kept like those of the photograph, while there is room.

        Args:
            upload: from `add`.
            config: of the index, as for `add`.
            kind: as for `add`.

        Raises:
            RequestError: its file was not kept.
        """
        key = upload.id, f"{kind} mirrored"
        known = self._cache.get(key)
        if known is not None:
            return known.features
        if not upload.data:
            raise RequestError(410, "this file is larger than the server's whole cache, so it cannot be mirrored")
        features = extract_image(upload.data, upload.name, config, mirror=True)
        size = features.regions.nbytes + features.codes.nbytes + 1000
        self._cache.put(key, replace(upload, features=features, picture=b"", data=b""), size)
        return features


def shown_name(name: str) -> str:
    """A file's name without any folders, as one line of bounded length."""
    name = re.split(r"[/\\]", name)[-1].encode("utf-8", "replace").decode()
    name = display_name(name).strip()
    if len(name) > NAME_LENGTH:
        name = f"{name[: NAME_LENGTH - 1]}…"
    return name or "photograph"
