"""Formats that are not read, known by their first bytes: what a file is, and what its owner can do."""

import re

from retrieval.photographs.boxes import brands
from retrieval.photographs.heif import is_heif
from retrieval.photographs.raws import EXPORT

MAGICK = "convert it to JPEG or PNG, for example with `magick IN OUT.png`"
"""What can be done with a picture that is not read."""
_VIDEO = "take a frame of it as JPEG, for example with `ffmpeg -i IN -frames:v 1 OUT.jpg`"
_DRAWING = "a drawing, not a photograph; render it to PNG"

# Brands of an ISO base media file (ISO/IEC 14496-12, box "ftyp"), by what they begin with.
_BRANDS = (
    (b"qt  ", "a QuickTime video", _VIDEO),
    (b"mp4", "an MP4 video", _VIDEO),
    (b"iso", "an MP4 video", _VIDEO),
    (b"avc1", "an MP4 video", _VIDEO),
    (b"M4V", "an MP4 video", _VIDEO),
    (b"3g", "a 3GPP video", _VIDEO),
)
_SVG = rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"
_MAGIC = (
    (rb"IIU\0", "an RW2 camera raw", EXPORT),
    (rb"FOVb", "an X3F camera raw", EXPORT),
    (rb"\0MRM", "an MRW camera raw", EXPORT),
    (rb".{6}HEAPCCDR", "a CRW camera raw", EXPORT),
    (rb"II\xbc", "a JPEG XR picture", MAGICK),
    (rb"8BPS", "a Photoshop document", "save it as JPEG, PNG or TIFF"),
    (rb"gimp xcf", "a GIMP document", "export it as JPEG, PNG or TIFF"),
    (rb"v/1\x01", "an OpenEXR picture", "convert it to 8 or 16 bits"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR picture", "convert it to 8 or 16 bits"),
    (rb"P7\s", "a PAM picture", MAGICK),
    (rb"P[Ff]\s", "a PFM picture", "convert it to 8 or 16 bits"),
    (rb"\0\0\x01\0.\0", "an ICO icon", MAGICK),
    (rb"%PDF-", "a PDF document", "render its pages to PNG, for example with `pdftoppm -r 200 -png IN OUT`"),
    (rb"%!PS", "a PostScript document", "render it to PNG"),
    (rb"AT&TFORM", "a DjVu document", "render its pages to PNG"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM video", _VIDEO),
    (rb"RIFF.{4}AVI ", "an AVI video", _VIDEO),
    (rb"\x00\x00\x01\xba", "an MPEG video", _VIDEO),
    (rb"PK\x03\x04", "a ZIP archive or office document", "take the photographs out of it"),
    (_SVG, "an SVG file", _DRAWING),
    (rb"(?:\xef\xbb\xbf)?\s*(?i:<!doctype html|<html)", "an HTML page", "download the photograph itself"),
)  # fmt: skip
_KNOWN = tuple((re.compile(magic, re.DOTALL), name, advice) for magic, name, advice in _MAGIC)
_HEAD = 4096  # bytes that are looked at


def foreign_format(data: bytes) -> str | None:
    """What a file in a format that is not read is, and what to do; None where its first bytes say nothing.

    Args:
        data: all bytes of the file, or some hundreds from its beginning.
    """
    head = data[:_HEAD]
    if head[4:8] == b"ftyp" and not is_heif(head):
        for brand in brands(head):
            for start, name, advice in _BRANDS:
                if brand.startswith(start):
                    return f"{name}: {advice}"
        return "an ISO media file, a video or photograph of a kind that is not read: convert it to JPEG"
    for pattern, name, advice in _KNOWN:
        if pattern.match(head):
            return f"{name}: {advice}"
    return None
