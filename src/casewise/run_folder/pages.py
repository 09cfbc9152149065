"""Pages that a command writes: which files they may replace."""

from __future__ import annotations

from pathlib import Path

from casewise.errors import RunError
from casewise.files import replacing
from casewise.run_folder.folder import RunFolder


def write_page(path: Path, text: str, ending: str) -> Path:
    """Write a page; an existing file is replaced only if it has this ending, and tables only if the heading is theirs.

    Raises:
        RunError: the file is of another kind, belongs to a run, or cannot be written.
    """
    owner = RunFolder(path.parent)
    if path.name in {owner.report_path.name, owner.audit_page.name} and owner.is_own():
        raise RunError(f"{path} is a page of the run in {path.parent}. Choose another file with --output.")
    if path.is_dir():
        raise RunError(f"{path} is a folder. Give the name of a file with --output, such as {path / f'page{ending}'}.")
    if path.exists():
        if path.suffix.casefold() != ending:
            raise RunError(
                f"{path} exists, and is not replaced by a page with the ending {ending}. Choose another file with "
                "--output."
            )
        if ending == ".csv" and not path.read_bytes().startswith(text.split("\n", 1)[0].encode()):
            raise RunError(f"{path} exists and holds another table. Choose another file with --output.")
    with replacing(path, unlocked_folder=True) as temporary:
        temporary.write_bytes(text.encode())
    return path
