"""Requests with their answers, kept in a folder if the service was started so."""

from __future__ import annotations

import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from casewise.errors import RunError
from casewise.files import TEMPORARY, json_text, make_folder, sync_folder
from casewise.plugins.serve.problems import ServiceError
from casewise.plugins.serve.submission import Submission


def keep_request(folder: Path, uploads: Path, submission: Submission, answer: dict[str, Any]) -> Path:
    """Keep the images and the answer in a new folder, which appears complete or not at all.

    The images have neutral names; `answer.json` has those of the client.

    Raises:
        ServiceError: 507, the folder cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    temporary = folder / f"{TEMPORARY}{name}"
    try:
        make_folder(folder)
        shutil.copytree(uploads, temporary / "images")
        names = {file.stored: file.name for file in submission.files}
        kept = {"subject": submission.options.get("subject", ""), "files": names, **answer}
        (temporary / "answer.json").write_text(json_text(kept), encoding="utf-8")
        target = temporary.replace(folder / name)
        sync_folder(folder)
    except (OSError, RunError) as error:
        raise ServiceError(
            507, "not_kept", "The request could not be kept. Tell whoever runs this service to check the disk."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
