"""The command that offers a trained model as a local page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casewise.cli.predict import Trust
from casewise.cli.run import Quiet


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle (folder or .zip), or a run folder.")],
    host: Annotated[str, typer.Option(help="The address to listen on; others than this computer need --token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            envvar="CASEWISE_SERVE_TOKEN", help="A secret that every request must send [or CASEWISE_SERVE_TOKEN]."
        ),
    ] = "",
    learner: Annotated[str, typer.Option(help="The learner that predicts; headline: the one of the report.")] = (
        "headline"
    ),
    max_size: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 512,
    max_files: Annotated[int, typer.Option(min=1, help="Images of one request.")] = 1000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Million pixels of one photograph.")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="Processes that predict, each with the model in memory.")] = 1,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; further ones get 503.")] = 8,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds until a prediction is stopped.")] = 300,
    trust: Trust = None,
    source_confirmed: Annotated[
        str,
        typer.Option(
            metavar="NAME, REASON",
            help="Who confirms that the model may be used for the source of the images, and why. Without it, "
            "probabilities, intervals and sets are withheld once recent images together are unlike the training.",
        ),
    ] = "",
    record: Annotated[
        Path | None,
        typer.Option(help="A file for the numbers of recent images, so that a restart does not begin again."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Offer a trained model as a page and a JSON interface on this computer."""
    from casewise.console import Silent, Terminal
    from casewise.errors import CasewiseError

    try:
        from casewise.plugins.serve.server import run_service
        from casewise.plugins.serve.settings import ServiceSettings
        from casewise.web.settings import MEBI
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette", "h11", "python_multipart"):
            raise
        raise CasewiseError(
            "`casewise serve` needs an optional part of casewise: `pip install 'casewise[serve]'`."
        ) from error
    settings = ServiceSettings(
        bundle,
        learner=learner,
        host=host,
        port=port,
        token=token,
        max_bytes=max_size * MEBI,
        max_files=max_files,
        max_pixels=max_pixels * 1_000_000,
        workers=workers,
        queue=queue,
        timeout=float(timeout),
        trust=trust,
        source_confirmed=source_confirmed,
        record=record,
    )
    run_service(settings, Silent() if quiet else Terminal())
