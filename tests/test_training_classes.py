"""Classes and grades in training: losses against closed forms, probabilities, weights, drawing, the probed head."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from casewise.errors import SplitError
from casewise.modalities.dataset import PanelData, epoch_batches
from casewise.models.backbones import build_network
from casewise.models.outputs import Output, class_counts, value_columns, values_of, width_of
from casewise.study.schema import Panels, Recipe, Study
from casewise.targets import kind_named
from casewise.training.linear_models import probe
from casewise.training.loop import standardise
from casewise.training.losses import Scaling, balanced, class_weights, guess_loss, loss_of

LABEL, GRADE, NUMBER = Output("label", "classification", 3), Output("grade", "ordinal", 4), Output("extent")
NAN = float("nan")


def loss(raw: Tensor, truth: Tensor, *outputs: Output, plain: bool = False, weights: object = None, **recipe: object):
    scaling = Scaling(torch.zeros(width_of(outputs)), torch.ones(width_of(outputs)))
    return loss_of(raw, truth, outputs, Recipe.model_validate(recipe), scaling, weights=weights, plain=plain)


def drawn(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestTheLoss:
    raw, truth = drawn(5, 3), torch.tensor([[0.0], [2.0], [NAN], [1.0], [2.0]])

    def log_p(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of the rows that are scored, and their classes."""
        scored = [0, 1, 3, 4]
        values = self.raw.numpy()[scored]
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True)), np.array([0, 2, 1, 2])

    def test_of_classes_is_the_cross_entropy_of_what_was_scored(self) -> None:
        log_p, label = self.log_p()
        expected = -log_p[range(4), label].mean()
        assert float(loss(self.raw, self.truth, LABEL)) == pytest.approx(expected, abs=1e-6)

    def test_smoothing_spreads_a_share_over_all_classes(self) -> None:
        log_p, label = self.log_p()
        expected = (-0.9 * log_p[range(4), label] - 0.1 * log_p.mean(axis=1)).mean()
        assert float(loss(self.raw, self.truth, LABEL, label_smoothing=0.1)) == pytest.approx(expected, abs=1e-6)

    def test_weights_are_those_of_the_true_class(self) -> None:
        log_p, label = self.log_p()
        w = np.array([0.5, 2.0, 1.0])
        expected = -(w[label] * log_p[range(4), label]).sum() / w[label].sum()
        found = loss(self.raw, self.truth, LABEL, weights=[torch.tensor(w)])
        assert float(found) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0, 0.5, 2.0])], ids=["plain", "weighted"])
    def test_of_grades_is_the_likelihood_of_the_grade(self, weights: Tensor | None) -> None:
        raw, grade = drawn(6, 3, seed=1), torch.tensor([0, 1, 2, 3, 3, 0])
        each = -values_of(raw, [GRADE]).double()[range(6), grade].log()
        w = torch.ones(6) if weights is None else weights[grade]
        found = loss(raw, grade[:, None].double(), GRADE, weights=None if weights is None else [weights])
        assert float(found) == pytest.approx(float((each * w).sum() / w.sum()), abs=1e-5)

    def test_a_step_above_the_grade_does_not_teach(self) -> None:
        raw = drawn(1, 3).float().requires_grad_()
        loss(raw, torch.tensor([[1.0]]), GRADE).backward()
        assert raw.grad[0, 2] == 0
        assert raw.grad[0, 0] < 0 < raw.grad[0, 1]  # the first step is passed, the second is not

    def test_of_several_targets_is_their_mean(self) -> None:
        raw = drawn(4, 7, seed=2)
        truth = torch.tensor([[0.0, 1.0, 0.3], [2.0, NAN, -1.0], [1.0, 3.0, NAN], [NAN, 0.0, 2.0]])
        together = loss(raw, truth, LABEL, GRADE, NUMBER)
        places = [(slice(0, 3), LABEL), (slice(3, 6), GRADE), (slice(6, 7), NUMBER)]
        apart = [loss(raw[:, place], truth[:, n : n + 1], output) for n, (place, output) in enumerate(places)]
        assert float(together) == pytest.approx(float(sum(apart)) / 3, abs=1e-6)


logits = arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32))


class TestWhatIsPredicted:
    @given(logits)
    @settings(max_examples=50, deadline=None)
    def test_probabilities_sum_to_one_and_grades_are_passed_in_order(self, raw: np.ndarray) -> None:
        found = values_of(torch.from_numpy(raw), [LABEL, GRADE, NUMBER]).numpy()
        label, grade, number = (found[:, place] for place in value_columns([LABEL, GRADE, NUMBER]))
        for shares in (label, grade):
            assert (shares >= 0).all()
            assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
        above = 1 - np.cumsum(grade, axis=1)  # of more than each grade
        assert (np.diff(above, axis=1) <= 1e-6).all()
        assert np.allclose(above[:, 0], 1 / (1 + np.exp(-raw[:, 3].astype(float))), atol=1e-5)
        assert np.array_equal(number[:, 0], raw[:, 6])


