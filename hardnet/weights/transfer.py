"""Downloads of large published files: taken up again where they broke off."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from hardnet import progress

_TIMEOUT = 30  # seconds without a byte
_ATTEMPTS = 3  # a connection that is cut is taken up again where it broke off
_BLOCK = 1 << 16  # bytes read at a time


class TransferError(Exception):
    """Why a download did not complete; callers say in their own error what can be done."""


def fetch(url: str, part: Path, label: str) -> None:
    """Completes a partial file, with a few attempts to resume where the connection breaks off.

    A file that changed at its source between two attempts is not noticed here: compare a checksum.

    Args:
        url: of the whole file.
        part: what is there already of it; made where it is missing, and kept when the download fails.
        label: for the progress bar.

    Raises:
        TransferError: no connection, or a refusal of the server.
        OSError: `part` cannot be written.
    """
    reason = ""
    for _ in range(_ATTEMPTS):
        offset = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                if _receive(response, part, offset, label):
                    return
                reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"{error.code} {error.reason}"
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                break
            part.unlink()  # the partial file is no beginning of what the server has: start again
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
    raise TransferError(reason)


def _receive(response: http.client.HTTPResponse, part: Path, offset: int, label: str) -> bool:
    """Appends a response to the partial file; whether it came completely."""
    resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
    if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise http.client.HTTPException("the server sent another range than asked for")
    start = offset if resumes else 0  # a server may ignore the range and send the whole file
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with (
        part.open("ab" if resumes else "wb") as stream,
        progress.bar(total=total, initial=start, unit="B", unit_scale=True, desc=label) as bar,
    ):
        while block := response.read(_BLOCK):
            stream.write(block)
            bar.update(len(block))
        stream.flush()
        os.fsync(stream.fileno())
        return total is None or stream.tell() == total
