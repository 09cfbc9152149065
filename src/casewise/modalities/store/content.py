"""The name of a file's content, for messages on files that are not readable images."""

from __future__ import annotations

_BEGINNINGS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a gzip archive (a volume such as .nii.gz?)"),
    (b"\x89HDF", "an HDF5 file"),
)


def name_content(head: bytes) -> str:
    r"""Return the kind of content that a file's first bytes indicate, with an article.

    >>> name_content(b"GIF89a..."), name_content(b"path,subject\n"), name_content(bytes(64))
    ('a GIF', 'a text file', 'a file of zero bytes (an interrupted copy?)')
    """
    for beginning, name in _BEGINNINGS:
        if head.startswith(beginning):
            return name
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[4:8] == b"ftyp":
        return "an AVIF" if head[8:12] in {b"avif", b"avis"} else "a video"
    if not any(head):
        return "a file of zero bytes (an interrupted copy?)"
    # A multi-byte character may be cut off at the end of the head.
    text = head.decode("utf-8", errors="ignore")
    if len(text.encode()) >= len(head) - 3 and all(sign.isprintable() or sign in "\r\n\t\f\ufeff" for sign in text):
        return "a text file"
    return f"a file of unknown content (it begins with {head[:8].hex(' ')})"
