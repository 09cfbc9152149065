"""Writing a drawn picture, quickly and never in part."""

from __future__ import annotations

import os
from pathlib import Path

from casewise.errors import RunError


def save(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    # Without the fsync of `write_atomic`: a picture that a power cut takes is drawn again, and it would cost a third.
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}.") from error
