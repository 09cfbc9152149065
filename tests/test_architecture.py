"""The rooms of the package: what each of them may know of the others."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "casewise"


def test_thorough_tests_are_files() -> None:
    tests = Path(__file__).parent
    names = (tests / "thorough.txt").read_text(encoding="utf-8").split()
    assert names == sorted(names)
    assert all((tests / name).is_file() for name in names)


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


def imports_at_run_time(files: dict[str, Path]) -> dict[str, set[str]]:
    """For each module of a package the others that it imports, also inside functions, but not for type checking only.

    `from package import name` counts as an import of the module `package.name` if there is one, else of `package`.
    """
    graph = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text())
        guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        for guard in guards:
            guard.body = []
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= submodules & set(files) | ({node.module} if submodules - set(files) else set())
        graph[module] = imported & set(files) - {module}
    return graph


def modules_of(folder: Path, package: str) -> dict[str, Path]:
    names = {path: (package, *path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in names.items()}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_imports_form_a_circle_at_run_time() -> None:
    graph = imports_at_run_time(modules_of(SOURCE, "casewise"))
    assert sum(map(len, graph.values())) > 500
    assert not circle_in(graph)
