"""The key `track` of a study file: the trackers that a study may name."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from casewise.errors import cut, nearest
from casewise.study.messages import PRIVATE
from casewise.study.model import StudyModel

# The trackers, by the names of the packages that they need.
PACKAGES = ("tensorboard", "mlflow")


def _tracker_names(value: object) -> object:
    """One tracker as a list; anything else is left to the type check.

    >>> _tracker_names("mlflow")
    ['mlflow']
    """
    return [value] if isinstance(value, str) else value


def _check_tracker(text: str) -> str:
    """Return a tracker: its name, for MLflow perhaps with the address of its server or store.

    >>> _check_tracker("mlflow:http://127.0.0.1:5000")
    'mlflow:http://127.0.0.1:5000'
    """
    name, _, address = text.partition(":")
    if name not in PACKAGES:
        raise _refusal(f"{cut(name)} is not a tracker; there are {', '.join(PACKAGES)}.{nearest(name, PACKAGES)}")
    if not address:
        return name
    if name != "mlflow":
        raise _refusal(f"{name} has no address; its files are in the run folder")
    try:
        parts = urlsplit(address)
        named = bool(parts.scheme and (parts.netloc or parts.path.startswith("/")))
        query = parts.scheme in ("http", "https") and bool(parts.query or parts.fragment)
        query = query or "password" in parts.query.lower()
    except ValueError:
        named = query = False
    if _without_user(address) != address:
        raise _refusal(
            "the address of mlflow has a user name or password, which the report would show; leave them out and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if query:
        raise _refusal(
            "the address of mlflow goes on after ? or #, where it may have a token or password, which the report would "
            "show; leave that out and set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_URI for the whole address"
        )
    if not named:
        raise _refusal("what follows mlflow: is not an address; write one such as mlflow:http://127.0.0.1:5000")
    return text


class TrackingKeys(StudyModel):
    """The key `track`."""

    track: Annotated[list[Annotated[str, AfterValidator(_check_tracker)]], BeforeValidator(_tracker_names)] = Field(
        [],
        description="Where else losses and metrics are sent: `tensorboard` (files in the run folder), `mlflow`, or "
        "`mlflow:ADDRESS`, such as `mlflow:http://127.0.0.1:5000`: [Follow a training](howto-track.md). Results do not "
        "depend on it. Needs `pip install 'casewise[track]'`.",
    )


def _refusal(message: str) -> ValueError:
    """An error whose value is not repeated in messages: it may have a password."""
    return PydanticCustomError(PRIVATE, message)  # type: ignore[arg-type]


def _without_user(text: str) -> str:
    """A text whose addresses have no user name or password.

    >>> _without_user("https://me:word@server/mlflow")
    'https://server/mlflow'
    """
    return re.sub(r":(//)?[^\s/]\S*@", r":\1", text)


def without_secrets(text: str) -> str:
    """A text whose addresses have no user name, password, query or fragment, as it may be shown.

    >>> without_secrets("http://me:word@127.0.0.1:5000?token=x did not answer")
    'http://127.0.0.1:5000 did not answer'
    """
    return re.sub(r"(/[^\s?#]*)[?#]\S*", r"\1", _without_user(text))
