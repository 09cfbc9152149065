"""Every reader of the product, each with the mutated inputs that it gets."""

import csv
import gzip
import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import yaml

from tests import hostile_inputs
from tests.fuzz import samples
from tests.fuzz.mutations import changed_by_a_byte, mutated, mutated_json, png_with_checksums

SIZE = 32
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "mac-roman", "shift-jis")


class AcceptedError(Exception):
    """A bundle was read although its content was altered."""


@dataclass
class Work:
    """A folder for inputs, and what is made in it once."""

    folder: Path
    _made: dict[str, object] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What `make` returned the first time, for a folder of this name."""
        if name not in self._made:
            (self.folder / name).mkdir()
            self._made[name] = make(self.folder / name)
        return self._made[name]

    def folders(self) -> samples.Folders:
        """Folders of a run."""
        return self.once("run", samples.make_folders)

    def file(self, ending: str, data: bytes) -> Path:
        """A file with these bytes."""
        path = self.folder / f"input{ending}"
        path.write_bytes(data)
        return path

    def copy(self, source: Path) -> Path:
        """A copy of a folder, in place of the last one."""
        target = self.folder / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        return target


@dataclass(frozen=True)
class FuzzedReader:
    """A reader, its share of all inputs, and the function that makes one input and reads it."""

    name: str
    share: int
    read: Callable[[Work, random.Random], None]


def _changed(draw: random.Random, options: Sequence[samples.Sample]) -> samples.Sample:
    sample = draw.choice(options)
    data = mutated(sample.data, draw, [other.data for other in options])
    if sample.ending == ".png" and draw.random() < 0.7:
        data = png_with_checksums(data)
    return samples.Sample(data, sample.ending)


def study_bytes(draw: random.Random) -> bytes:
    """A study file with values replaced, or with hostile lines inserted."""
    if draw.random() < 0.6:
        return mutated_json(json.dumps(yaml.safe_load(hostile_inputs.SETTINGS)), draw)  # which is YAML, too
    lines = hostile_inputs.SETTINGS.strip().split("\n")
    for _ in range(draw.randint(1, 3)):
        lines.insert(draw.randrange(len(lines)), draw.choice(hostile_inputs.LINES))
    data = "\n".join(lines).encode("utf-8")
    return mutated(data, draw, [data]) if draw.random() < 0.5 else data


def table_bytes(draw: random.Random) -> bytes:
    """A table in any format, with hostile cells, and often with bytes changed."""
    rows = [list(hostile_inputs.HEADING), *hostile_inputs.table_rows()]
    for _ in range(draw.randint(0, 3)):
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = draw.choice(hostile_inputs.CELLS)
    kind, stream = draw.choice((",", ",", ",", "\t", ";", "xlsx", "parquet")), io.BytesIO()
    if kind == "xlsx":
        book = openpyxl.Workbook()
        for row in rows:
            cells = ["".join(c for c in cell if c.isprintable())[:32_000] for cell in row]
            book.active.append([int(cell) if cell.isdecimal() and len(cell) < 300 else cell for cell in cells])
        book.save(stream)
    elif kind == "parquet":
        columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
        pd.DataFrame(columns).to_parquet(stream, index=False)
    else:
        text = io.StringIO()
        csv.writer(text, delimiter=kind, lineterminator=draw.choice(("\n", "\r\n", "\r"))).writerows(rows)
        stream.write(text.getvalue().encode(draw.choice(ENCODINGS), "replace"))
    data = stream.getvalue()
    return mutated(data, draw, [data]) if draw.random() < 0.5 else data


def read_study_file(work: Work, draw: random.Random) -> None:
    """A study file, with its cohort, its scores and its split."""
    from casewise.study.loading import read_study
    from casewise.study.scores import study_scores

    folder = _study_folder(work)
    (folder / "hostile.yaml").write_bytes(study_bytes(draw))
    study_scores(read_study(folder / "hostile.yaml"))


def read_table(work: Work, draw: random.Random) -> None:
    """A cohort table: CSV and its kin, xlsx, Parquet."""
    from casewise.cohort.cohort import read_cohort
    from casewise.study.loading import read_study

    folder = _study_folder(work)
    study = work.once("good", lambda _: read_study(folder / "good.yaml"))
    (folder / "cohort.csv").write_bytes(table_bytes(draw))
    read_cohort(study)


def _study_folder(work: Work) -> Path:
    work.once("study", hostile_inputs.prepare)
    return work.folder / "study"


def read_own_table(work: Work, draw: random.Random) -> None:
    """A table from which a study is made."""
    from casewise.plugins.init.own_data import plan_study

    folder, ending = _study_folder(work), draw.choice((".csv", ".csv", ".tsv", ".xlsx", ".parquet"))
    table = folder / f"own{ending}"
    table.write_bytes(table_bytes(draw))
    plan_study(table=table, images=folder / "images", folder=folder / "planned")


def read_new_cases(work: Work, draw: random.Random) -> None:
    """A table of new cases for a bundle."""
    from casewise.inference.case_chunks import cases_of, in_chunks, sources_of
    from casewise.inference.model import load_bundle
    from casewise.inference.new_cases import new_table

    folder, model = _study_folder(work), work.once("model", lambda _: load_bundle(work.folders().bundle))
    (folder / "new.csv").write_bytes(table_bytes(draw))
    member = model.members[0]
    table = new_table(folder / "new.csv", member, folder, columns={"visit": "visit_no"}, root=folder / "images")
    cells = table.cells()
    for chunk in in_chunks(cases_of(cells, table.study), 8):
        sources_of(chunk, cells, table.study)


FORMULAS = ("0.2*a[upper] + 0.8*a[lower]", "(a + b) / 2", "sum(a, b, -c) * mean(a, 1.5)", "max(a, min(b, c)) - 1e3")


def read_score(work: Work, draw: random.Random) -> None:
    """A formula of a score, and named scores of presets."""
    import numpy as np

    from casewise.study.scores import Score, check_scores

    text = mutated(draw.choice(FORMULAS).encode(), draw, [f.encode() for f in FORMULAS]).decode("utf-8", "replace")
    score = Score("s", text, draw.choice(("case", "region")), 0, 10)
    score.value({reference: np.array([1.0, 2.0]) for reference in score.references})
    check_scores([score], targets=dict.fromkeys("abc", "region"), regions=["upper", "lower"])


def read_score_file(work: Work, draw: random.Random) -> None:
    """A study that extends another file, as files of scores do."""
    from casewise.study.loading import read_study

    folder = _study_folder(work)
    (folder / "base.yaml").write_bytes(study_bytes(draw))
    (folder / "hostile.yaml").write_text("extends: base.yaml\nscores: {total: {formula: age + 1, range: 0..200}}\n")
    read_study(folder / "hostile.yaml")


def read_picture(work: Work, draw: random.Random) -> None:
    """A photograph: its facts and its pixels."""
    _read_image(work, _changed(draw, samples.images()), draw)


def read_film(work: Work, draw: random.Random) -> None:
    """A film as DICOM."""
    _read_image(work, _changed(draw, samples.films()), draw)


def _read_image(work: Work, sample: samples.Sample, draw: random.Random) -> None:
    from casewise.modalities.store.readers import image_facts, image_shape, read_image

    path = work.file(sample.ending, sample.data)
    image_shape(path)
    image_facts(path)
    read_image(path, size=draw.choice((None, SIZE)), channels=draw.choice(("rgb", "grey")))


def read_mask(work: Work, draw: random.Random) -> None:
    """A mask as an image."""
    from casewise.modalities.mask_labels import read_labels
    from casewise.modalities.store.readers import image_shape

    sample = _changed(draw, [each for each in samples.images() if each.ending in (".png", ".tif", ".jpg")])
    path = work.file(sample.ending, sample.data)
    read_labels(path, image_shape(path) or (SIZE, SIZE))


def read_series(work: Work, draw: random.Random) -> None:
    """A scan as DICOM: several files, one of them changed, or one of many frames."""
    from casewise.plugins.volumes.reading.files import read_scan

    files = list(draw.choice(samples.series()))
    number = draw.randrange(len(files))
    files[number] = mutated(files[number], draw, files)
    folder = work.folder / "series"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for index, data in enumerate(files):
        (folder / f"{index}.dcm").write_bytes(data)
    read_scan(folder if len(files) > 1 or draw.random() < 0.5 else folder / "0.dcm", voxels=draw.random() < 0.8)


def read_nifti(work: Work, draw: random.Random) -> None:
    """A scan or a mask as NIfTI; compressed ones are changed before or after their compression."""
    from casewise.plugins.volumes.grid import Grid, inside_of, region_of_mask
    from casewise.plugins.volumes.reading.files import read_scan

    sample, others = draw.choice(samples.scans()), [other.data for other in samples.scans()]
    if sample.ending == ".nii.gz" and draw.random() < 0.6:
        data = gzip.compress(mutated(gzip.decompress(sample.data), draw, others[:3]), 1)
    else:
        data = mutated(sample.data, draw, others)
    scan = read_scan(work.file(sample.ending, data), voxels=draw.random() < 0.8)
    if draw.random() < 0.3 and scan.values.size < 100_000:
        good = read_scan(work.file(".good.nii", samples.scans()[0].data))
        inside_of(scan, good)
        region_of_mask(scan, good, Grid(good.shape, good.affine), 2.0)


def read_slide(work: Work, draw: random.Random) -> None:
    """A whole slide: what it is, its facts and an area of it."""
    from casewise.plugins.slides.reader import Slide, is_slide
    from casewise.plugins.slides.tissue_mask import read_thumbnail

    sample = _changed(draw, samples.slides())
    path = work.file(sample.ending, sample.data)
    is_slide(path)
    with Slide(path) as slide:
        read_thumbnail(slide, 64)


def read_weights(work: Work, draw: random.Random) -> None:
    """Weights as safetensors or as PyTorch's own file."""
    from casewise.models.weights import read_tensors

    sample = _changed(draw, samples.weights())
    read_tensors(work.file(sample.ending, sample.data))


