"""Files that a node trusts: certificates, keys and tokens."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo, model_validator

from casewise.errors import StudyError, cut
from casewise.files import read_regular
from casewise.study.model import StudyModel, refuse

# The largest file of a token that is read, in bytes.
LARGEST_TOKEN = 10_000


def _absolute(path: Path, info: ValidationInfo) -> Path:
    """A path that starts at the folder of the file."""
    return Path(os.path.abspath(Path((info.context or {}).get("folder", ".")) / path))


NodePath = Annotated[Path, AfterValidator(_absolute)]


class Tls(StudyModel):
    """Encryption of connections; files in PEM format."""

    certificate: NodePath | None = None
    """The certificate of this node, with those that signed it. A receiver needs it; a sender where the partner asks."""
    key: NodePath | None = None
    """The private key of `certificate`, without a password."""
    ca: NodePath | None = None
    """The certificates that are trusted. A receiver then accepts only partners that have a certificate signed by one of
    them. A sender without it trusts those of the system."""

    @model_validator(mode="after")
    def _both(self) -> Tls:
        refuse(
            {"certificate and key belong together: state both, or neither": bool(self.certificate) != bool(self.key)}
        )
        return self

    def server(self) -> ssl.SSLContext:
        """For a receiver.

        Raises:
            StudyError: a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca:
            context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context)

    def client(self) -> ssl.SSLContext:
        """For a sender; the name of the partner's certificate must be its host.

        Raises:
            StudyError: a file cannot be used.
        """
        return self._load(ssl.create_default_context() if not self.ca else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        for key, path in (("ca", self.ca), ("certificate", self.certificate)):
            try:
                if path and key == "ca":
                    context.load_verify_locations(path)
                elif path:
                    context.load_cert_chain(path, self.key, password="")  # no prompt for the password of a key
            except (OSError, ssl.SSLError) as error:
                text = error.strerror if isinstance(error, OSError) and error.strerror else error
                file = f"{path} with its key {self.key}" if key == "certificate" else str(path)
                problem = f"tls.{key}: {file} cannot be used ({cut(str(text))})."
                raise StudyError(f"{problem} State files in PEM format, and a key without a password.") from error
        return context


def read_token(path: Path, key: str) -> str:
    """The token in a file, without blanks around it.

    Raises:
        StudyError: the file cannot be read, or has no token.
    """
    try:
        token = read_regular(path, LARGEST_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "it has characters that no token has"
        raise StudyError(f"{key}: {path} cannot be read: {text}. Put the token into it, in one line.") from None
    if not token or any(c.isspace() or not c.isprintable() for c in token):
        raise StudyError(f"{key}: {path} must have one line, the token.")
    return token
