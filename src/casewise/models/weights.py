"""A network's first weights: from a file, a bundle or the library's download, in this order; never silently random."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from casewise.cohort.identity import REFUSE, Declared, same_subjects, spelling_pairs
from casewise.errors import CasewiseError, RunError, SplitError, WeightsError, counted
from casewise.modalities.base import Facts
from casewise.models.backbones import Network
from casewise.run_folder import BundleFolder, JobFolder, WeightsFile
from casewise.study.sources import source_of
from casewise.study.weight_files import FirstWeights, environment_folder, file_name

# The formats of the facts of a trained network that are read; frozen encoders have files of their own in the second.
FORMATS = (1, 2)
PATIENCE = 20.0
WAYS = (
    "Ways to get them: (1) put {file}.safetensors (of a hub repository also its config.json, as {file}.json) into a "
    "folder, and name it by `weights_dir`, --weights-dir or CASEWISE_WEIGHTS; (2) run once with a connection, which "
    "keeps the download, or copy the cache of a machine that has it (TORCH_HOME, HF_HOME); (3) for a network state "
    "`weights: FILE`, `weights: bundle:PATH`, a network trained by casewise, or `weights: random`; for an encoder "
    "state another one, such as `encoders: [resnet18]`."
)
NO_WEIGHTS = "random: this network has no published weights"


def load_weights(
    network: Network,
    weights: str,
    *,
    folder: Path | None = None,
    held_out: Sequence[str] = (),
    names: Declared = REFUSE,
    channels: Sequence[str] | None = None,
) -> tuple[str, list[str]]:
    """Fill `network` with its first weights; return one sentence on their origin, and the subjects behind them.

    Order: `random` as stated by the study; an explicit file; `bundle:PATH` (a trained casewise network); for
    `pretrained`, `<name>.safetensors` in `folder` or in CASEWISE_WEIGHTS, then the library's own download. A network
    of casewise has no published weights. With `pretrained`, or a folder without a file for it, it keeps its random
    weights, and the sentence says why, so that one study may compare it with pretrained networks.

    A fused network takes the same files: late, every body the same weights; early, the first
    layer is adapted to the sequences; a transformer for another size of panel has its positions interpolated. The
    sentence says so.

    Args:
        held_out: subjects that a bundle must not have been trained on, nor stopped by.
        names: the study's statements on names that look alike.
        channels: the names of the sequences that the network takes, in order; a fused bundle must have the same.

    Raises:
        WeightsError: nothing was found (every way is named), the file belongs to another network, or a bundle was
            trained for comparison only.
        SplitError: a bundle was trained on a held-out subject.
    """
    first = FirstWeights(network.name, weights, folder)
    if first.bundle:
        check_bundle_subjects(weights, held_out, names)
        return _from_bundle(network, first.bundle.path, channels)
    if file := first.existing_file():
        return f"file {file}" + _fill(network, read_tensors(file), str(file)), []
    if first.is_random:
        return "random, as the study states" if weights == "random" else NO_WEIGHTS, []
    with download_of(first):
        origin, tensors = first.source.download(network.name)
    return origin + _fill(network, tensors, origin), []


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a PyTorch file that contains only tensors.

    Raises:
        WeightsError: the file is neither.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise WeightsError(f"weights: {path} cannot be read as network weights: {_first_line(error)}.") from error
    except Exception as error:  # torch raises pickle.UnpicklingError, which is not a public type of torch
        raise WeightsError(
            f"weights: {path} holds more than tensors and is not opened: {_first_line(error)}."
        ) from error
    return {k: v for k, v in loaded.items() if isinstance(v, Tensor)}


def _fill(network: Network, tensors: dict[str, Tensor], source: str) -> str:
    """Load library weights into each body; return clauses on adaptations, each after a semicolon.

    Only the library's last layer may be unused. Weights of a fused network of casewise are loaded unchanged.
    """
    if network.fusion and any(key.startswith("bodies.") for key in tensors):
        _put(network.body, tensors, (), f"{source} does not belong to {network.name}, {network.fusion}")
        return ""
    fitting, changes = _fitted(network, network.bodies[0], tensors)
    for body in network.bodies:
        _put(body, fitting, network.library_head, f"{source} does not belong to {network.name}")
    if len(network.bodies) > 1:
        changes.append(f"the same weights in each of {len(network.bodies)} bodies")
    return "".join(f"; {change}" for change in changes)


def _fitted(network: Network, body: torch.nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A library's weights adapted to a body for sequences or for another panel size, and clauses on the adaptations."""
    tensors, change = source_of(network.name).fitted(body, tensors)
    changes = [change] if change else []
    if network.fusion:
        tensors, change = cast(Any, network.body).fitted(network.name, tensors)
        changes += [change] if change else []
    return tensors, changes


