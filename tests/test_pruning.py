"""Successive halving of candidate rates: its decisions, that nobody who is tested takes part, and how it is listed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from casewise.errors import StudyError
from casewise.jobs import nested
from casewise.jobs.nested import described, halved, rungs_of
from casewise.jobs.plan import JobInputs
from casewise.report.sections.validation import tuning
from tests.test_nested import RECIPE, SMALL, material_of, same, small_study, small_table, trained, without_times

RATES = [0.01, 1e-7, 0.003, 1e-6]
PRUNED: dict[str, Any] = {
    "nested_cv": {"folds": 2, "lr": RATES},
    "prune": "asha",
    "recipe": {**SMALL["recipe"], "epochs": 4},
}
RUNGS = [1, 2, 4]


class TestHalving:
    def test_only_the_best_half_of_a_rung_goes_on(self) -> None:
        curves = [[4.0, 9.0, 9.0], [3.0, 2.0, 5.0], [2.0, 3.0, 4.0], [1.0, 1.0, 1.0]]
        order: list[tuple[int, int]] = []

        def loss_at(candidate: int, rung: int) -> float:
            order.append((candidate, rung))
            return curves[candidate][rung]

        losses = halved(4, 3, loss_at)
        # each is better than those before it, but for the third at its second rung
        assert order == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (1, 2), (3, 0), (3, 1), (3, 2)]
        assert losses == [[4.0], [3.0, 2.0, 5.0], [2.0, 3.0], [1.0, 1.0, 1.0]]

    @pytest.mark.parametrize("count", range(1, 7))
    def test_one_is_always_trained_to_the_end(self, count: int) -> None:
        losses = halved(count, 3, lambda candidate, rung: float(candidate))
        assert losses[0] == [0.0, 0.0, 0.0]

    def test_a_candidate_that_fails_is_out_and_another_goes_on(self) -> None:
        losses = halved(3, 2, lambda candidate, rung: None if candidate == 0 else float(candidate) - rung)
        assert losses == [[None], [1.0, 0.0], [2.0]]
        assert halved(2, 2, lambda candidate, rung: None) == [[None], [None]]

    def test_the_record_says_why_each_one_ended(self) -> None:
        record = described([0.1, 0.01, 0.001], [1, 2], [[3.0], [None], [1.0, 0.5]])
        assert [(entry["why"], entry["epochs"]) for entry in record["candidates"]] == [
            ("not_in_best_half", 1),
            ("failed", 1),
            ("all_epochs", 2),
        ]
        assert (record["candidates"][0]["rank"], record["candidates"][0]["of"]) == (2, 2)

    def test_rungs_are_halves(self) -> None:
        assert [rungs_of(epochs) for epochs in (1, 2, 3, 4, 100)] == [[1], [1, 2], [1, 2, 3], RUNGS, [25, 50, 100]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobInputs, dict[str, Any], dict[str, Any]]:
    """A study with four rates of which two are hopeless, and the record and weights of its first fold's network."""
    folder = tmp_path_factory.mktemp("pruned")
    material = material_of(small_study(small_table(folder / "cohort"), **PRUNED), folder / "run")
    return material, *trained(material, folder / "job")


class TestJob:
    def test_candidates_stop_early_and_the_choice_is_among_the_others(self, plain: Any) -> None:
        _, record, _ = plain
        pruning = record["inner"]["pruning"]
        assert pruning["rungs"] == RUNGS
        by_rate = {entry["lr"]: entry for entry in pruning["candidates"]}
        assert list(by_rate) == RATES
        stopped = [rate for rate in RATES if by_rate[rate]["why"] == "not_in_best_half"]
        assert stopped
        assert record["inner"]["chosen"]["lr"] not in stopped
        for training in record["inner"]["trainings"]:
            assert len(training["losses"]) == by_rate[training["lr"]]["epochs"]
        assert sum(len(training["losses"]) for training in record["inner"]["trainings"]) < 2 * 4 * len(RATES)
        for entry in record["inner"]["rates"]:
            assert entry.get("stopped_after") == (by_rate[entry["lr"]]["epochs"] if entry["lr"] in stopped else None)

    def test_losses_are_those_without_pruning_bit_by_bit(self, plain: Any, tmp_path: Path) -> None:
        material, record, _ = plain
        whole = dataclasses.replace(material, study=material.study.model_copy(update={"prune": "none"}))
        complete, _ = trained(whole, tmp_path / "job")
        assert "pruning" not in complete["inner"]
        for pruned, other in zip(record["inner"]["trainings"], complete["inner"]["trainings"], strict=True):
            assert pruned["losses"] == other["losses"][: len(pruned["losses"])]

    def test_other_pixels_and_labels_of_a_tested_fold_change_no_decision(self, plain: Any, tmp_path: Path) -> None:
        material, record, weights = plain
        tested = tuple(material.splits.held_out(0))
        other = material_of(small_study(small_table(tmp_path / "cohort", changed=tested), **PRUNED), tmp_path / "run")
        assert other.store.address != material.store.address
        again, others = trained(other, tmp_path / "job")
        assert again["inner"]["pruning"] == record["inner"]["pruning"]
        assert without_times(again) == without_times(record)
        assert same(others, weights)

    def test_a_killed_job_continues_to_the_same_decisions(
        self, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        material, record, weights = plain
        learn, epochs = nested.learn, []

        def killed(*args: Any) -> Any:
            context = args[5]

            def tell(epoch: int, loss: float) -> None:
                epochs.append((context.folder.name, epoch))
                context.tell(epoch, loss)
                if len(epochs) == 6:
                    raise KeyboardInterrupt

            return learn(*args[:5], dataclasses.replace(context, tell=tell))

        monkeypatch.setattr(nested, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(material, tmp_path / "job")
        again, others = trained(material, tmp_path / "job")
        assert without_times(again) == without_times(record)
        assert same(others, weights)
        # an epoch that was interrupted before its state was written is the only one that is trained twice
        assert len(epochs) - len(set(epochs)) <= 1
        assert not list((tmp_path / "job").glob("inner"))

    def test_the_report_lists_the_decisions(self, plain: Any) -> None:
        _, record, _ = plain
        entry = tuning([record], epochs=4, tuned_epochs=True)
        assert entry is not None
        pruning = entry["pruning"]
        assert (pruning["candidates"], pruning["stopped"]) == (
            len(RATES),
            sum(c["why"] == "not_in_best_half" for c in record["inner"]["pruning"]["candidates"]),
        )
        assert [row["lr"] for row in pruning["rows"]] == RATES
        assert pruning["trained"] == sum(len(t["losses"]) for t in record["inner"]["trainings"])
        assert pruning["all"] == 2 * 4 * len(RATES)


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"nested_cv": None}, "the study has no nested_cv"),
            ({"nested_cv": {"folds": 2}}, "fewer than two learning rates"),
            ({"recipe": {**RECIPE, "epochs": 1, "lr": 0.01}}, "recipe.epochs is 1"),
        ],
    )
    def test_where_there_is_nothing_to_prune(self, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
        with pytest.raises(StudyError, match=sentence):
            small_study(tmp_path / "cohort.csv", **{**PRUNED, **changes})
