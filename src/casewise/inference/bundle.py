"""A trained network with everything needed to use it elsewhere: weights as tensors, facts as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from casewise.errors import LINE, RunError, cut, shortened
from casewise.modalities.registry import modality_of
from casewise.models.build_model import backbone_of, network_from
from casewise.models.linear import encoder_prefix
from casewise.models.outputs import Output, raw_columns, width_of
from casewise.models.weights import FORMATS, read_checked
from casewise.plugin import modality_sections, register_additions
from casewise.run_folder import BundleFolder, JobFolder
from casewise.run_folder.job_folder import ENCODERS
from casewise.study.loading import saved_study
from casewise.study.schema import BUNDLE, settings_marked
from casewise.targets import kind_names

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.models.shared_parts import SharedParts
    from casewise.study.schema import Study

# Fields of a bundle that the file of facts holds as they are.
AS_WRITTEN = ("model", "network", "outputs", "settings", "fitted", "batch_size")


@dataclass(frozen=True)
class ComputeFacts:
    """The computation of a network in training and, except for the precision, in prediction."""

    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = True
    threads: int = 1


@dataclass(frozen=True)
class Bundle:
    """The facts of one trained network, and the folder with its weights.

    Attributes:
        model: the network's name in its study: its backbone, with `@` and a fusion where a study has several.
        fold: the fold that was held out, from 0; the number of folds if none was.
        network: the arguments of `casewise.models.backbones.build_network`, `name` and `outputs` among them.
        outputs: one record a target: name, kind, classes, whether it is the primary one, its range and level, and
            the mean and standard deviation of its training labels, a number for each raw output.
        settings: the study's settings that are marked with `BUNDLE`, and its modality's.
        fitted: the values that preprocessing derived from the training cases, as JSON.
        compute: precision, memory format, device and threads of the training.
        batch_size: panels in a training batch, by which prediction batches are sized.
        subjects: everybody who shaped the network, by training or by early stopping.
        stop_subjects: the `subjects` who only decided when to stop.
        origin: what else is recorded: the first weights as a clause, and their `origins`
            (`casewise.study.weight_origins`), the split's hash, whether the cohort is synthetic, and
            `comparison_only` where the network belongs to a comparison by image, and the SHA-256 of the weights;
            `earlier_subjects` are other people, behind the first weights, who may have the names of `subjects`;
            `final`, that it was trained on all folds.
        distance: the scale of the distance from the training features, with the checksum of its file; None if
            the features do not vary.
    """

    folder: Path
    model: str
    fold: int
    network: dict[str, Any]
    outputs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    fitted: dict[str, Any]
    compute: ComputeFacts
    batch_size: int
    subjects: frozenset[str]
    stop_subjects: frozenset[str]
    origin: dict[str, Any]
    distance: Mapping[str, Any] | None = None

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read the facts of the network in `folder`.

        Raises:
            RunError: a file is missing or damaged, or of another format.
        """
        register_additions()
        files = JobFolder(Path(folder))
        if not (files.facts.exists() and files.weights.exists()):
            lacking = files.weights if files.facts.exists() else files.facts
            raise RunError(f"{folder} contains no trained network: {lacking.path.name} is missing.")
        facts = files.facts.read()
        if facts.get("format") not in FORMATS:
            raise RunError(
                f"{files.facts.path} has format {facts.get('format')!r}, and this version of casewise reads {FORMATS}. "
                "Use the version that wrote it, or train again."
            )
        try:
            _check_types(facts)
            origin = ("comparison_only", "earlier_subjects", "final", "origins")
            return cls(
                files.path,
                fold=facts["fold"] - 1,
                compute=ComputeFacts(**facts["compute"]),
                subjects=frozenset(facts["subjects"]),
                stop_subjects=frozenset(facts["stop_subjects"]),
                origin={name: facts[name] for name in ("weights", "split", "synthetic", "weights_sha256")}
                | {name: facts[name] for name in origin if name in facts},
                distance=facts["distance"],
                **{name: facts[name] for name in AS_WRITTEN},
            )
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(f"{files.facts.path} is damaged ({error!r}). Train the network again.") from error

    @property
    def shares_features(self) -> bool:
        """Whether it reads features that do not change, which others may read too, and averages no mirrored panels."""
        return "bank" in self.network and not self.settings["test_time_augmentation"]

    @property
    def encoders(self) -> list[str]:
        """The checksums of the frozen encoders that have files of their own, in their order."""
        bank = self.network.get("bank") or {"encoders": []}
        return [facts["sha256"] for facts in bank["encoders"] if "sha256" in facts]

    @property
    def output_records(self) -> tuple[Output, ...]:
        """The targets of the network's raw outputs, in order."""
        return _records(self.outputs)

    def study(self, table: Path, root: Path | None = None) -> Study:
        """The study that reads and prepares the cases of another table exactly like the training cases.

        Raises:
            RunError: the settings are not of this version, or of a modality that is not registered.
        """
        values = {
            **self.settings,
            "name": "new cases",
            "cohort": Path(table),
            "root": root,
            "backbones": [backbone_of(self.network)],
            "weights": "random",
            "evaluation": {"response": False},
        }
        return saved_study(values, source=str(JobFolder(self.folder).facts.path))

    def load(self, *, parts: SharedParts | None = None, own: bool = True) -> Network:
        """The network with its trained weights, in evaluation mode, on the CPU; their file is read once.

        Args:
            parts: builds the network from what it has in common with those that were loaded before.
            own: see `SharedParts.network`.

        Raises:
            RunError: the weights do not belong to the facts, or do not fit them.
            WeightsError: the file of weights cannot be read.
        """
        weights = JobFolder(self.folder).weights
        tensors = read_checked(weights, self.origin["weights_sha256"])
        for number, sha256 in enumerate(self.encoders):
            of_encoder = parts.kept(sha256) if parts else None
            if of_encoder is None:
                of_encoder = read_checked(JobFolder(self.folder).encoder(sha256), sha256)
            tensors |= {f"{encoder_prefix(number)}{key}": value for key, value in of_encoder.items()}
        try:
            network = parts.network(self.network, tensors, own=own) if parts else network_from(self.network)
        except Exception as error:  # whatever a library says to arguments of a stranger
            raise RunError(
                f"{JobFolder(self.folder).facts.path}: the field network does not describe one that can be built "
                f"({shortened(str(error), LINE)}). Copy the bundle again, or train again."
            ) from error
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"{weights.path} does not fit the network that the facts in the same folder describe "
                f"({str(error).splitlines()[-1].strip()}). Use the version of casewise that wrote it, or train again."
            ) from None
        return network.eval()


