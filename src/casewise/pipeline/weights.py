"""The first weights of a study's networks and encoders, resolved before anything that takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.cohort.table import names_text
from casewise.errors import WeightsError
from casewise.study.learners import FEATURES, encoders_of
from casewise.study.weight_files import encoder_origin, needs_download, origin_of_weights

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def weights(study: Study, folder: RunFolder, show: Show) -> None:
    """Download the first weights that are not on this computer, so that a run without them stops before it prepares.

    A run that has trained networks already is continued without this check; its networks may all be finished.

    Raises:
        WeightsError: a file that the study names does not exist, or a download failed. The message names every network
            and encoder without weights, and the ways to provide them.
    """
    networks, encoders = missing_weights(study)
    if folder.jobs_folder.exists() or not networks + encoders:
        return
    from casewise.models.downloads import download_of
    from casewise.models.encoders import download_encoder
    from casewise.models.weights import WAYS, download_weights

    names = list(dict.fromkeys([*networks, *encoders]))
    show.line("weights", f"{names_text(names, 5)}: not on this computer, downloading")
    for done, name in enumerate(names):
        try:
            if name in encoders:
                download_encoder(name, study.weights_dir)
            else:
                with download_of(name, study.weights_dir, WAYS):
                    download_weights(name)
        except WeightsError as error:
            others = names[done + 1 :]
            also = f" {names_text(others, 5)} {'is' if len(others) == 1 else 'are'} missing as well." if others else ""
            raise WeightsError(f"{error}{also} Nothing was prepared or trained.") from error


def missing_weights(study: Study) -> tuple[list[str], list[str]]:
    """The networks and the encoders of the baseline on features whose published weights are not on this computer.

    Raises:
        WeightsError: a file that the study names does not exist, or one of two files of an encoder is missing.
    """
    names = list(dict.fromkeys(network.partition("@")[0] for network in study.networks))
    for name in names:
        origin_of_weights(name, study.weights_of(name), study.weights_dir)
    networks = [name for name in names if needs_download(name, study.weights_of(name), study.weights_dir)]
    encoders = encoders_of(study) if FEATURES in study.learners else []
    for name in encoders:
        encoder_origin(name, study.weights_dir)
    return networks, [name for name in encoders if needs_download(name, "pretrained", study.weights_dir)]
