"""The benchmark of the sweep: what counts as its end, and what the page states."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from casewise.files import checksum
from casewise.run_folder import RunFolder

REASON = "the loss is not a number\nin epoch 2"


def reported(path: Path, networks: list[str]) -> RunFolder:
    """A run folder with a report and metrics of some networks."""
    path.mkdir()
    folder = RunFolder(path)
    folder.metrics.write({"notes": [], "metrics": {"oof": {name: {} for name in [*networks, "meta_learner_weighted"]}}})
    folder.report_path.write_text("report")
    folder.report_mark.write(checksum(folder.metrics.path))
    return folder


def test_code_1_is_the_end_only_with_a_report_without_the_networks_left_out(benchmark: Any, tmp_path: Path) -> None:
    ended = benchmark("sweep").ended
    folder = reported(tmp_path / "run", ["resnet18"])
    assert ended(folder, 0)
    assert not ended(folder, 1)
    folder.left_out.write({"networks": {"vgg11": {"2": REASON}}})
    assert ended(folder, 1)
    assert not ended(folder, 2)
    assert not ended(folder, -signal.SIGKILL)
    folder.report_mark.write("of other metrics")
    assert not ended(folder, 1)
    older = reported(tmp_path / "older", ["resnet18", "vgg11"])
    older.left_out.write({"networks": {"vgg11": {"2": REASON}}})
    assert not ended(older, 1)
    older.report_path.unlink()
    assert not ended(older, 1)


def test_the_page_counts_the_networks_of_the_study_and_names_those_left_out(benchmark: Any, tmp_path: Path) -> None:
    folder = reported(tmp_path / "run", ["resnet18"])
    networks = ["resnet18", "vgg11"]
    study: Any = SimpleNamespace(networks=networks, learners=networks, split=SimpleNamespace(folds=5))
    costs = {"model": "resnet18", "seconds": 2.0, "core_seconds": 3.0, "stretches": 1, "parameters": 11_000_000}
    costs |= {"fingerprint": "", "files": {}}
    for fold in range(5):
        folder.job("resnet18", fold).record.write({**costs, "fold": fold, "precision": "fp32", "peak_memory_mb": 512.0})
    stretches = [{"code": 1, "seconds": 60.0, "core_seconds": 100.0, "finished": {}}]
    complete = benchmark("sweep").page(folder, study, stretches)
    assert "10 of them and 1 combined learners" in complete
    assert "could not be trained: none." in complete
    folder.left_out.write({"networks": {"vgg11": {"2": REASON}}})
    page = benchmark("sweep").page(folder, study, stretches)
    assert page.startswith("# The sweep: 10 networks of One-Step PASI")
    assert "- **10 networks** (2 backbones × 5 folds) in the study file; 5 of them" in page
    assert "could not be trained: vgg11." in page
    assert "vgg11, fold 2: the loss is not a number in epoch 2" in page
    assert "| resnet18 | 11.0 | 2.0 | 3.0 | fp32 | 512 |" in page
