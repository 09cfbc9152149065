"""Seeded mutations of study files and cohort tables, which `tests.fuzz` reads."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
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
    "".join(f"unknown{i}: 1\n" for i in range(9000)),
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


def studies(seed: int, count: int) -> Iterator[bytes]:
    """Study files, most of them with one to three values or lines replaced."""
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        if draw.random() < 0.6:
            values = yaml.safe_load(SETTINGS)
            for _ in range(draw.randint(1, 3)):
                _replace_a_value(values, draw)
            text = yaml.safe_dump(values, allow_unicode=draw.random() < 0.5, sort_keys=False)
            yield text.encode("utf-8", "surrogatepass")
            continue
        lines = SETTINGS.strip().split("\n")
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(lines))
            change = draw.choice(("insert", "insert", "drop", "double", "indent", "cut", "character"))
            if change == "insert":
                lines.insert(at, draw.choice(LINES))
            elif change == "drop":
                lines.pop(at)
            elif change == "double":
                lines.insert(at, lines[at])
            elif change == "indent":
                lines[at] = " " * draw.randint(1, 9) + lines[at]
            elif change == "cut":
                lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]
            else:
                where = draw.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:where] + draw.choice("[]{}:,&*!|>'\"%@`#-?\0\t\x85é") + lines[at][where:]
        data = "\n".join(lines).encode("utf-8")
        yield _flipped(data, draw) if draw.random() < 0.2 else data


def _replace_a_value(values: Any, draw: random.Random) -> None:
    parent, key = values, draw.choice(list(values))
    while isinstance(parent[key], (dict, list)) and parent[key] and draw.random() < 0.6:
        parent = parent[key]
        key = draw.choice(list(parent)) if isinstance(parent, dict) else draw.randrange(len(parent))
    change = draw.random()
    if isinstance(parent, dict) and change < 0.1:
        del parent[key]
        values.setdefault("name", "hostile")
    elif isinstance(parent, dict) and change < 0.2:
        parent[draw.choice(["x", "recipee", "k" * 3000, "a b", "é", "0"])] = parent.pop(key)
    else:
        parent[key] = draw.choice(NASTY)


def tables(seed: int, count: int) -> Iterator[bytes]:
    """Tables in every format, with cells, lines, encodings or bytes changed."""
    for number in range(count):
        draw = random.Random(f"{seed}-{number}")
        rows = [list(HEADING), *table_rows()]
        for _ in range(draw.randint(0, 3)):
            row = draw.choice(rows)
            row[draw.randrange(len(row))] = draw.choice(CELLS)
        kind = draw.choice(("csv", "csv", "csv", "tsv", "semicolon", "xlsx", "parquet"))
        data = _table_bytes(kind, rows, draw)
        if draw.random() < 0.5:
            data = _flipped(data, draw)
        yield data


CELLS = [
    "", " ", "NA", "1,5", "1.234,5", "=1+1", "-x", "@a", "a" * 131_073, "9" * 5000, "1e999", "nan", "inf", "-0",
    "0x10", "١", "01/02/2024", "31.12.2024", "2024-02-30", "24-1-1", "C:\\img\\1.jpg", "\\\\server\\1.jpg",
    "/etc/passwd", "../1.jpg", ".", "\0", "a\0b", "é", "中", "\u202e", "a\nb", "a\r\nb", '"', '"a', 'a"b', ";", ",",
    "\t", "covdi", "COVID", "s0", "S 1", "/dev/zero", "a" * 5000 + "/b.jpg", "path", "subject", "day", "sep=;", "'=1",
    "x" * 30_000, "\ufeff",
]  # fmt: skip


def _table_bytes(kind: str, rows: list[list[str]], draw: random.Random) -> bytes:
    if kind == "xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for name in ["Sheet", "Other"][: draw.randint(1, 2)]:
            sheet = book[name] if name in book.sheetnames else book.create_sheet(name)
            for row in rows:
                sheet.append([_sheet_value(cell) for cell in row])
        buffer = io.BytesIO()
        book.save(buffer)
        return _changed_archive(buffer.getvalue(), draw) if draw.random() < 0.5 else buffer.getvalue()
    if kind == "parquet":
        import pandas as pd

        width = len(rows[0])
        named = {
            f"{name}{'' if rows[0].index(name) == i else i}": [r[i] for r in rows[1:]] for i, name in enumerate(rows[0])
        }
        assert len(named) <= width
        return pd.DataFrame(named).to_parquet(index=False)
    delimiter = {"csv": ",", "tsv": "\t", "semicolon": ";"}[kind]
    if kind == "semicolon":
        rows = [
            rows[0],
            *[[c.replace(".", ",") if c.replace(".", "").isdecimal() else c for c in row] for row in rows[1:]],
        ]
    quoted = draw.random() < 0.7
    lines = [
        delimiter.join(f'"{c.replace(chr(34), chr(34) * 2)}"' if quoted and not c.isalnum() else c for c in row)
        for row in rows
    ]
    small = sum(map(len, lines)) < 10_000
    if small and draw.random() < 0.1:
        lines = [delimiter.join([line] * 700) for line in lines]
    elif small and draw.random() < 0.05:
        lines += lines[1:] * 400
    text = draw.choice(("\n", "\r\n", "\r")).join(lines)
    encoding = draw.choice(
        ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "mac-roman", "shift-jis")
    )
    return text.encode(encoding, "replace")


def _sheet_value(cell: str) -> Any:
    cell = "".join(c for c in cell if c.isprintable())[:32_000]
    return (
        float(cell)
        if cell.replace(".", "", 1).isascii() and cell.replace(".", "", 1).isdecimal() and len(cell) < 300
        else cell
    )


def _changed_archive(data: bytes, draw: random.Random) -> bytes:
    """The workbook with one of its parts left out, cut, changed, or replaced with many repeated cells."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        victim, change = draw.choice(names), draw.choice(("drop", "cut", "flip", "far", "bomb"))
        for name in names:
            part = old.read(name)
            if change == "far" and name.startswith("xl/worksheets/sheet"):
                part = part.replace(b'r="A3"', b'r="XFD3"').replace(b'r="5"', b'r="1048576"')
            elif change == "bomb" and name.startswith("xl/worksheets/sheet"):
                part = part.replace(
                    b"</sheetData>", b'<row><c t="inlineStr"><is><t>x</t></is></c></row>' * 20_000 + b"</sheetData>"
                )
            elif name == victim and change == "drop":
                continue
            elif name == victim and change == "cut":
                part = part[: draw.randrange(len(part) + 1)]
            elif name == victim and change == "flip":
                part = _flipped(part, draw)
            new.writestr(name, part)
    return buffer.getvalue()


def _flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(changed) + 1)
        choice = draw.random()
        if choice < 0.4 and at < len(changed):
            changed[at] = draw.randrange(256)
        elif choice < 0.6:
            changed[at:at] = bytes(
                draw.choice((b"\0", b'"', b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n\n", b",,", b"\xe9"))
            )
        elif choice < 0.8:
            del changed[at : at + draw.randint(1, 40)]
        elif choice < 0.9:
            del changed[at:]
        else:
            changed[at:at] = changed[max(0, at - 200) : at]
    return bytes(changed)


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