def check_composition(folder: BundleFolder, about: Mapping[str, Any], members: Sequence[Bundle], path: Path) -> None:
    """Check that a verified bundle has the networks that `bundle.json` and `provenance.json` state, and no others.

    Args:
        about: the content of `bundle.json`.
        members: of its entries, in their order.
        path: the folder or the zip file, for messages.

    Raises:
        RunError: naming the network, what it states and what the bundle states.
        LookupError, TypeError, ValueError, AttributeError: a statement is missing or has another form.
    """
    listed = folder.manifest()["files"]
    provenance = folder.provenance.read()
    recorded = {(entry["learner"], entry["fold"]): entry for entry in provenance["networks"]}
    entries = {(entry["learner"], entry["fold"]): entry for entry in about["members"]}
    names = list(dict.fromkeys(learner for learner, _ in entries))
    folds = [None] if about["final"] == "refit" else list(range(1, about["folds"] + 1))
    whole = {(learner, fold) for learner in names for fold in folds}
    if len(entries) < len(about["members"]) or set(entries) != whole or set(recorded) != whole:
        raise RunError(
            f"{path}: the members are not each learner once for each of {len(folds)} folds, as "
            f"{folder.facts.path.name} and {folder.provenance.path.name} state. {folder.facts.remedy}"
        )
    first, used = {member.model: member for member in reversed(members)}, set[str]()
    for (learner, fold), member in zip(entries, members, strict=True):
        job = JobFolder(member.folder)
        weights = job.weights.path.relative_to(folder.path).as_posix()
        network, same = member.network, first.get(learner, member)
        pairs = {
            "learner": (member.model, learner),
            "fold": (None if member.origin.get("final") else member.fold + 1, fold),
            "outputs": (shared_outputs(member.outputs), about["outputs"]),
            "synthetic": (member.origin["synthetic"], about["synthetic"]),
            **_settings_pairs(member.settings, about["settings"], whole=False),
            **_settings_pairs(member.settings, same.settings, whole=True),
            "network": [[each.network.get(key) for key in ("name", "outputs", "side")] for each in (member, same)],
            "backbone": (network["name"], entries[learner, fold].get("backbone", network["name"])),
            "split": (member.origin["split"], provenance["split"]),
            "weights": (member.origin["weights_sha256"], recorded[learner, fold]["weights_sha256"]),
            weights: (member.origin["weights_sha256"], listed.get(weights, {}).get("sha256")),
        }
        encoders = {
            job.encoder(own).path.relative_to(folder.path.absolute()).as_posix(): own for own in member.encoders
        }
        pairs |= {name: (own, listed.get(name, {}).get("sha256")) for name, own in encoders.items()}
        used |= set(encoders)
        if wrong := next((name for name, (stated, expected) in pairs.items() if stated != expected), None):
            stated, expected = pairs[wrong]
            raise RunError(
                f"{path}: {job.facts.path.relative_to(folder.path)} does not belong to this "
                f"bundle: it states {wrong} {cut(stated)}, and the bundle "
                f"({folder.facts.path.name}, {folder.provenance.path.name}) states {cut(expected)} for {learner}, "
                f"{'all folds' if fold is None else f'fold {fold}'} ({weights}). {folder.facts.remedy}"
            )
    of_networks = [path for name in ("members", ENCODERS) for path in (folder.path / name).rglob("*")]
    on_disk = (path for path in of_networks if path.is_symlink() or path.is_file())
    files = {path.relative_to(folder.path).as_posix() for path in on_disk if not path.name.startswith(".")}
    own = {f"{member.folder.relative_to(folder.path).as_posix()}/" for member in members}
    if extra := min(
        (name for name in files - used if name not in listed or f"{name.rpartition('/')[0]}/" not in own), default=""
    ):
        raise RunError(f"{path} has a file of no network that {folder.facts.path.name} states: {cut(extra)}.")


