"""The tile store: what it holds, when it is made anew, and that nothing can break it half-way."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest
from PIL import Image

from casewise.errors import ImageError, RunError
from casewise.modalities.store import store as store_module
from casewise.modalities.store import store_builder as building_module
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import Source, fit, read_image
from casewise.modalities.store.store import TileStore, damage, open_store
from casewise.modalities.store.store_builder import Building, prepare

SMALL = Preparation(size=16)


def picture(path: Path, seed: int, width: int = 60, height: int = 40) -> Path:
    """Write a small picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photographs"
    folder.mkdir()
    return [picture(folder / f"{number}.{'jpg' if number % 2 else 'png'}", number) for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tiles"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that were decoded, in a list that grows."""
    names: list[str] = []
    real = Source.tile

    def counted(self: Source, preparation: Preparation) -> np.ndarray:
        names.append(self.path.name)
        return real(self, preparation)

    monkeypatch.setattr(Source, "tile", counted)
    return names


def files(folder: Path) -> list[str]:
    """What lies in a store's folder, apart from the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def assert_right(store: TileStore, paths: list[Path], preparation: Preparation = SMALL) -> None:
    """Every tile is what reading its image gives, and the folder holds a finished store and nothing else."""
    assert store.tiles.shape == (len(paths), *preparation.shape)
    for tile, path in zip(store.tiles, paths, strict=True):
        assert np.array_equal(tile.transpose(1, 2, 0), fit(read_image(path, size=preparation.size), preparation))
    assert store.index["path"].tolist() == [str(path) for path in paths]
    assert [name.split("-")[0] for name in files(store.folder)] == ["index", "store.json", "tiles"]
    assert not damage(open_store(store.folder))


def test_a_store_holds_tiles_and_an_index(paths: list[Path], folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = prepare(paths, SMALL, folder, progress=lambda done, total: calls.append((done, total)))
    assert_right(store, paths)
    assert calls == [(done, 8) for done in range(1, 9)]
    assert isinstance(store.tiles, np.memmap)
    assert not store.tiles.flags.writeable
    row = store.index.iloc[1]
    assert row["sha256"] == hashlib.sha256(paths[1].read_bytes()).hexdigest()
    assert (row["bytes"], row["mtime_ns"]) == (paths[1].stat().st_size, paths[1].stat().st_mtime_ns)
    assert (row["width"], row["height"], row["mode"], row["format"]) == (60, 40, "RGB", "JPEG")
    assert len(store) == 8
    # The files are plain: NumPy and pandas open them.
    assert np.array_equal(np.load(next(folder.glob("tiles-*.npy"))), store.tiles)


def test_another_file_of_equal_size_and_time_is_noticed(paths: list[Path], folder: Path, decoded: list[str]) -> None:
    before = prepare(paths, SMALL, folder)
    status, (old, other) = paths[2].stat(), (paths[2].read_bytes(), paths[4].read_bytes())
    size = max(len(old), len(other))
    for path, data in ((paths[2], old), (paths[4], other)):
        path.write_bytes(data + bytes(size - len(data)))
    before = prepare(paths, SMALL, folder)
    paths[2].write_bytes(paths[4].read_bytes())
    os.utime(paths[2], ns=(status.st_atime_ns, int(before.index["mtime_ns"].iloc[2])))
    assert paths[2].stat().st_size == before.index["bytes"].iloc[2]
    after = prepare(paths, SMALL, folder)
    assert (after.tiles[2] == after.tiles[4]).all()
    assert after.address != before.address


def test_a_touched_source_is_compared_and_not_decoded(paths: list[Path], folder: Path, decoded: list[str]) -> None:
    before = prepare(paths, SMALL, folder)
    os.utime(paths[3], (1, 1))
    decoded.clear()
    after = prepare(paths, SMALL, folder)
    assert (decoded, after.address, after.index["mtime_ns"].iloc[3]) == ([], before.address, 10**9)
    assert_right(after, paths)


def test_added_removed_moved_and_doubled_files(paths: list[Path], folder: Path, decoded: list[str]) -> None:
    prepare(paths[:5], SMALL, folder)
    decoded.clear()
    moved = paths[0].rename(paths[0].with_name("moved.png"))
    changed = [paths[6], paths[2], moved, paths[2], paths[4]]
    store = prepare(changed, SMALL, folder)
    assert decoded == [paths[6].name]
    assert_right(store, changed)


@pytest.mark.parametrize(
    "change", [{"size": 24}, {"fit": "stretch"}, {"channels": "grey"}], ids=["size", "fit", "channels"]
)
def test_settings_decide_the_tiles(paths: list[Path], folder: Path, decoded: list[str], change: dict[str, Any]) -> None:
    first = prepare(paths, SMALL, folder)
    decoded.clear()
    other = replace(SMALL, **change)
    second = prepare(paths, other, folder, processes=1)
    assert second.tiles.shape == (8, *other.shape)
    assert (second.tiles[0][:, 0].max() > 0, len(decoded)) == (other.fit == "stretch", len(paths))
    assert second.address == other.address(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert len({first.address, second.address, prepare(paths[::-1], other, folder).address}) == 3


def test_only_changed_sources_are_read(
    paths: list[Path], folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(paths, SMALL, folder)
    former, tiles = first.tiles, np.array(first.tiles)
    with monkeypatch.context() as patch, filelock.FileLock(folder / ".lock"):
        patch.setattr(building_module, "read_bytes", None)  # opening what is finished reads no image and needs no lock
        calls: list[tuple[int, int]] = []
        assert prepare(paths, SMALL, folder, progress=lambda *call: calls.append(call)).address == first.address
        assert calls == [(8, 8)]
    picture(paths[3], 99)
    decoded.clear()
    after = prepare(paths, SMALL, folder)
    assert decoded == [paths[3].name]
    assert after.address != first.address
    assert_right(after, paths)
    assert np.array_equal(former, tiles)  # a finished store is never written into
    with filelock.FileLock(folder / ".lock"), pytest.raises(RunError, match="another run is preparing images here"):
        prepare(paths[1:], SMALL, folder)


class Killed(BaseException):
    """Stands for a kill at a chosen place."""


def prepare_and_kill(paths: list[Path], folder: Path, owner: Any, name: str, when: int = 1) -> None:
    """Let the call number `when` of `owner.name` be the last thing that happens."""
    real, count = getattr(owner, name), [0]

    def once(*arguments: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] == when:
            raise Killed
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, once)
        with pytest.raises(Killed):
            prepare(paths, SMALL, folder)


PLACES: list[tuple[Any, str, int]] = [(Building, "__enter__", 1), (Building, "finish", 3)]
PLACES += [(store_module, "publish", 1), (store_module, "write_atomic", 1), (store_module, "write_json", 1)]
PLACES += [(building_module, "_discard_builds", 1), (building_module, "_discard_builds", 2), (store_module, "sweep", 2)]


@pytest.mark.parametrize("place", PLACES, ids=[f"{name} {when}" for _, name, when in PLACES])
@pytest.mark.parametrize("existing", [False, True])
def test_killed_anywhere_a_reader_sees_the_former_store_or_the_new_one(
    paths: list[Path], folder: Path, decoded: list[str], existing: bool, place: tuple[Any, str, int]
) -> None:
    former = prepare(paths, SMALL, folder).address if existing else None
    picture(paths[0], 99)
    prepare_and_kill(paths, folder, *place)
    new = SMALL.address(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    if (folder / "store.json").exists():
        store = open_store(folder)
        assert store.address in {former, new}
        assert not damage(store)
    else:
        assert not existing
    decoded.clear()
    # Changed again, so that what a killed run has left behind must not be mistaken for the present state.
    picture(paths[1], 98)
    assert_right(prepare(paths, SMALL, folder), paths)
    # At most: everything, all but the two finished rows and the one changed since, or the one changed since.
    most = {"__enter__": 8, "finish": 7, "write_json": 8}.get(place[1], 1)
    assert paths[1].name in decoded
    assert len(decoded) <= (2 if existing else most)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_place_of_an_unfinished_build_is_not_followed(
    paths: list[Path], folder: Path, tmp_path: Path, dangling: bool
) -> None:
    prepare_and_kill(paths, folder, store_module, "publish")
    targets = [tmp_path / "other.npy", tmp_path / "other.jsonl"]
    for target in targets:
        (build,) = folder.glob(f"building-*{target.suffix}")
        build.unlink()
        build.symlink_to(target)
        if not dangling:
            target.write_text("text")
    assert_right(prepare(paths, SMALL, folder), paths)
    assert [target.read_text() for target in targets if target.exists()] == ([] if dangling else ["text", "text"])


def test_an_unwritten_tile_is_not_taken_for_finished(paths: list[Path], folder: Path, decoded: list[str]) -> None:
    prepare_and_kill(paths, folder, store_module, "publish")
    (tiles,) = folder.glob("building-*.npy")
    with tiles.open("r+b") as file:
        # A machine that lost power may have kept the journal and lost the last tile.
        file.seek(-100, os.SEEK_END)
        file.write(bytes(100))
    (journal,) = folder.glob("building-*.jsonl")
    journal.write_bytes(journal.read_bytes() + b'{"row": 3, "path": "torn')
    decoded.clear()
    assert_right(prepare(paths, SMALL, folder), paths)
    assert decoded == [paths[-1].name]


def test_every_unreadable_image_is_named_at_once(paths: list[Path], folder: Path, decoded: list[str]) -> None:
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    paths[2].write_bytes(b"")
    paths[5].unlink()
    paths[6].write_text("not an image")
    with pytest.raises(ImageError) as caught:
        prepare([*paths, folder.parent], SMALL, folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 of 9 images cannot be read. The other tiles are kept for the next run."
    found = ["cut short", "empty", "no such file", "a text file", "a folder"]
    assert len(lines) == 6
    for line, name, reason in zip(lines[1:], ["1.jpg", "2.png", "5.jpg", "6.png", ""], found, strict=True):
        assert line.startswith("  ")
        assert name in line
        assert reason in line
    with pytest.raises(RunError, match="no finished tile store"):
        open_store(folder)
    decoded.clear()
    for number in (1, 2, 5, 6):
        picture(paths[number], number + 20)
    assert_right(prepare(paths, SMALL, folder), paths)
    assert sorted(decoded) == ["1.jpg", "2.png", "5.jpg", "6.png"]


def no_space(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["free", "_put", "fsync"])
def test_a_full_disk_keeps_what_is_finished(
    paths: list[Path], folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    noted: list[bytes] = []
    real = building_module._put

    def full(file: Any, data: bytes) -> None:
        # three tiles are noted as finished; from then on nothing can be written, whichever thread asks
        if len(noted) == 3:
            no_space()
        real(file, data)
        noted.extend([data] if data.startswith(b'{"row"') else [])

    with monkeypatch.context() as patch:
        if place == "free":
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        else:
            patch.setattr(building_module if place == "_put" else os, place, full if place == "_put" else no_space)
        with pytest.raises(RunError, match=r"the disk is full\. The tile store needs .* MB are free\. Make room"):
            prepare(paths, SMALL, folder, processes=1)
    with pytest.raises(RunError, match="no finished tile store"):
        open_store(folder)
    assert bool(decoded) == (place != "free")
    decoded.clear()
    assert_right(prepare(paths, SMALL, folder), paths)
    assert len(decoded) == {"free": 8, "_put": 5, "fsync": 0}[place]


def test_a_folder_that_cannot_be(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tiles cannot be stored here: Not a directory"):
        prepare(paths, SMALL, paths[0] / "tiles")
    with pytest.raises(ImageError, match="the list is empty"):
        prepare([], SMALL, tmp_path / "tiles")


def edit_marker(folder: Path, **changes: Any) -> None:
    marker = folder / "store.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | changes))


def shorten(folder: Path) -> None:
    (tiles,) = folder.glob("tiles-*.npy")
    os.truncate(tiles, tiles.stat().st_size - 1)


def edit_index(folder: Path) -> None:
    (index,) = folder.glob("index-*.parquet")
    index.write_bytes(index.read_bytes()[:-1] + b"X")


def other_array(folder: Path) -> None:
    (tiles,) = folder.glob("tiles-*.npy")
    np.save(tiles, np.zeros((3, 3), np.uint8))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "array shortened": (shorten, "mmap length|larger than file|size"),
    "another array": (other_array, r"uint8 \(3, 3\) instead of uint8 \(8, 3, 16, 16\)"),
    "array missing": (lambda folder: next(folder.glob("tiles-*")).unlink(), "tiles-.* is missing"),
    "index edited": (edit_index, "index-.* is not as written"),
    "index missing": (lambda folder: next(folder.glob("index-*")).unlink(), "index-.* is missing"),
    "address edited": (lambda folder: edit_marker(folder, address="0"), "its address does not match"),
    "older rules": (lambda folder: edit_marker(folder, rules=0), "version 0 of the reading rules; the current"),
    "setting unknown": (lambda folder: edit_marker(folder, preparation={"zoom": 8}), "zoom"),
    "marker cut short": (lambda folder: os.truncate(folder / "store.json", 40), "Unterminated|Expecting"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_store_is_refused_and_then_mended(paths: list[Path], folder: Path, name: str) -> None:
    prepare(paths, SMALL, folder)
    damage, found = DAMAGE[name]
    damage(folder)
    with pytest.raises(RunError, match=f"the tile store is damaged: .*({found}).*prepare again"):
        open_store(folder)
    assert_right(prepare(paths, SMALL, folder), paths)


def test_tiles_changed_after_they_were_written_are_decoded_again(
    tmp_path: Path, folder: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    paths = [picture(tmp_path / f"{number}.png", number) for number in range(4)]
    store = prepare(paths, SMALL, folder)
    file, right = Path(store.tiles.filename), np.array(store.tiles)
    decoded.clear()
    tiles = np.load(file, mmap_mode="r+")
    tiles[2] = 255 - tiles[2]
    tiles.flush()
    assert np.array_equal(prepare(paths, SMALL, folder).tiles, right)
    assert decoded == ["2.png"]
    assert "1 of 4 tiles" in caplog.text


def test_tiles_of_a_machine_that_is_lost_are_kept_and_the_store_has_the_same_bits(
    paths: list[Path],
    folder: Path,
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    lost_machine: list[Path],
) -> None:
    stores = [prepare(paths, SMALL, tmp_path / str(count), processes=count) for count in (1, 2)]
    assert lost_machine == []  # it takes longer to begin than so few images
    monkeypatch.setattr(building_module, "FEWEST", 8)
    decoded.clear()
    told: list[tuple[int, int]] = []
    stores.append(prepare(paths, SMALL, folder, progress=lambda *call: told.append(call)))
    assert (lost_machine, sorted(decoded)) == (paths[:4], sorted(path.name for path in paths))
    assert told[:4] == [(done, 8) for done in range(1, 5)]
    assert_right(stores[-1], paths)
    assert len({Path(store.tiles.filename).read_bytes() for store in stores}) == 1
    for store in stores[:-1]:
        assert store.index.equals(stores[-1].index)
