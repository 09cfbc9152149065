"""What is predicted does not depend on the threads that the environment states."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

RUN = """
import sys
import casewise
study, folder, table = sys.argv[1:]
run = casewise.run(study, folder)
casewise.load_bundle(run.folder).predict(table).to_parquet(f"{folder}.parquet")
"""


@pytest.mark.slow
def test_the_threads_of_the_environment_change_no_bit(tiny: Path, phantom: Path, tmp_path: Path) -> None:
    settings = {
        "[test_resnet, test_efficientnet]": "[test_resnet]",
        "counterfactual_cases: 0": "counterfactual_cases: 4",
    }
    settings |= {"{off: tests of networks}": "{}", "epochs: 2": "epochs: 1"}
    text = tiny.read_text()
    for before, after in settings.items():
        assert before in text
        text = text.replace(before, after)
    tiny.write_text(text)
    results: dict[str, list[pd.DataFrame]] = {}
    for threads in ("1", "7"):
        folder = tmp_path / threads
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", RUN, str(tiny), str(folder), str(phantom)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        names = ("predictions.parquet", "counterfactuals.parquet")
        results[threads] = [pd.read_parquet(path) for path in (*(folder / name for name in names), f"{folder}.parquet")]
    for first, second in zip(*results.values(), strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
