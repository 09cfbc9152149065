"""Checkpoints from which a killed job resumes: one safetensors file, its structure as JSON in the header, no pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from casewise.errors import DamagedError, RunError
from casewise.files import write_atomic
from casewise.models.backbones import Network
from casewise.models.linear import FeatureBank, encoder_prefix
from casewise.run_folder import JobFolder, WeightsFile


def save_state(file: WeightsFile, state: Mapping[str, object]) -> None:
    """Write the state of a training, which keeps the state before it."""
    tensors: dict[str, torch.Tensor] = {}

    def set_aside(tensor: torch.Tensor) -> dict[str, str]:
        key = str(len(tensors))
        tensors[key] = tensor.clone()
        return {"tensor": key}

    structure = json.dumps(state, default=set_aside)
    write_tensors(file, tensors, {"structure": structure})


def load_state(path: Path) -> Any:
    """The state that `save_state` wrote; tuples are lists, and keys are texts.

    Raises:
        DamagedError: the file holds no state.
    """
    try:
        with safe_open(str(WeightsFile(path).verified()), framework="pt", device="cpu") as file:

            def restored(value: dict[str, str]) -> object:
                return file.get_tensor(value["tensor"]) if value.keys() == {"tensor"} else value

            state = json.loads(file.metadata()["structure"], object_hook=restored)
            if not isinstance(state, dict):
                raise ValueError("it holds no state")
            return state
    except (SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise DamagedError(f"{path} is not a state of the training ({error}). Delete it and run again.") from error


def write_network(folder: JobFolder, network: Network) -> list[str]:
    """Write the weights of a network; frozen encoders have files of their own, which models of the run share.

    Returns:
        The checksums of the encoders, in their order.

    Raises:
        RunError: as `write_tensors`.
    """
    state, checksums = network.state_dict(), list[str]()
    encoders = network.body.encoders if isinstance(network.body, FeatureBank) else ()
    for number, _ in enumerate(encoders):
        prefix = encoder_prefix(number)
        own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
        content = save({name: value.detach().cpu().contiguous() for name, value in own.items()}, {"format": "pt"})
        checksums.append(hashlib.sha256(content).hexdigest())
        file = folder.encoder(checksums[-1])
        if not (file.exists() and file.matches(checksums[-1:])):
            write_atomic(file.path, content)
    write_tensors(folder.weights, state)
    return checksums


def write_tensors(file: WeightsFile, tensors: Mapping[str, torch.Tensor], facts: dict[str, str] | None = None) -> None:
    """Write a safetensors file in one step, with its checksum.

    Raises:
        RunError: the disk is full or the folder cannot be written; the previous file is kept.
    """
    with file.replacing() as temporary:
        try:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, temporary, metadata=facts or {"format": "pt"})
        except Exception as error:  # safetensors reports a full disk with its own type of error
            raise RunError(
                f"{file.path} could not be written: {error}. Make room or repair the folder, then run again; finished "
                "networks are kept."
            ) from error
