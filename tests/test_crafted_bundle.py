"""A bundle that a stranger made by hand, with right checksums: refused by file and field, and nothing is contacted."""

import hashlib
import json
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from casewise.errors import CasewiseError, RunError, StudyError
from casewise.files import checksum, json_text
from casewise.inference.model import load_bundle
from casewise.inference.predictor import Predictor
from casewise.models.backbones import build_network
from casewise.models.build_model import network_from
from casewise.run_folder import BundleFolder
from casewise.run_folder.artefact import CHECKSUMS, JsonFile
from casewise.run_folder.bundle_folder import stated_facts, write_archive
from tests.fuzz import samples
from tests.test_cli import casewise

MEMBER = "members/test_resnet/fold1"
FACTS, WEIGHTS = f"{MEMBER}/model.json", f"{MEMBER}/model.safetensors"
STACKER = {"weights": {"test_resnet": 1.0}, "intercept": 0.0, "low": 0.0, "high": 4.0}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_bundle(tmp_path_factory.mktemp("good"))[0]


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> BundleFolder:
    return BundleFolder(Path(shutil.copytree(good, tmp_path / "bundle")))


@pytest.fixture(autouse=True)
def unconnected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test contacts an address."""
    contacted: list[Any] = []

    def refused(self: socket.socket, address: Any) -> None:
        contacted.append(address)
        raise OSError("no connections in this test")

    monkeypatch.setattr(socket.socket, "connect", refused)
    look_up = socket.getaddrinfo

    def only_here(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up(host, *arguments, **options) if host == "127.0.0.1" else refused(socket.socket(), host)

    monkeypatch.setattr(socket, "getaddrinfo", only_here)
    yield
    assert contacted == []


def sealed(bundle: BundleFolder) -> Path:
    bundle.manifest_path.unlink()
    bundle.write_manifest("1.0", "inputs")
    return bundle.path


def forged(bundle: BundleFolder, file: str, change: Callable[[Any], object]) -> Path:
    """The bundle after a change of one of its JSON files, with right checksums."""
    values = json.loads((bundle.path / file).read_text())
    change(values)
    (bundle.path / file).write_text(json.dumps(values))
    return sealed(bundle)


def load_all(path: Path) -> None:
    model = load_bundle(path)
    model.members[0].study(Path("new.csv"))
    model.members[0].load()


def refused(path: Path, *words: str) -> str:
    """The error when everything of a bundle is loaded; it has these words, such as those of file and field."""
    with pytest.raises(CasewiseError) as caught:
        load_all(path)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def put(*keys: Any, value: Any) -> Callable[[Any], object]:
    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


NAMES = ("hf-hub:owner/name", "timm:hf-hub:owner/name", "local-dir:{folder}", "x")


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_no_registry_has_is_not_built(bundle: BundleFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    path = forged(bundle, FACTS, put("network", "name", value=name.format(folder=tmp_path)))
    refused(path, FACTS, "network")
    with pytest.raises(StudyError):
        build_network(name.format(folder=tmp_path), 1)


@pytest.mark.parametrize("key", ["name", "architecture"])
@pytest.mark.parametrize("side", [{}, {"side": None}])
def test_an_encoder_that_no_registry_has_is_not_built(key: str, side: dict[str, Any]) -> None:
    for name in NAMES:
        encoder = {"name": "hf-hub:owner/name", key: name, **side}
        bank = {"encoders": [encoder], "channels": 3, "specs": None}
        with pytest.raises(StudyError, match="no network"):
            network_from({"name": "linear_features", "outputs": 1, "side": 32, "bank": bank})


@pytest.mark.parametrize("stated", [3, "1", True, 1.0])
@pytest.mark.parametrize("file", ["manifest.json", "bundle.json"])
def test_the_format_is_checked_in_both_files(bundle: BundleFolder, file: str, stated: Any) -> None:
    path = bundle.path
    if file == "bundle.json":
        path = forged(bundle, file, put("format", value=stated))
    else:
        content = json.loads(bundle.manifest_path.read_text()) | {"format": stated}
        del content["sha256"]
        digest = hashlib.sha256(json_text(content).encode()).hexdigest()
        bundle.manifest_path.write_text(json_text(content | {"sha256": digest}))
    refused(path, str(path), "format", repr(stated))


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(bundle: BundleFolder, tmp_path: Path, text: str) -> None:
    facts = (bundle.path / FACTS).read_text()
    values = json.loads(facts)
    values["network"]["mean"][1] = "HERE"
    (bundle.path / FACTS).write_text(json.dumps(values).replace('"HERE"', text))
    refused(sealed(bundle), FACTS, "network.mean.1")
    (bundle.path / FACTS).write_text(facts)
    about = bundle.facts.path.read_text()
    bundle.facts.path.write_text(about[:-1] + f', "bands": {{"a": [[1, {text}]]}}}}')
    refused(sealed(bundle), "bundle.json", "bands.a.0.1")
    file = JsonFile(tmp_path / "run" / "metrics.json")
    file.write({"a": 1})
    file.path.write_text(f'{{"main": {{"mae": {text}}}}}')
    (file.path.parent / CHECKSUMS).write_text(json.dumps({file.path.name: [checksum(file.path)]}))
    with pytest.raises(RunError, match=r"metrics\.json.*main\.mae"):
        file.read()


@pytest.mark.parametrize("quantiles", [{"size": [[1.0], []]}, {"": [[1.0], [0.5]]}, {"x": [[1.0], [0.5]]}, {"size": 1}])
def test_limits_of_another_form_are_refused(bundle: BundleFolder, quantiles: dict[str, Any]) -> None:
    limits = {"images": 9, "subjects": 9, "tolerance": 0.25, "ranges": {}}
    bundle.input_checks.path.write_text(json.dumps(limits))
    assert load_bundle(sealed(bundle)).look is None
    bundle.input_checks.path.write_text(json.dumps(limits | {"quantiles": quantiles}))
    refused(sealed(bundle), "input-checks.json")
    bundle.input_checks.path.write_text(json.dumps(limits | {"subjects": -9, "quantiles": {"size": [[1.0], [0.5]]}}))
    refused(sealed(bundle), "input-checks.json")


COMBINATION = {
    "not text": put("headline", value=1),
    "no object": put("stackers", value=["mean_of_learners"]),
    "unknown network": put("stackers", value={"s": {"number": STACKER | {"weights": {"other": 1.0}}}}),
    "wrong shape": put(
        "stackers", value={"s": {"grades": {"learners": ["test_resnet"], "coefficients": [[1, 2]], "intercepts": [0]}}}
    ),
    "no thresholds": put("decisions", value={"grades": {"rule": "kappa", "thresholds": {}}}),
    "no quantile": put("intervals", value={"learners": {"test_resnet": {"number": {"range": [0, 4]}}}}),
}


@pytest.mark.parametrize(
    "fields",
    [{"learners": 5}, {"learners": [5, None]}, {"members": 3}, {"members": [{}]}, {"settings": {"targets": 4}}],
)
def test_names_of_another_form_are_not_used_before_the_bundle_is_verified(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    good = {"learners": ["a"], "members": [{"learner": "a"}], "settings": {"targets": {"label": {}}}}
    for stated, used in ((good, good), (good | fields, {})):
        BundleFolder(tmp_path).facts.path.write_text(json.dumps(stated))
        assert stated_facts(tmp_path) == used


@pytest.mark.parametrize("name", COMBINATION)
def test_what_combines_networks_is_checked_when_it_is_loaded(bundle: BundleFolder, name: str) -> None:
    path = forged(bundle, "bundle.json", lambda about: COMBINATION[name](about["combination"]))
    refused(path, "bundle.json", "combination")


def with_weights(bundle: BundleFolder, data: bytes) -> Path:
    """The bundle with other bytes of weights, and their checksum wherever it is stated."""
    (bundle.path / WEIGHTS).write_bytes(data)
    forged(bundle, "provenance.json", put("networks", 0, "weights_sha256", value=checksum(bundle.path / WEIGHTS)))
    return forged(bundle, FACTS, put("weights_sha256", value=checksum(bundle.path / WEIGHTS)))


def test_weights_that_cannot_be_read_are_refused(bundle: BundleFolder) -> None:
    data = (bundle.path / WEIGHTS).read_bytes()
    header = {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    unknown = {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}
    for bad in (
        b"",
        data[:100],
        data[:-1],
        struct.pack("<Q", 2**62) + data[8:],
        *(struct.pack("<Q", len(text)) + text + b"\0" for text in (json.dumps(h).encode() for h in (header, unknown))),
    ):
        refused(with_weights(bundle, bad), WEIGHTS)


def test_weights_of_other_shapes_and_names_are_refused(bundle: BundleFolder) -> None:
    path, tensors = bundle.path / WEIGHTS, load_file(bundle.path / WEIGHTS)
    first = next(name for name in tensors if name.endswith("weight"))
    for other in (
        {**tensors, first: torch.zeros(1, 2, 3)},
        {name: value for name, value in tensors.items() if name != first},
        {**tensors, "more": torch.zeros(1)},
        {},
    ):
        save_file(other, path)
        refused(with_weights(bundle, path.read_bytes()), WEIGHTS)


@pytest.mark.parametrize("name", ["bands", "display", "response"])
def test_what_is_shown_has_its_form(bundle: BundleFolder, name: str) -> None:
    refused(forged(bundle, "bundle.json", put(name, value=["a"])), "bundle.json", name)


def test_a_distance_of_another_network_is_refused(bundle: BundleFolder) -> None:
    file = bundle.path / MEMBER / "distance.safetensors"
    tensors = {"mean": torch.zeros(3), "components": torch.eye(3), "variances": torch.ones(3)}
    good_facts = {"sha256": "", "scale": {"number": 1.0}}
    for changed, facts in (
        (tensors, good_facts),
        (tensors | {"residual": torch.zeros(1)}, good_facts),
        (tensors | {"residual": torch.zeros(1)}, {"scale": 1}),
        (tensors | {"residual": torch.zeros(1)}, {}),
    ):
        save_file(changed, file)
        facts = facts and facts | {"sha256": checksum(file)}
        path = forged(bundle, FACTS, put("distance", value=facts or {"a": 1}))
        with pytest.raises(RunError, match=r"model\.json.*distance"):
            Predictor.from_bundle(load_bundle(path).members[0])


def test_a_learner_leads_out_of_no_folder(bundle: BundleFolder) -> None:
    path = forged(bundle, "bundle.json", put("members", 0, "learner", value="../../../etc"))
    refused(path, str(path / "members"))


class TestSignature:
    """`casewise bundle --sign` and `--trust`."""

    @pytest.fixture
    def keys(self, tmp_path: Path) -> tuple[Path, Path]:
        pytest.importorskip("cryptography")
        return key_pair(tmp_path / "key")

    def test_a_signed_bundle_is_trusted(self, bundle: BundleFolder, tmp_path: Path, keys: tuple[Path, Path]) -> None:
        private, public = keys
        path = write_archive(bundle, tmp_path / "signed.zip", private)
        assert load_bundle(path, trust=public).learners == load_bundle(path).learners
        shutil.unpack_archive(path, tmp_path / "unpacked")
        assert load_bundle(tmp_path / "unpacked", trust=public).learners
        (tmp_path / "unpacked" / "input-checks.json").write_text("{}")
        with pytest.raises(RunError, match=r"input-checks\.json"):
            load_bundle(tmp_path / "unpacked", trust=public)

    def test_other_signatures_are_refused(self, bundle: BundleFolder, tmp_path: Path, keys: tuple[Path, Path]) -> None:
        private, public = keys
        unsigned = write_archive(bundle, tmp_path / "unsigned.zip")
        signed = write_archive(bundle, tmp_path / "signed.zip", private)
        by_others = write_archive(bundle, tmp_path / "others.zip", key_pair(tmp_path / "other")[0])
        for path in (unsigned, by_others, bundle.path):
            assert load_bundle(path).learners
            with pytest.raises(RunError, match=f"{path}.*sign"):
                load_bundle(path, trust=public)
        shutil.unpack_archive(signed, tmp_path / "unpacked")
        changed = BundleFolder(tmp_path / "unpacked")
        for text in ('{"ed25519": "00"}', "{}", "[]", '{"ed25519": 1}', "x"):
            changed.signature_path.write_text(text)
            with pytest.raises(RunError, match=r"signature\.json"):
                load_bundle(changed.path, trust=public)
        shutil.unpack_archive(signed, tmp_path / "again")
        again = BundleFolder(tmp_path / "again")
        again.card.path.write_text("# Another card")
        signature = again.signature_path.read_text()
        again.signature_path.unlink()
        sealed(again)
        again.signature_path.write_text(signature)
        with pytest.raises(RunError, match=r"signature\.json"):
            load_bundle(again.path, trust=public)
        with pytest.raises(RunError, match="not a bundle"):
            load_bundle(bundle.path / MEMBER, trust=public)

    def test_the_command_wants_a_signature(self, bundle: BundleFolder, tmp_path: Path, keys: tuple[Path, Path]) -> None:
        unsigned, output = str(write_archive(bundle, tmp_path / "unsigned.zip")), str(tmp_path / "new.csv")
        done = casewise("predict", unsigned, str(tmp_path), "--output", output, "--trust", str(keys[1]))
        assert done.returncode == 2
        assert "signature.json" in done.stderr

    def test_files_that_are_no_keys(self, bundle: BundleFolder, tmp_path: Path, keys: tuple[Path, Path]) -> None:
        private, public = keys
        signed = write_archive(bundle, tmp_path / "signed.zip", private)
        (tmp_path / "text").write_text("no key")
        for wrong in (public, tmp_path / "text", tmp_path / "missing", tmp_path):
            with pytest.raises(CasewiseError, match="--sign"):
                write_archive(bundle, tmp_path / "none.zip", wrong)
        for wrong in (private, tmp_path / "text", tmp_path / "missing", tmp_path):
            with pytest.raises(CasewiseError, match="--trust"):
                load_bundle(signed, trust=wrong)
        assert not (tmp_path / "none.zip").exists()


def key_pair(path: Path) -> tuple[Path, Path]:
    """A private key and its public one, as `ssh-keygen -t ed25519` writes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, public = Ed25519PrivateKey.generate(), path.with_suffix(".pub")
    openssh = serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()))
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    public.write_bytes(key.public_key().public_bytes(*form))
    return path, public