def _put(body: torch.nn.Module, tensors: dict[str, Tensor], heads: tuple[str, ...], prefix: str) -> None:
    """Load tensors into a module, except the tensors of `heads`.

    Raises:
        WeightsError: beginning with `prefix`, if anything is missing, unknown, of another shape or not finite.
    """
    state = body.state_dict()
    missing = [k for k in state if k not in tensors and not k.endswith("num_batches_tracked")]
    surplus = [k for k in tensors if k not in state and not k.startswith(heads)]
    shaped = [k for k in state if k in tensors and tensors[k].shape != state[k].shape]
    if missing or surplus or shaped:
        first = next(iter([*shaped, *missing, *surplus]))
        in_file = "missing" if first in missing else "unknown"
        if shaped:
            in_file = f"{tuple(tensors[first].shape)} instead of {tuple(state[first].shape)}"
        counts = f"{len(missing)} tensors missing, {len(surplus)} unknown, {len(shaped)} of another shape"
        raise WeightsError(f"weights: {prefix}: {first} is {in_file} ({counts}).")
    check_finite({k: tensors[k] for k in state if k in tensors}, f"{prefix}: ", "Use another file.")
    body.load_state_dict({k: tensors.get(k, v) for k, v in state.items()})


def check_finite(tensors: Mapping[str, Tensor], prefix: str, remedy: str) -> None:
    """Check that weights are numbers.

    Raises:
        WeightsError: beginning with `prefix`, one is infinite or not a number.
    """
    if odd := next((name for name, values in tensors.items() if not _is_finite(values)), None):
        raise WeightsError(f"weights: {prefix}{odd} contains values that are not finite numbers. {remedy}")


def _is_finite(values: Tensor) -> bool:
    # NumPy needs neither threads nor several temporary copies, of which the check of a large model mostly consisted
    wide = values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64)
    return bool(np.isfinite((values.float() if wide else values).detach().cpu().numpy()).all())