def read_altered_bundle(work: Work, draw: random.Random) -> None:
    """A bundle of which one byte was changed, as a folder or as a zip file: it must be refused."""
    from casewise.inference.model import load_bundle

    folders = work.folders()
    if draw.random() < 0.4:
        path = work.file(".zip", changed_by_a_byte(folders.archive.read_bytes(), draw))
    else:
        path = work.copy(folders.bundle)
        victim = draw.choice(sorted(file for file in path.rglob("*") if file.is_file()))
        victim.write_bytes(changed_by_a_byte(victim.read_bytes(), draw))
    load_bundle(path)
    raise AcceptedError("a bundle with one byte changed was read")


def read_forged_bundle(work: Work, draw: random.Random) -> None:
    """A bundle with another content and right checksums, of a later format, or a zip file made by hand."""
    from casewise.inference.model import load_bundle
    from casewise.run_folder import BundleFolder

    bundle, kind = BundleFolder(work.copy(work.folders().bundle)), draw.random()
    if kind < 0.1:
        content = {**json.loads(bundle.manifest_path.read_text()), "format": draw.choice((2, 3, 99, 10**9))}
        bundle.manifest_path.write_text(json.dumps(content))
        load_bundle(bundle.path)
        raise AcceptedError("a bundle of a later format was read")
    if kind < 0.4:
        load_bundle(_forged_archive(work, bundle.path, draw))
        return
    victim = draw.choice([*bundle.path.rglob("*.json")] * 3 + [*bundle.path.rglob("*.safetensors")])
    if victim == bundle.manifest_path or victim.suffix != ".json":
        victim.write_bytes(mutated(victim.read_bytes(), draw, [victim.read_bytes()]))
    else:
        victim.write_bytes(mutated_json(victim.read_text(), draw))
    if victim != bundle.manifest_path:
        bundle.manifest_path.unlink()
        bundle.write_manifest("0", "inputs")
    model = load_bundle(bundle.path)
    _ = (model.learners, model.headline, model.table.columns)
    model.members[0].study(Path("new.csv"))
    model.members[0].load()


