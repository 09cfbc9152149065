"""Mutated inputs: a seeded sample for every reader, and the defects that larger samples found."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings

from casewise.errors import DamagedError, RunError
from casewise.files import parsed_json
from casewise.modalities.store.store import open_store
from casewise.run_folder.artefact import CHECKSUMS, Artefact, JsonFile, TableFile, WeightsFile
from casewise.training.checkpoint import load_state, save_state
from tests.fuzz import samples
from tests.fuzz.readers import READERS
from tests.fuzz.run import fuzz, summary

open_slices = pytest.importorskip("casewise.plugins.volumes.slice_store").open_slices

NESTED = '{"a":' * 30_000


def test_property_tests_draw_the_same_examples_every_time() -> None:
    assert settings.default.derandomize


@pytest.mark.slow  # `make fuzz` has larger samples
def test_a_sample_of_mutated_inputs_is_read_or_refused() -> None:
    tally = fuzz(60, seed=5)
    assert not tally.failures, summary(tally)
    assert (tally.count, tally.starts) == (60, 1)
    assert set(tally.outcomes) == {reader.name for reader in READERS}
    assert sum(counter["read"] for counter in tally.outcomes.values()) >= 3  # some mutations are harmless


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
    other = (data.replace(b'\\"0\\"', b'\\"7\\"'), data.replace(b'\\"epoch\\"', b'\\"epoch  '))
    assert data not in other
    for changed in (data[:4], *other, b""):
        with pytest.raises(DamagedError):
            load_state(WeightsFile(written(path, changed)).path)


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
