"""The limits and options of a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from casewise.errors import RunError, none_of, printable, shortened
from casewise.inference.drift import confirmation
from casewise.names import one_form
from casewise.run_folder.folder import HEADLINE
from casewise.web.settings import WebSettings


@dataclass(frozen=True)
class ServiceSettings(WebSettings):
    """The limits and options of a service.

    Attributes:
        bundle: a bundle (folder or zip file) or a run folder.
        learner: as in `casewise.inference.ensemble.Ensemble`.
        token: must be in the header of every request to the interface; empty for none.
        max_files: of one request; max_pixels: of one image.
        workers: processes that predict; queue: requests that may wait for one of them.
        timeout: seconds until a prediction is stopped.
        trust: a public key; a bundle that is not signed with its private key is refused.
        source_confirmed: who confirms that the model may be used for the source of the images, as `NAME, REASON`.
        record: a file with the numbers of recent images, which a restart reads; None: they are in memory only.
    """

    bundle: Path
    learner: str = "headline"
    token: str = ""
    max_files: int = 1000
    max_pixels: int = 100_000_000
    workers: int = 1
    queue: int = 8
    timeout: float = 300.0
    trust: Path | None = None
    source_confirmed: str = ""
    record: Path | None = None

    smaller: ClassVar[str] = "Send fewer or smaller images, or start the service with a larger --max-size."
    access: ClassVar[str] = "a token, for example in the environment variable CASEWISE_SERVE_TOKEN,"

    @property
    def tokens(self) -> Mapping[str, str]:
        """The one token, of all clients."""
        return {"": self.token} if self.token else {}

    def check(self) -> None:
        """Check that the options agree.

        Raises:
            CasewiseError: as `WebSettings.check`, or the confirmation lacks a name or a reason.
        """
        super().check()
        confirmation(self.source_confirmed)


def check_learner(name: str, learners: Sequence[str]) -> None:
    """Check that a name means one learner of a model; without `learners`, nothing is checked yet.

    Raises:
        RunError: it means several, or there is no such learner.
    """
    options = [*learners, HEADLINE]
    if learners and name not in options:
        raise RunError(f"--learner: a service shows one learner, and {none_of(name, options)}")


LONGEST_NAME = 120


def shown_name(name: str) -> str:
    r"""The name of an uploaded file for people: without folders, printable and of bounded length.

    >>> shown_name("../../etc/passwd"), shown_name("C:\\photos\\a.jpg"), shown_name("")
    ('passwd', 'a.jpg', 'unnamed file')
    """
    last = one_form(name).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return shortened(printable(last).replace("\n", " ").replace("\t", " "), LONGEST_NAME) or "unnamed file"