def _forged_archive(work: Work, folder: Path, draw: random.Random) -> Path:
    """A zip file with the mark of a bundle and a right checksum of its bytes, and other entries than a bundle has."""
    from casewise.run_folder.bundle_folder import MARK

    path = work.folder / "forged.zip"
    names = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    victim = draw.choice(list(names))
    change = draw.choice(("drop", "rename", "twice", "content", "link", "extra", "bytes"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in names.items():
            data = file.read_bytes()
            if name == victim and change == "drop":
                continue
            if name == victim and change == "content":
                data = mutated(data, draw, [data])
            entry = zipfile.ZipInfo(name)
            if name == victim and change == "rename":
                entry.filename = draw.choice(("../x.json", "/x.json", "a\\b.json", "C:/x.json", "x.py", "a" * 400, "é"))
            if name == victim and change == "link":
                entry.external_attr = 0o120777 << 16
            archive.writestr(entry, data)
        if change == "extra":
            archive.writestr("more.json", b"0" * draw.choice((1, 10**6)))
        if change == "twice" and victim != "manifest.json":
            archive.writestr(victim + "", b"{}")
        archive.comment = MARK + b"0" * 64
    data = path.read_bytes()[:-64]
    if change == "bytes":
        data = mutated(data[: -len(MARK)], draw, [data]) + MARK
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())
    return path


def read_run_files(work: Work, draw: random.Random) -> None:
    """Files of a run folder with right checksums and another content: objects, tables, texts and states."""
    from casewise.run_folder.artefact import CHECKSUMS, JsonFile, TableFile, TextFile, WeightsFile
    from casewise.study.loading import saved_study
    from casewise.training.checkpoint import load_state

    folder = work.folder / "artefacts"
    folder.mkdir(exist_ok=True)
    kind, path = draw.choice(("object", "study", "table", "text", "state", "record")), folder / "file"
    good = {"object": _object(), "study": _study_json(work), "text": "text é", "record": '{"file": ["00"]}'}
    if kind in good:
        path.write_bytes(mutated_json(good[kind], draw) if kind != "text" else draw.randbytes(50))
    else:
        sample = work.once(f"good-{kind}", _table_bytes if kind == "table" else _state_bytes)
        path.write_bytes(mutated(sample, draw, [sample]))
    record = {path.name: [hashlib.sha256(path.read_bytes()).hexdigest()]}
    (folder / CHECKSUMS).write_bytes(path.read_bytes() if kind == "record" else json.dumps(record).encode())
    if kind in ("object", "record"):
        JsonFile(path).peek()
        JsonFile(path, required=("a",)).read()
    elif kind == "study":
        saved_study(JsonFile(path).read(), source="the study")
    elif kind == "table":
        TableFile(path).read()
    elif kind == "text":
        TextFile(path).read()
    else:
        load_state(WeightsFile(path).verified())


def _object() -> str:
    return json.dumps({"a": 1, "folds": 2, "subjects": {"A": 0, "B": 1}, "rows": [[1, 2.5, None], ["x", True, ""]]})


def _study_json(work: Work) -> str:
    facts = json.loads(next(work.folders().bundle.rglob("model.json")).read_text())["settings"]
    return json.dumps({**facts, "name": "n", "cohort": "new.csv", "backbones": ["test_resnet"], "weights": "random"})


def _table_bytes(folder: Path) -> bytes:
    from casewise.files import parquet_bytes

    return parquet_bytes(pd.DataFrame({"case": ["a", "b"] * 20, "y_pred": range(40), "p0": [0.5, None] * 20}))


def _state_bytes(folder: Path) -> bytes:
    import torch

    from casewise.run_folder import WeightsFile
    from casewise.training.checkpoint import save_state

    state = {"epoch": 3, "state_dict": {"a": torch.zeros(3), "b": [torch.ones(2), 0.5]}, "loops": {"x": (1, None)}}
    save_state(WeightsFile(folder / "state.safetensors"), state)
    return (folder / "state.safetensors").read_bytes()


def _with_a_changed_file(work: Work, source: Path, draw: random.Random, of_json: float) -> Path:
    """A copy of a store of which one file is changed; one of JSON stays JSON in this share of draws."""
    folder = work.copy(source)
    victim = draw.choice(sorted(file for file in folder.iterdir() if file.is_file()))
    data, as_json = victim.read_bytes(), victim.suffix == ".json" and draw.random() < of_json
    victim.write_bytes(mutated_json(data.decode(), draw) if as_json else mutated(data, draw, [data]))
    return folder


def read_tiles(work: Work, draw: random.Random) -> None:
    """The store of prepared photographs."""
    from casewise.modalities.store.store import open_store

    open_store(_with_a_changed_file(work, work.folders().tiles, draw, 1.0))


def read_slices(work: Work, draw: random.Random) -> None:
    """The store of prepared scans."""
    from casewise.plugins.volumes.slice_store import open_slices

    source = work.once("scans", samples.make_slices)
    open_slices(_with_a_changed_file(work, source, draw, 0.7))


READERS: tuple[FuzzedReader, ...] = (
    FuzzedReader("study file", 8, read_study_file),
    FuzzedReader("study that extends a file", 4, read_score_file),
    FuzzedReader("score", 6, read_score),
    FuzzedReader("cohort table", 10, read_table),
    FuzzedReader("own table", 2, read_own_table),
    FuzzedReader("table of new cases", 4, read_new_cases),
    FuzzedReader("image", 20, read_picture),
    FuzzedReader("mask", 4, read_mask),
    FuzzedReader("DICOM film", 10, read_film),
    FuzzedReader("DICOM scan", 8, read_series),
    FuzzedReader("NIfTI", 8, read_nifti),
    FuzzedReader("slide", 6, read_slide),
    FuzzedReader("weights", 4, read_weights),
    FuzzedReader("altered bundle", 4, read_altered_bundle),
    FuzzedReader("forged bundle", 6, read_forged_bundle),
    FuzzedReader("run folder", 6, read_run_files),
    FuzzedReader("prepared images", 4, read_tiles),
    FuzzedReader("prepared scans", 2, read_slices),
)
# The readers in the order in which inputs are given to them, each as often as its share.
TURNS = tuple(reader for turn in range(20) for reader in READERS if turn < reader.share)
