"""Formats that are not read, known by their first bytes: what a file is, and what its owner can do."""

import re

_HEIC = "convert it to JPEG, for example with `heif-convert IN OUT.jpg`"
_MAGICK = "convert it to JPEG or PNG, for example with `magick IN OUT.png`"
_JXL = "convert it to JPEG, for example with `djxl IN OUT.jpg`"
_RAW = "export it as JPEG or TIFF"
_VIDEO = "take a frame of it as JPEG, for example with `ffmpeg -i IN -frames:v 1 OUT.jpg`"
_DRAWING = "a drawing, not a photograph; render it to PNG"

# Brands of an ISO base media file (ISO/IEC 14496-12, box "ftyp"), by what they begin with.
_BRANDS = (
    (b"avif", "an AVIF photograph", "convert it to JPEG or PNG, for example with `avifdec IN OUT.png`"),
    (b"avis", "an AVIF sequence", "convert it to JPEG or PNG, for example with `avifdec IN OUT.png`"),
    (b"heic", "a HEIC photograph", _HEIC),
    (b"heix", "a HEIC photograph", _HEIC),
    (b"heim", "a HEIC photograph", _HEIC),
    (b"heis", "a HEIC photograph", _HEIC),
    (b"hev", "a HEIC sequence", _HEIC),
    (b"hei", "a HEIF photograph", _HEIC),
    (b"crx ", "a CR3 camera raw", _RAW),
    (b"jp2 ", "a JPEG 2000 picture", _MAGICK),
    (b"qt  ", "a QuickTime video", _VIDEO),
    (b"mp4", "an MP4 video", _VIDEO),
    (b"iso", "an MP4 video", _VIDEO),
    (b"avc1", "an MP4 video", _VIDEO),
    (b"M4V", "an MP4 video", _VIDEO),
    (b"3g", "a 3GPP video", _VIDEO),
)
_SVG = rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]"
_MAGIC = (
    (rb"II\*\0.{4}CR\x02", "a CR2 camera raw", _RAW),
    (rb"IIR[OS]|MMOR", "an ORF camera raw", _RAW),
    (rb"IIU\0", "an RW2 camera raw", _RAW),
    (rb"FUJIFILMCCD-RAW", "an RAF camera raw", _RAW),
    (rb"FOVb", "an X3F camera raw", _RAW),
    (rb"\0MRM", "an MRW camera raw", _RAW),
    (rb".{6}HEAPCCDR", "a CRW camera raw", _RAW),
    (rb"GIF8[79]a", "a GIF picture", _MAGICK),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", _JXL),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", _MAGICK),
    (rb"II\xbc", "a JPEG XR picture", _MAGICK),
    (rb"8BPS", "a Photoshop document", "save it as JPEG, PNG or TIFF"),
    (rb"gimp xcf", "a GIMP document", "export it as JPEG, PNG or TIFF"),
    (rb"v/1\x01", "an OpenEXR picture", "convert it to 8 or 16 bits"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR picture", "convert it to 8 or 16 bits"),
    (rb"P7\s", "a PAM picture", _MAGICK),
    (rb"P[Ff]\s", "a PFM picture", "convert it to 8 or 16 bits"),
    (rb"\0\0\x01\0.\0", "an ICO icon", _MAGICK),
    (rb"%PDF-", "a PDF document", "render its pages to PNG, for example with `pdftoppm -png IN OUT`"),
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
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[at : at + 4] for at in (8, *range(16, length - 3, 4))]  # the major one, then the compatible ones
        for brand in brands:
            for start, name, advice in _BRANDS:
                if brand.startswith(start):
                    return f"{name}: {advice}"
        if {b"mif1", b"msf1"} & set(brands):  # general: any of the others says more
            return f"a HEIF photograph: {_HEIC}"
        return "an ISO media file, a video or photograph of a kind that is not read: convert it to JPEG"
    for pattern, name, advice in _KNOWN:
        if pattern.match(head):
            return f"{name}: {advice}"
    return None
