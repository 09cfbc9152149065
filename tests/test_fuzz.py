"""Mutated inputs: a seeded sample for every reader, and the defects that larger samples found."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from casewise.errors import CasewiseError, DamagedError, RunError
from casewise.files import parsed_json
from casewise.inference.model import load_bundle
from casewise.modalities.store.store import open_store
from casewise.run_folder import BundleFolder
from casewise.run_folder.artefact import CHECKSUMS, Artefact, JsonFile, TableFile, WeightsFile
from casewise.training.checkpoint import load_state, save_state
from tests.fuzz import samples
from tests.fuzz.mutations import changed_by_a_byte, mutated, mutated_json, png_with_checksums
from tests.fuzz.readers import READERS, AcceptedError, FuzzedReader, Work
from tests.fuzz.run import FINE, fuzz, read_one, summary

open_slices = pytest.importorskip("casewise.plugins.volumes.slice_store").open_slices

NESTED = '{"a":' * 30_000


def test_a_sample_of_mutated_inputs_is_read_or_refused() -> None:
    tally = fuzz(240, seed=5)
    assert not tally.failures, summary(tally)
    assert (tally.count, tally.starts) == (240, 1)
    assert set(tally.outcomes) == {reader.name for reader in READERS}
    assert sum(counter["read"] for counter in tally.outcomes.values()) >= 12  # some mutations are harmless


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (CasewiseError("a sentence"), "CasewiseError"),
        (RunError("a sentence"), "RunError"),
        (CasewiseError(" "), "no message"),
        (KeyError("a"), "untyped KeyError"),
        (MemoryError(), "untyped MemoryError"),
        (SystemExit(0), "untyped SystemExit"),
        (AcceptedError("read"), "accepted"),
        (None, "read"),
    ],
)
def test_what_counts_as_a_failure(tmp_path: Path, error: BaseException | None, outcome: str) -> None:
    def read(work: Work, draw: random.Random) -> None:
        if error is not None:
            raise error

    assert read_one(FuzzedReader("toy", 1, read), Work(tmp_path), 1, 1)[0] == outcome
    assert (outcome in FINE) == (error is None or (outcome.endswith("Error") and not outcome.startswith("untyped")))


def test_equal_seeds_give_equal_inputs() -> None:
    good = [sample.data for sample in samples.images()]
    first = [mutated(good[0], random.Random(seed), good) for seed in range(50)]
    assert first == [mutated(good[0], random.Random(seed), good) for seed in range(50)]
    assert len(set(first)) > 40
    assert all(changed_by_a_byte(good[0], random.Random(seed)) != good[0] for seed in range(50))
    texts = [mutated_json('{"a": [1, {"b": "c"}]}', random.Random(seed)) for seed in range(50)]
    assert len(set(texts)) > 20


def test_a_png_with_mended_checksums_is_read_again() -> None:
    data = bytearray(next(sample.data for sample in samples.images() if sample.ending == ".png"))
    data[29:33] = b"\0\0\0\0"  # the checksum of its first chunk
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()
    Image.open(io.BytesIO(png_with_checksums(bytes(data))), formats=["PNG"]).verify()


# The defects that larger samples found.


def written(path: Path, data: bytes) -> Path:
    """A file of a run folder with a right checksum."""
    with Artefact(path).replacing() as temporary:
        temporary.write_bytes(data)
    return path


def test_json_nested_without_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested"):
        parsed_json(NESTED)
    file = JsonFile(written(tmp_path / "a.json", NESTED.encode()))
    with pytest.raises(DamagedError, match="nested"):
        file.read()
    assert file.peek() is None
    (tmp_path / CHECKSUMS).write_text(NESTED)
    with pytest.raises(DamagedError, match="no recorded checksum"):
        file.read()


def test_a_damaged_state_of_a_training(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "state.safetensors"
    save_state(WeightsFile(path), {"epoch": 3, "weights": {"a": torch.zeros(3)}})
    assert load_state(path)["epoch"] == 3
    data = path.read_bytes()
    assert data.count(b"pairs") == 2
    for changed in (data[:4], data.replace(b"pairs", b"pairz"), data.replace(b'\\"epoch\\"', b'\\"epoch  '), b""):
        with pytest.raises(DamagedError):
            load_state(WeightsFile(written(path, changed)).path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.make_bundle(tmp_path_factory.mktemp("bundle"))[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": 5},
        {"outputs": []},
        {"outputs": ["number"]},
        {"outputs": [{"name": "a", "kind": "regression", "main": True}]},
        {"outputs": [{"name": "a", "kind": "nothing", "classes": [], "main": True}]},
        {"outputs": [{"name": "a", "kind": "classification", "classes": [{}, "b"], "main": True}]},
        {"model": ["a"]},
        {"network": {}},
        {"network": {"name": "test_resnet", "outputs": 4, "mean": ["x"], "std": ["x"]}},
        {"network": {"name": "test_resnet", "outputs": 10**18}},
        {"settings": "text"},
        {"settings": {"scores": "text"}},
        {"subjects": [[1]]},
    ],
)
def test_forged_facts_of_a_network(bundle: Path, changes: dict[str, Any]) -> None:
    member = BundleFolder(bundle).member("test_resnet", 1)
    good = member.facts.path.read_text()
    try:
        reseal(bundle, member.facts.path, json.dumps(json.loads(good) | changes))
        with pytest.raises(CasewiseError):
            load_bundle(bundle).members[0].load()
    finally:
        reseal(bundle, member.facts.path, good)
    load_bundle(bundle).members[0].load()


@pytest.mark.parametrize(
    "combination",
    [{"headline": 1}, {"stackers": []}, {"stackers": {"a": 1}}, {"intervals": {"learners": {"test_resnet": 2}}}],
)
def test_forged_facts_of_a_bundle(bundle: Path, combination: dict[str, Any]) -> None:
    path = BundleFolder(bundle).facts.path
    good = path.read_text()
    try:
        reseal(bundle, path, json.dumps({**json.loads(good), "combination": combination}))
        with pytest.raises(RunError, match="damaged"):
            load_bundle(bundle)
    finally:
        reseal(bundle, path, good)


def reseal(bundle: Path, path: Path, text: str) -> None:
    """Write a file of a bundle, and a manifest to which it belongs."""
    path.write_text(text)
    BundleFolder(bundle).manifest_path.unlink()
    BundleFolder(bundle).write_manifest("0", "inputs")


def folder_in(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_damaged_stores_of_prepared_images(tmp_path: Path) -> None:
    tiles, slices = samples.make_tiles(folder_in(tmp_path, "a")), samples.make_slices(folder_in(tmp_path, "b"))
    for folder, opened, marker in ((tiles, open_store, "store.json"), (slices, open_slices, "slices.json")):
        opened(folder)
        arrays = max(folder.glob("*.npy"), key=lambda path: path.stat().st_size)
        data, text = arrays.read_bytes(), (folder / marker).read_text()
        for changed in (data.replace(b"}", b" ", 1), data.replace(b"(", b"[", 1), data[:30], data[:8] + data[10:]):
            assert changed != data
            arrays.write_bytes(changed)
            with pytest.raises(RunError):
                opened(folder)
        arrays.write_bytes(data)
        for changed_text in (NESTED, "[1]", "{}", "5"):
            (folder / marker).write_text(changed_text)
            with pytest.raises(RunError):
                opened(folder)
        (folder / marker).write_text(text)
        opened(folder)


def test_a_table_with_altered_metadata_is_damaged(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(pd.DataFrame({"subject": ["A", "B"], "value": [1.0, 2.0]}))
    facts = json.loads(table.schema.metadata[b"pandas"])
    del facts["columns"][0]["numpy_type"]
    file = TableFile(tmp_path / "predictions.parquet")
    with file.replacing() as temporary:  # with a checksum of these very bytes
        pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(facts).encode()}), temporary)
    with pytest.raises(DamagedError, match="cannot be read as a Parquet table"):
        file.read()
