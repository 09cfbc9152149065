"""Values, lines and cells that nobody should write, of which `tests.fuzz` makes study files and cohort tables."""

from pathlib import Path
from typing import Any

import yaml

SETTINGS = """
name: hostile
cohort: cohort.csv
root: images
columns: {visit: visit_no}
where: {view: PA}
subject_names: [["1", "01"]]
targets: {grade: {range: 0..4, integer: true}, label: [covid, no_finding], age: 0..120}
scores: {total: {formula: grade * 2 + age, range: 0..200}}
outputs: [label, grade, age]
primary_outcome: label
backbones: [resnet18, "timm:vit_tiny_patch16_224"]
weights: {resnet18: random, "timm:vit_tiny_patch16_224": random}
panels: {by: case, grid: 2x2, rotate: 10, flip: both, augmentation: as_stated}
split: {test: 10%, folds: 3, stratify_by: label}
audit: {columns: [site], permutations: 99}
accept: {shortcut-site: known}
recipe: {lr: 0.001, epochs: 3, batch_size: 8, early_stopping: {monitor: inner, patience: 5}, phases: []}
stack: [mean]
external: {cohort: other.csv, columns: {visit: v}, by: [site]}
evaluation: {subgroups: [sex], baseline: first, response: false, confidence: 0.95, bands: {}, readers: {}}
compute: {jobs: 1, device: cpu}
seed: 3
"""
NASTY: list[Any] = [
    None, True, 0, -1, 1, 2.5, 1e308, float("nan"), float("inf"), 10**18, 10**30, -(2**70), "", " ", "x", "0..4",
    "4..0", [], {}, [[]], [None], ["flip"], [1, 2], {"a": 1}, {"range": "0..4"}, {1: 2}, {None: None},
    [{"a": [1, "b"]}], [[[[[1]]]]], "9" * 5000, "x" * 100_000, "9" * 400 + ".." + "9" * 401, "0..1000000000", "1e999",
    "nan", "-", "1,5", "10%", "1000000%", "a\0b", "\ud800", "\x1b[31m", "\u202e", "../../..", "/", "/dev/zero",
    "/dev/null", "C:\\a\\b.csv", "~", "a" * 5000 + ".csv", "not " * 480 + "a", "x" + ".a" * 900,
    "(" * 150 + "a" + ")" * 150, "-" * 1900 + "a", "a[b][c]", "sum(", "1 if a else b", "lambda: 0", "a" + "+a" * 900,
    "grade ** 9 ** 9", "9" * 300 + "*grade", "'" * 3, "grade\n+1", "resnet19", "timm:nothing", {"kind": ["a"]},
    {"kind": "ordinal", "range": "0..999999999"}, {"classes": 5}, {"classes": {"a": [[1]]}},
    {"classes": ["a", "b"], "range": 5}, {"column": [1]}, {"formula": "a", "range": 5},
    {"level": "x", "range": "0..1"}, list(range(3000)), {f"key{i}": i for i in range(3000)},
    [f"c{i}" for i in range(8000)], [{"a": 1}] * 500,
]  # fmt: skip
LINES = [
    *("name: 2024-13-45", "seed: 0b_", "name: !!int x", "seed: " + "9" * 5000, "title: " + "[" * 3000, "- a"),
    *("? [a]\n: 1", "\tx: 1", "a: &a [*a]", "title: *nothing", "extends: onestep-pasi", "extends: hostile.yaml"),
    *("extends: [a]", "title: !!binary aGk=", "title: !!python/object/apply:os.system [ls]", "<<: 5", "<<: {seed: 1}"),
    *("seed: 1:99:5", 'title: "\\0"', 'title: "\\ud800"', "%YAML 9.9", "---\na: 1", "...", "x" * 200_000),
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)),
    "".join(f"unknown{i}: 1\n" for i in range(900)),
    "title: |\n" + " x" * 50_000,
]
HEADING = ["path", "subject", "visit_no", "date", "view", "label", "grade", "age", "site", "sex"]


def table_rows() -> list[list[str]]:
    """The rows of a good table without its heading."""
    return [
        [
            *(f"{i}.jpg", f"S{i // 2}", f"v{i % 2}", f"2024-0{1 + i % 2}-1{i % 9}", "PA"),
            *(("covid", "no_finding")[i // 2 % 2], str(i % 5), f"{40 + i}.5", f"site{i // 2 % 3}", "fm"[i // 2 % 2]),
        ]
        for i in range(24)
    ]


CELLS = [
    "", " ", "NA", "1,5", "1.234,5", "=1+1", "-x", "@a", "a" * 131_073, "9" * 5000, "1e999", "nan", "inf", "-0",
    "0x10", "١", "01/02/2024", "31.12.2024", "2024-02-30", "24-1-1", "C:\\img\\1.jpg", "\\\\server\\1.jpg",
    "/etc/passwd", "../1.jpg", ".", "\0", "a\0b", "é", "中", "\u202e", "a\nb", "a\r\nb", '"', '"a', 'a"b', ";", ",",
    "\t", "covdi", "COVID", "s0", "S 1", "/dev/zero", "a" * 5000 + "/b.jpg", "path", "subject", "day", "sep=;", "'=1",
    "x" * 30_000, "\ufeff",
]  # fmt: skip


def prepare(folder: Path) -> None:
    """A good study, its tables, and files in the places of its images."""
    (folder / "images").mkdir(exist_ok=True)
    for row in table_rows():
        (folder / "images" / row[0]).write_bytes(row[0].encode())
    text = "\n".join(",".join(row) for row in [HEADING, *table_rows()]) + "\n"
    for name in ("cohort.csv", "other.csv"):
        (folder / name).write_text(text)
    good = {key: value for key, value in yaml.safe_load(SETTINGS).items() if key not in ("external", "subject_names")}
    good["evaluation"] = {"response": False}
    (folder / "good.yaml").write_text(yaml.safe_dump(good))
    (folder / "hostile.yaml").write_text((folder / "good.yaml").read_text())
