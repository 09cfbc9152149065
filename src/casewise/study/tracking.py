"""The trackers that a study may name."""

from __future__ import annotations

from urllib.parse import urlsplit

from casewise.errors import cut, nearest

# The package that each tracker needs, by name.
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def tracker_names(value: object) -> object:
    """One tracker as a list; anything else is left to the type check.

    >>> tracker_names("mlflow")
    ['mlflow']
    """
    return [value] if isinstance(value, str) else value


def check_tracker(text: str) -> str:
    """Return a tracker: its name, for MLflow perhaps with the address of its server or store.

    >>> check_tracker("mlflow:http://127.0.0.1:5000")
    'mlflow:http://127.0.0.1:5000'
    """
    name, _, address = text.partition(":")
    if name not in PACKAGES:
        raise ValueError(f"{cut(text)} is no tracker; there are {', '.join(PACKAGES)}.{nearest(name, PACKAGES)}")
    if not address:
        return name
    if name != "mlflow":
        raise ValueError(f"{cut(text)}: {name} has no address; its files are in the run folder")
    try:
        parts = urlsplit(address)
        named = bool(parts.scheme and (parts.netloc or parts.path.startswith("/")))
        secret = bool(parts.username or parts.password)
    except ValueError:
        named = secret = False
    if secret:
        raise ValueError(
            "the address of mlflow has a user name or password, which the report would show; leave them out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if not named:
        raise ValueError(f"{cut(address)} is no address; write one such as mlflow:http://127.0.0.1:5000")
    return text
