"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import RunError

if TYPE_CHECKING:
    import pandas as pd


def write_atomic(path: Path, content: bytes | str) -> Path:
    """Write `content` beside `path` and move it there in one step.

    Raises:
        RunError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise RunError(f"{path} could not be written: {error.strerror or error}. Nothing was changed.") from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as readable JSON, atomically; NaN is not allowed in it."""
    return write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_parquet(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as Parquet, atomically."""
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return write_atomic(path, buffer.getvalue())
