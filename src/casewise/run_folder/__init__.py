"""The run folder: the one owner of its file names, and of how its files are written, checked and read."""

from casewise.run_folder.artefact import Artefact, JsonFile, TableFile, TextFile, WeightsFile
from casewise.run_folder.bundle_folder import BundleFolder
from casewise.run_folder.folder import ExplanationFolder, ImageFolder, RunFolder
from casewise.run_folder.job_folder import JobFolder, PretrainingFolder, TrainingFolder

__all__ = ["Artefact", "BundleFolder", "ExplanationFolder", "ImageFolder", "JobFolder", "JsonFile", "PretrainingFolder"]
__all__ += ["RunFolder", "TableFile", "TextFile", "TrainingFolder", "WeightsFile"]