class TestImbalance:
    truth = torch.tensor([[0.0]] * 12 + [[1.0]] * 6 + [[2.0]] * 2 + [[NAN]] * 4)

    def test_weights_are_those_of_scikit_learn(self) -> None:
        from sklearn.utils.class_weight import compute_class_weight

        known = self.truth[~self.truth.isnan()].numpy()
        expected = compute_class_weight("balanced", classes=np.arange(3), y=known)
        assert class_weights(self.truth, [LABEL])[0].tolist() == pytest.approx(expected.tolist())
        assert class_counts(self.truth[:, 0], LABEL).tolist() == [12, 6, 2]
        assert [len(w) for w in class_weights(torch.zeros(2, 2), [NUMBER, LABEL])] == [0, 3]

    def test_drawing_shows_every_class_as_often(self) -> None:
        shares = balanced(self.truth, [LABEL])
        assert float(shares.sum()) == pytest.approx(1)
        by_class = [float(shares[self.truth[:, 0] == k].sum()) for k in range(3)]
        assert by_class == pytest.approx([by_class[0]] * 3)
        epochs = [epoch_batches(len(self.truth), 4, 0, number, shares=shares) for number in range(300)]
        seen = [row for epoch in epochs for batch in epoch for row in batch]
        counts = class_counts(self.truth[seen, 0], LABEL)
        assert counts.min() > 0.9 * counts.max()
        assert epoch_batches(len(self.truth), 4, 0, 7, shares=shares) == epochs[7]

    def test_a_class_that_early_stopping_took_away_is_said(self) -> None:
        from casewise.jobs.job import check_classes

        targets = {"label": {"classes": ["covid", "no_finding", "pneumonia"]}, "age": {"range": (0, 99)}}
        study = Study.model_validate({"name": "s", "cohort": "x", "backbones": ["resnet18"], "targets": targets})
        both = torch.cat([self.truth, self.truth], dim=1)
        check_classes(study, both, where="resnet18, fold 1")
        both[both[:, 0] == 2, 0] = NAN
        with pytest.raises(SplitError, match="resnet18, fold 1: no training subject has label 'pneumonia'"):
            check_classes(study, both, where="resnet18, fold 1")

    def test_guessing_says_the_shares_of_the_training_rows(self) -> None:
        train, judged = torch.tensor([[0.0], [0.0], [0.0], [1.0], [2.0], [NAN]]), torch.tensor([[0.0], [2.0]])
        expected = -(np.log(3 / 5) + np.log(1 / 5)) / 2
        assert guess_loss(train, judged, [LABEL], Recipe()) == pytest.approx(expected, rel=1e-6)
        numbers = torch.tensor([[1.0], [3.0]])
        assert guess_loss(numbers, torch.tensor([[4.0]]), [NUMBER], Recipe()) == pytest.approx(4.0)


def coloured(truth: Tensor) -> PanelData:
    """Tiles whose colours follow the first target's class, with noise."""
    generator = torch.Generator().manual_seed(3)
    store = torch.randint(0, 140, (len(truth), 3, 32, 32), generator=generator, dtype=torch.uint8)
    for row, value in enumerate(truth[:, 0].nan_to_num().long().tolist()):
        store[row, value % 3] += 40 + 20 * (value // 3)
    return PanelData(store, [[row] for row in range(len(truth))], truth, Panels())


class TestTheProbedHead:
    @pytest.mark.parametrize(("output", "classes"), [(LABEL, 3), (Output("two", "classification", 2), 2), (GRADE, 4)])
    def test_is_better_than_guessing(self, output: Output, classes: int) -> None:
        from casewise.models.shared_parts import predict_together

        torch.manual_seed(0)
        truth = (torch.arange(48) % classes)[:, None].float()
        truth[5] = NAN
        data, network = coloured(truth), build_network("test_resnet", width_of([output]))
        standardise(network, truth, [output])
        probe(network, data, [str(row // 2) for row in range(48)], [output], batch=8)
        with torch.no_grad():
            raw = network.eval()(data.plain_batch(torch.arange(48)[:, None], torch.device("cpu")))
        assert float(loss(raw, truth, output)) < 0.7 * guess_loss(truth, truth, [output], Recipe())
        told = predict_together([network], data, [output], batch=8, channels_last=False, flips=True)[0][0].numpy()
        known = ~np.isnan(truth[:, 0].numpy())
        assert (kind_named(output.kind).decide(told) == truth[:, 0].numpy())[known].mean() > 0.8

    def test_of_classes_is_a_logistic_regression(self) -> None:
        from sklearn.linear_model import LogisticRegression

        truth, network = (torch.arange(30) % 3)[:, None].float(), build_network("test_resnet", 3)
        seen = drawn(30, network.width, seed=4).float()
        seen[:, :3] += 3 * torch.eye(3)[truth[:, 0].long()]
        probe(network, coloured(truth), [str(row) for row in range(30)], [LABEL], batch=8, cached_features=seen)
        found = values_of(network.head.eval()(seen).detach(), [LABEL]).numpy()
        rows = ((seen - seen.mean(dim=0)) / seen.std(dim=0, correction=0)).double().numpy()
        of_some_penalty = [
            LogisticRegression(C=c, max_iter=300).fit(rows, truth[:, 0].numpy()).predict_proba(rows)
            for c in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
        ]
        assert min(np.abs(found - p).max() for p in of_some_penalty) < 1e-3
