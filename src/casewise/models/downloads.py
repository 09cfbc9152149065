"""Downloads of weights: what they can raise, and the error that names other ways to get the weights."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

from casewise.errors import WeightsError
from casewise.study.weight_files import HUB, environment_folder, file_name, in_repository


@contextmanager
def download_of(name: str, folder: Path | None, ways: str) -> Iterator[None]:
    """Replace the error of a failed download by one that names the other ways to get the weights of a network.

    Raises:
        WeightsError: the block raised one of `download_errors`; the message ends with `ways`, in which {file} stands
            for the name of the weights without its ending.
    """
    try:
        yield
    except download_errors() as error:
        folders = [str(path) for path in (folder, environment_folder()) if path]
        raise WeightsError(
            f"There are no pretrained weights for {name}. Searched {', '.join(folders) or 'no folder (none given)'} "
            f"and the library's cache, then tried its download, which failed ({first_line(error)}). "
            f"{ways.format(file=file_name(name))}"
        ) from error


def download_errors() -> tuple[type[Exception], ...]:
    """What a download of weights can raise, in any version of the libraries.

    Connections, files and timeouts raise OSError; timm and torchvision RuntimeError where weights are unknown or have
    another checksum; a name that is no repository ValueError; a damaged file the errors of its format; a missing
    package ImportError. The hub adds those of its module of errors, among them that of the HTTP library it uses.
    """
    from safetensors import SafetensorError

    errors: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, ImportError, EOFError, HTTPException)
    errors += (SafetensorError, UnpicklingError)
    try:
        from huggingface_hub import errors as hub
    except ImportError:
        return errors
    return errors + tuple(kind for kind in vars(hub).values() if isinstance(kind, type) and issubclass(kind, Exception))


def hub_file(name: str, file: str) -> Path:
    """A file of a hub repository, from the cache or by download."""
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    with patience(20):
        return Path(hf_hub_download(repository, file, revision=revision or None))


def hub_weights(name: str) -> Path:
    """The weights of a hub repository: its model.safetensors, else a PyTorch file of tensors."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return hub_file(name, in_repository(".safetensors"))
    except EntryNotFoundError:
        return hub_file(name, "pytorch_model.bin")


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Give up on a silent connection instead of waiting for ever behind a firewall.

    The libraries' own lines on each retry are left out, because the error that follows says all of them.
    """
    before = socket.getdefaulttimeout()
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "timm")]
    levels = [logger.level for logger in loggers]
    socket.setdefaulttimeout(seconds)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """The beginning of an error's message, for a sentence of another one."""
    return str(error).splitlines()[0][:160].rstrip(".") if str(error) else type(error).__name__