def _settings_pairs(settings: Mapping[str, Any], expected: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """Each setting with the expected one; not `whole`: without those in which learners of one study differ."""
    names = [name for name in {**settings, **expected} if whole or name not in ("panels", "test_time_augmentation")]
    pairs: dict[str, list[Any]] = {name: [each.get(name) for each in (settings, expected)] for name in names}
    if not whole:
        pairs |= {
            name: [{key: value for key, value in each.items() if key != "fusion"} for each in pair]
            for name, pair in pairs.items()
            if all(isinstance(each, dict) for each in pair)
        }
    return {f"settings.{name}{' of its folds' * whole}": pair for name, pair in pairs.items()}


def with_encoders(bundle: Bundle, checksums: Sequence[str]) -> Bundle:
    """The facts of a model on fixed features with the checksums of its encoders' weights."""
    if not checksums:
        return bundle
    bank = bundle.network["bank"]
    encoders = [{**facts, "sha256": own} for facts, own in zip(bank["encoders"], checksums, strict=True)]
    return replace(bundle, network={**bundle.network, "bank": {**bank, "encoders": encoders}})


def shared_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records of targets as all networks of a study have them, without the statistics of their training labels."""
    return [{key: value for key, value in output.items() if key[:7] != "target_"} for output in outputs]


def _records(outputs: Iterable[Mapping[str, Any]]) -> tuple[Output, ...]:
    return tuple(Output(o["name"], o["kind"], len(o["classes"]), o["main"]) for o in outputs)


# The types of facts that everything that reads a network uses, and of each record of its outputs.
_FACTS = {"model": str, "fold": int, "network": dict, "outputs": list, "settings": dict, "fitted": dict}
_FACTS |= {"compute": dict, "batch_size": int, "subjects": list, "weights_sha256": str}
_OUTPUT = {"name": str, "kind": str, "classes": list, "main": bool}


def _check_types(facts: Mapping[str, Any]) -> None:
    """Check the facts of a network for what could not have been written by casewise.

    Raises:
        ValueError: a fact has another type.
    """
    records: list[tuple[Any, dict[str, type]]] = [
        (facts, _FACTS),
        (facts["network"], {"name": str, "outputs": int}),
        (facts["compute"], {"device": str}),
        (facts["settings"], {"columns": dict, "targets": dict, "scores": dict, "test_time_augmentation": bool}),
    ]
    records += [(output, _OUTPUT) for output in facts["outputs"]]
    for record, types in records:
        for key, kind in types.items():
            if not isinstance(record, dict) or not isinstance(record.get(key), kind):
                raise ValueError(f"{key} is not {kind.__name__}")
    if not isinstance(facts.get("distance"), (dict, NoneType)):
        raise ValueError("distance is neither an object nor null")
    if unknown := next((o["kind"] for o in facts["outputs"] if o["kind"] not in kind_names()), None):
        raise RunError(
            f"The network predicts a target of the kind {cut(unknown)}, which no package here adds. Install the one "
            "that does; if the file is damaged, train the network again."
        )
    names = [*facts["subjects"], *(name for output in facts["outputs"] for name in output["classes"])]
    if not facts["outputs"] or not all(isinstance(name, str) for name in names):
        raise ValueError("there are no outputs, or a name is not text")
    if (stated := facts["network"]["outputs"]) != (width := width_of(_records(facts["outputs"]))):
        raise ValueError(f"network.outputs is {stated}, and outputs describe {width}")


def settings_of(study: Study, model: str) -> dict[str, Any]:
    """The settings in a bundle of `model`, as JSON, without paths of the study's machine."""
    own = {study.modality_name, *modality_sections().values()} & set(type(study).model_fields)
    settings = study.model_dump(mode="json", include=own.union(settings_marked(study, BUNDLE)))
    settings |= modality_of(study).facts(study, model)
    settings["images"]["store"] = None
    settings["panels"] = study.panels.of_bundle
    return settings


def output_facts(study: Study, outputs: Sequence[Output], network: Network) -> list[Mapping[str, Any]]:
    """One record for each target that a network predicts, with the mean and deviation of its training labels."""
    return [
        {
            "name": output.name,
            "kind": output.kind,
            "classes": study.classes_of(output.name),
            "main": output.main,
            "positive": study.positive_of(output.name),
            "range": list(study.range_of(output.name)),
            "level": study.level_of(output.name),
            "target_mean": network.target_mean[columns].tolist(),
            "target_std": network.target_std[columns].tolist(),
        }
        for output, columns in zip(outputs, raw_columns(outputs), strict=True)
    ]


def as_json(bundle: Bundle) -> Mapping[str, Any]:
    """The content of the file of facts."""
    return {
        "format": FORMATS[bool(bundle.encoders)],
        "fold": bundle.fold + 1,
        "backbone": bundle.network["name"],
        **{name: getattr(bundle, name) for name in AS_WRITTEN},
        "compute": asdict(bundle.compute),
        "subjects": sorted(bundle.subjects),
        "stop_subjects": sorted(bundle.stop_subjects),
        "distance": bundle.distance,
        **bundle.origin,
    }
