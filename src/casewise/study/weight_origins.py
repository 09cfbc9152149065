"""Origins of first weights: what is known of the images behind them, as a record and as a sentence.

A file is published if a source of backbones knows its hash: the digits that torchvision writes into its file names, or
a hash over tensors, which is the same for every copy in safetensors. Every other file may have been trained on anybody.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from casewise.errors import WeightsError, listed
from casewise.files import checksum
from casewise.run_folder import JobFolder
from casewise.study.learners import first_weights
from casewise.study.sources import Kind, Origin, sources
from casewise.study.weight_files import FirstWeights

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def origins_of(study: Study, model: str) -> list[Origin]:
    """The origins of the first weights of a learner: one for each network, and one for each bundle's own weights.

    Raises:
        WeightsError: a file of a library's cache is not the file that the library downloads.
        RunError: the facts of a bundle cannot be read.
    """
    weights = first_weights(study, [model])
    return list(dict.fromkeys(origin for first in weights for origin in origins_of_weights(first)))


def origins_of_weights(weights: FirstWeights) -> list[Origin]:
    """The origin of the first weights of one network, and of the first weights of a bundle."""
    if weights.bundle:
        return _of_bundle(weights.bundle)
    if weights.file and weights.is_here:
        status = weights.file.stat()
        return [_of_file(weights.file, status.st_size, status.st_mtime_ns)]
    known = weights.stated != "random" and weights.source.is_pretrained
    return [weights.source.origin(weights.name) if known else Origin("random")]


def recorded_origins(record: Mapping[str, Any]) -> list[Origin]:
    """The origins that the record of a job or the facts of a network state; records of casewise 1.0 have a clause only.

    >>> [origin.kind for origin in recorded_origins({"weights": "random, as the study states"})]
    ['random']
    >>> recorded_origins({"weights": "file /data/resnet18.safetensors"})[0].kind
    'unrecorded'
    """
    if isinstance(stated := record.get("origins"), list):
        return [_of_record(origin) for origin in stated]
    clause = str(record.get("weights", ""))
    if clause.startswith("none"):
        return []
    if clause.startswith("random"):
        return [Origin("random")]
    if clause.startswith("torchvision ") and ";" not in clause:
        return [Origin("published", clause, images="ImageNet")]
    return [Origin("unrecorded")]


def _of_record(record: Any) -> Origin:
    try:
        origin = Origin(**record)
    except TypeError:
        return Origin("unrecorded")
    texts = all(isinstance(value, str) for value in (origin.name, origin.sha256, origin.images, origin.licence))
    sound = texts and origin.kind in get_args(Kind) and isinstance(origin.fingerprints, bool)
    return origin if sound else Origin("unrecorded")


def run_origins(files: RunFolder, study: Study) -> list[Origin]:
    """The origins of the first weights of all learners of a run, as its jobs recorded them."""
    records = files.job_records(study.learners)
    return list(dict.fromkeys(origin for record in records for origin in recorded_origins(record)))


def as_records(origins: Iterable[Origin]) -> list[dict[str, Any]]:
    """The origins as JSON, as `recorded_origins` reads them."""
    return [asdict(origin) for origin in origins]


def origins_sentence(origins: Iterable[Origin], unit: str) -> str:
    """One sentence on all first weights of a study, which is true for each of them; empty if there are none.

    >>> origins_sentence([Origin("random"), Origin("file", "a.pth")], "subject")
    'First weights: random; a.pth, a file of unknown origin, which may have been trained on these subjects.'
    >>> origins_sentence([Origin("published", "resnet18", images="ImageNet", licence="mit")], "subject")
    'First weights: published, trained on ImageNet (resnet18 under mit).'
    >>> two = [Origin("published", name, images="ImageNet", licence="mit") for name in ("vgg11", "vgg13")]
    >>> origins_sentence(two, "subject")
    'First weights: published, trained on ImageNet (vgg11 and vgg13 under mit).'
    """
    clauses: dict[str, dict[str, list[str]]] = {}
    for origin in sorted(set(origins), key=lambda each: (not each.is_apart, each.kind, each.name)):
        names = clauses.setdefault(_clause(origin, unit), {}).setdefault(origin.licence, [])
        names += [origin.name] * (origin.name not in names)
    texts = []
    for clause, by_licence in clauses.items():
        licensed = (listed(names) + f" under {licence}" * bool(licence) for licence, names in by_licence.items())
        texts.append(clause.format(names="; ".join(licensed)))
    return f"First weights: {'; '.join(texts)}." if texts else ""


def _clause(origin: Origin, unit: str) -> str:
    may_include = f"which may have been trained on these {unit}s"
    if origin.kind == "published" and origin.images:
        return f"published, trained on {origin.images} ({{names}})"
    if origin.kind == "bundle" and origin.fingerprints:
        return "bundle {names}, compared by subject names and image fingerprints"
    return {
        "random": "random",
        "published": f"published ({{names}}), whose training images are not known and may include these {unit}s",
        "bundle": "bundle {names} without fingerprints, compared by subject names only",
        "file": f"{{names}}, a file of unknown origin, {may_include}",
        "unrecorded": f"of an origin that was not recorded, {may_include}",
    }[origin.kind]


def _of_bundle(folder: JobFolder) -> list[Origin]:
    """The origin of a network of casewise, and of its own first weights."""
    facts = folder.facts.read()
    name, compared = f"{folder.path.parent.name}/{folder.path.name}", folder.fingerprints.exists()
    own = Origin("bundle", name, str(facts.get("weights_sha256", "")), fingerprints=compared)
    # the fingerprints of earlier bundles are in the same file
    earlier = [replace(origin, fingerprints=origin.fingerprints and compared) for origin in recorded_origins(facts)]
    return [own, *earlier]


@lru_cache(maxsize=256)
def _of_file(file: Path, size: int, changed: int) -> Origin:
    """The origin of a file of weights by its content; `size` and `changed` are a part of what is remembered."""
    digest = tensors_sha256(file) if file.suffix == ".safetensors" else checksum(file)
    recognised = (source.recognised(file, digest) for source in sources())
    return next((origin for origin in recognised if origin), Origin("file", file.name, digest))


def tensors_sha256(file: Path) -> str:
    """The SHA-256 over names, types, shapes and values of the tensors of a safetensors file, in the order of names.

    Raises:
        WeightsError: the file is damaged.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            tensors = json.loads(stream.read(size))
            tensors.pop("__metadata__", None)
            for name in sorted(tensors):
                entry = tensors[name]
                digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                begin, end = entry["data_offsets"]
                stream.seek(8 + size + begin)
                digest.update(stream.read(end - begin))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights: {file} cannot be read as network weights: {error}.") from error
    return digest.hexdigest()


def unknown_origin(origins: Iterable[Origin]) -> bool:
    """Whether the images behind first weights may include cases of the study, as far as casewise knows."""
    return not all(origin.is_apart for origin in origins)
