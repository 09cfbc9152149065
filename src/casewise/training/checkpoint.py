"""Checkpoints from which a killed job resumes: one safetensors file, its structure as JSON in the header, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from casewise.errors import DamagedError, RunError, cut
from casewise.files import parsed_json
from casewise.run_folder import WeightsFile


def save_state(file: WeightsFile, state: dict[str, Any]) -> None:
    """Write the state of a training, which keeps the state before it."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_flattened(state, tensors))
    write_tensors(file, tensors, {"structure": structure})


def load_state(path: Path) -> dict[str, Any]:
    """The state that `save_state` wrote.

    Raises:
        DamagedError: the file holds no state.
    """
    try:
        with safe_open(str(WeightsFile(path).verified()), framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            state = _restored(parsed_json(file.metadata()["structure"]), tensors)
            if not isinstance(state, dict):
                raise ValueError("it holds no state")
            return state
    except (SafetensorError, ValueError, TypeError, LookupError, StopIteration, RecursionError) as error:
        raise DamagedError(f"{path} is not a state of the training ({error}). Delete it and run again.") from error


def write_tensors(file: WeightsFile, tensors: dict[str, torch.Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file in one step, with its checksum.

    Raises:
        RunError: the disk is full or the folder cannot be written; the previous file is kept.
    """
    with file.replacing() as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=facts)
        except Exception as error:  # safetensors reports a full disk with its own type of error
            raise RunError(
                f"{file.path} could not be written: {error}. Make room or repair the folder, then run again; finished "
                "networks are kept."
            ) from error


def _flattened(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Turn nested state into JSON: tensors are set aside by number, mappings become pairs (keys may be integers)."""
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = value.clone()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"pairs": [[_flattened(k, tensors), _flattened(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {
            type(value).__name__ if type(value) in (list, tuple) else "list": [_flattened(v, tensors) for v in value]
        }
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    return {"text": str(value)}


def _restored(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    kind, inner = next(iter(value.items()))
    if kind == "tensor":
        return tensors[inner]
    if kind == "pairs":
        return {_restored(k, tensors): _restored(v, tensors) for k, v in inner}
    if kind == "float":
        return float.fromhex(inner)
    if kind in ("list", "tuple"):
        items = [_restored(v, tensors) for v in inner]
        return tuple(items) if kind == "tuple" else items
    if kind == "text":
        return inner
    raise ValueError(f"{cut(kind)} is no kind of value")
