"""What the command line prints: progress on a terminal and in a log, wrapped text, and remedies that can be copied."""

from pathlib import Path

import pytest

from casewise.console import BEAT, Silent, Terminal, shown
from casewise.jobs.execution import JOBS_SHOWN, progress
from casewise.jobs.plan import Job
from casewise.run_folder import RunFolder
from casewise.run_folder.job_folder import FAILED


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(clock: Clock) -> Terminal:
    return Terminal(clock=clock, width=80)


def test_a_log_gets_a_line_after_a_while(terminal: Terminal, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.bar("jobs") as bar:
        bar(0, 4, "0 of 4 networks done\nresnet18, fold 1: epoch 2 of 9, loss 0.5")
        terminal.beat()
        assert capsys.readouterr().out == ""
        clock.now += BEAT
        terminal.beat()
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("jobs       0 of 4 networks done")
        assert second == "           resnet18, fold 1: epoch 2 of 9, loss 0.5"
        clock.now += 2 * BEAT
        bar(2, 4, "2 of 4 networks done\nresnet18, fold 1: epoch 2 of 9, loss 0.5")
        terminal.beat()
        # the detail has not changed
        assert capsys.readouterr().out == "jobs       2 of 4 networks done; 12 s, about 12 s left\n"
    clock.now += 60
    with terminal.bar("later") as bar:
        bar(0, 4, "measuring speed")
        terminal.beat()
        assert capsys.readouterr().out == "later      measuring speed\n"
    clock.now += 60
    terminal.beat()
    assert capsys.readouterr().out == ""


def test_the_time_left_falls_during_a_long_unit(terminal: Terminal, clock: Clock) -> None:
    with terminal.bar("explain") as bar:
        bar(0, 100)
        clock.now += 5
        bar(10, 100)
        assert "left" not in terminal.status()[0]  # too early
        clock.now += 5
        bar(20, 100)
        assert "about 40 s left" in terminal.status()[0]
        clock.now += 10  # nothing is done meanwhile
        assert "about 30 s left" in terminal.status()[0]


def test_a_step_is_shown_while_its_function_runs(terminal: Terminal) -> None:
    @shown("stack")
    def step(number: int, show: Terminal) -> tuple[int, str]:
        return number, show.status()[0].split()[0]

    assert (step(3, terminal), step(number=3, show=terminal)) == ((3, "stack"), (3, "stack"))
    with Silent().bar("nothing") as bar:
        bar(1, 2)


class TestProgressOfJobs:
    @pytest.fixture
    def jobs(self, tmp_path: Path) -> list[Job]:
        folder = RunFolder(tmp_path)
        jobs = [Job("resnet18", fold, folder.job("resnet18", fold), "print") for fold in range(4)]
        for job in jobs:
            job.folder.path.mkdir(parents=True)
        return jobs

    def test_each_running_network_has_a_line_with_epoch_and_loss(self, jobs: list[Job]) -> None:
        jobs[0].folder.record.write({"model": "resnet18", "fold": 1, "fingerprint": "print", "files": {}})
        jobs[1].folder.write_progress(3, 12, loss=0.4321)
        jobs[2].folder.write_progress(0, 12)
        done, text = progress(jobs, 0.0, set())
        assert done == pytest.approx(1 + 3 / 12)
        assert text.split("\n") == [
            "1 of 4 networks done, 1 waiting",
            "resnet18, fold 2: epoch 4 of 12, loss 0.432",
            "resnet18, fold 3: epoch 1 of 12",
        ]

    def test_a_failed_network_and_a_loss_that_is_no_number(self, jobs: list[Job]) -> None:
        jobs[0].folder.write_progress(0, 1, FAILED)
        jobs[1].folder.write_progress(2, 3, "pretraining", float("nan"))
        done, text = progress(jobs, 0.0, set())
        assert done == pytest.approx(1 + 2 / 3)
        expected = "0 of 4 networks done, 1 failed, 2 waiting\nresnet18, fold 2: pretraining, epoch 3 of 3"
        assert text == expected

    def test_finished_networks_are_remembered_and_many_running_ones_counted(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        jobs = [Job("alexnet", fold, folder.job("alexnet", fold), "print") for fold in range(JOBS_SHOWN + 3)]
        for job in jobs[1:]:
            job.folder.path.mkdir(parents=True)
            job.folder.write_progress(1, 2)
        done, text = progress(jobs, 0.0, {0})
        lines = text.split("\n")
        assert (done, len(lines)) == (pytest.approx(1 + (JOBS_SHOWN + 2) / 2), 1 + JOBS_SHOWN + 1)
        assert lines[-1] == "and 2 more"