def read_checked(file: WeightsFile, expected: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose bytes have the checksum that the facts in its folder state.

    The file is read once: what is checked is what is used.

    Raises:
        RunError: the weights are of another training, or the file cannot be read.
        WeightsError: it is not a safetensors file, or not all of its values are finite numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise RunError(
            f"{file.path} is not the file of the facts in its folder. Copy both files of one network, "
            "or train it again."
        )
    try:
        tensors = load(data)
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:  # also of types that torch does not have
        raise WeightsError(f"weights: {file.path} cannot be read as network weights: {_first_line(error)}.") from error
    check_finite(tensors, f"{file.path}: ", "Train the network again.")
    return tensors


def _check_scaling(network: Network, path: Path, facts: Facts) -> None:
    """Stop where a body was trained with another scaling of its input."""
    scaling = facts.get("scaling", network.scaling)
    if scaling != network.scaling and source_of(network.name).is_pretrained:
        raise WeightsError(
            f"weights: {path} was trained with the input scaling {scaling}, the study states {network.scaling}. Write "
            f"`recipe: {{scaling: {scaling}}}`, or take other weights."
        )
    if network.fusion is None and all(name in facts for name in ("mean", "std")):
        stated = [network.mean.flatten().tolist(), network.std.flatten().tolist()]
        if stated != [facts["mean"], facts["std"]]:
            raise WeightsError(
                f"weights: {path} was trained with another mean and standard deviation of its input than the installed "
                "library gives. Install the version that it was trained with, or take other weights."
            )


def bundle_subjects(weights: str) -> set[str]:
    """The subjects that shaped the network which `weights` names as `bundle:PATH`; empty for other weights.

    Raises:
        WeightsError: there is no such network, or its facts cannot be read.
    """
    if not weights.startswith("bundle:"):
        return set()
    facts = _bundle_facts(Path(weights.removeprefix("bundle:")))
    return {*facts["subjects"], *facts.get("earlier_subjects", ())}


def check_bundle_subjects(weights: str, held_out: Iterable[str], names: Declared = REFUSE) -> None:
    """Check that the network named as `bundle:PATH` was not trained on a subject that is held out.

    Raises:
        SplitError: by their names it was; the message shows the names.
        WeightsError: as `bundle_subjects`.
    """
    if shared := same_subjects(sorted(held_out), bundle_subjects(weights), names):
        raise SplitError(
            f"weights: by name, {weights.removeprefix('bundle:')} was trained on {counted(len(shared), 'subject')} "
            f"held out here, from training or for early stopping ({spelling_pairs(shared)}). Their figures would be "
            "too optimistic. Pretrain without them (`pretrain:` does so for every fold). If they are other people with "
            "the same names, state `bundle_subjects: distinct`."
        )


def _bundle_facts(path: Path) -> Facts:
    """The facts of a trained network whose body may initialise another network."""
    folder = JobFolder(path)
    if not (folder.weights.exists() and folder.facts.exists()):
        names = f"{folder.weights.path.name} and {folder.facts.path.name}"
        members = sorted(path.rglob(folder.weights.path.name)) if BundleFolder(path).exists() else []
        hint = f" It contains several networks. Name one, such as bundle:{members[0].parent}." if members else ""
        raise WeightsError(f"weights: {path} is not a trained casewise network ({names}).{hint}")
    values, file = folder.facts.read(), folder.facts.path
    if values.get("format") not in FORMATS:
        stated = repr(values.get("format"))
        raise WeightsError(f"weights: {file} has format {stated}, and this version of casewise reads {FORMATS}.")
    missing = [name for name in ("backbone", "subjects", "weights", "weights_sha256", "network") if name not in values]
    if missing or not isinstance(values["network"], dict):
        raise WeightsError(f"weights: {file} is damaged: {', '.join(missing) or 'network'} cannot be read.")
    if values.get("comparison_only"):
        raise WeightsError(
            f"weights: {path} was trained for comparison only, on images split as if each showed another person. Its "
            "training set contains people who are held out in its study. Take a network of the study itself, from the "
            "jobs folder of the run."
        )
    return values


def _from_bundle(network: Network, path: Path, channels: Sequence[str] | None) -> tuple[str, list[str]]:
    folder, values = JobFolder(path), _bundle_facts(path)
    sequences = (values.get("fitted") or {}).get("sequences")
    if sequences and channels is not None and list(channels) != sequences:
        raise WeightsError(
            f"weights: {path} was trained on the sequences {', '.join(sequences)}, and the network of this study takes "
            f"{', '.join(channels) or 'none'}. State the same sequences in the same order, or take other weights."
        )
    if values["backbone"] != network.name:
        raise WeightsError(f"weights: {path} holds a {values['backbone']}, the study needs {network.name}.")
    _check_scaling(network, path, values["network"])
    tensors = read_checked(folder.weights, values["weights_sha256"])
    body = {k.removeprefix("body."): v for k, v in tensors.items() if k.startswith("body.")}
    changed = _fill(network, body, str(path))
    return f"bundle {path}, itself from {values['weights']}{changed}", sorted(bundle_subjects(f"bundle:{path}"))


@contextmanager
def download_of(weights: FirstWeights) -> Iterator[None]:
    """Replace the error of a failed download by one that names the other ways to get the weights of a network.

    A silent connection, as behind a firewall, fails after `PATIENCE` seconds.

    Raises:
        WeightsError: the block failed for want of a connection or a file; the message ends with `WAYS`.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except (CasewiseError, TypeError, LookupError, AttributeError):
        raise  # a fault of the files or of the program, not of the download
    except Exception as error:  # each library, and each version of it, has errors of its own
        folders = [str(path) for path in (weights.folder, environment_folder()) if path]
        searched = ", ".join(folders) or "no folder (none given)"
        raise WeightsError(
            f"There are no pretrained weights for {weights.name}. Searched {searched} and the library's cache, then "
            f"tried its download, which failed ({_first_line(error)}). {WAYS.format(file=file_name(weights.name))}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: Exception) -> str:
    """The beginning of an error's message, for a sentence of another one."""
    return str(error).splitlines()[0][:160].rstrip(".") if str(error) else type(error).__name__
