"""The rooms of the package: what each of them may know of the others."""

import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "casewise"


def test_thorough_tests_are_files() -> None:
    tests = Path(__file__).parent
    names = (tests / "thorough.txt").read_text(encoding="utf-8").split()
    assert names == sorted(names)
    for name in names:
        file, _, test = name.partition("::")
        assert f"def {test}" in (tests / file).read_text(encoding="utf-8")


def lines_outside(rooms: tuple[str, ...], pattern: str) -> list[str]:
    """Lines of code that match, outside of some folders of the package."""
    return [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in rooms
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_few_lines_outside_their_room_name_a_modality() -> None:
    names = r"study\.(volumes|tiles)\b|modalities\.(slides|volumes|photographs)\b|isinstance\(.*(SliceData|PanelData)"
    named = lines_outside(("modalities", "study"), names)
    assert len(named) <= 10, "\n".join(named)


def test_few_lines_outside_their_room_name_a_kind_of_target() -> None:
    names = r"""[!=]= ["'](regression|classification|ordinal)["']|in \(["'](regression|classification|ordinal)"""
    named = lines_outside(("targets", "metrics", "study"), names)
    assert len(named) <= 20, "\n".join(named)


def test_metrics_and_targets_know_no_other_room() -> None:
    others = r"(from|import) casewise\.(?!metrics|targets|errors)\w+"
    files = [*(SOURCE / "metrics").rglob("*.py"), *(SOURCE / "targets").rglob("*.py")]
    imports = [f"{path}: {line}" for path in files for line in path.read_text().splitlines() if re.search(others, line)]
    assert not imports
