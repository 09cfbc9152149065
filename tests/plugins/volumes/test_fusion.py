"""Sequences in one network: what each fusion computes, what stands in for missing ones, weights, freezing, chance."""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from casewise.errors import SplitError, WeightsError
from casewise.files import checksum
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.models.weights import load_weights
from casewise.plugins.volumes.dataset import drop_sequences
from casewise.plugins.volumes.fusion import first_layer
from casewise.study.schema import Recipe, Study
from casewise.study.sources import MEAN, STD
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import TrainingContext, fit
from tests.test_splitting import norms_moved

KINDS = ["early", "late", "late-shared"]
NAME = "shufflenet_v2_x0_5"
NAN = float("nan")


def built(name: str = NAME, kind: Any = "early", sequences: int = 2, **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(name, options.pop("outputs", 2), fusion=kind, sequences=sequences, **options)


def panels(cases: int = 4, sequences: int = 2, side: int = 64, *, missing: tuple[tuple[int, int], ...] = ()) -> Tensor:
    found = torch.rand(cases, sequences, side, side, generator=torch.Generator().manual_seed(1))
    for case, sequence in missing:
        found[case, sequence] = NAN
    return found


def scaled(values: Tensor) -> Tensor:
    return (values - sum(MEAN) / 3) / (sum(STD) / 3)


def library_file(name: str, folder: Path, side: int | None = None) -> Path:
    """Weights as the network's library would publish them."""
    torch.manual_seed(7)
    network = build_network(name, 1, side=side)
    norms_moved(network)
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in network.body.state_dict().items()}, path)
    return path


class TestScaling:
    """A sequence is scaled by one number in place of three."""

    @pytest.mark.parametrize(
        ("name", "options", "ends", "kind"),
        [
            ("mobilenet_v2", {}, (-sum(MEAN) / sum(STD), (3 - sum(MEAN)) / sum(STD)), "late"),
            ("mobilenet_v2", {"scaling": "symmetric"}, (-1.0, 1.0), "early"),
            ("googlenet", {}, (-1.0, 1.0), "early"),
            ("test_resnet", {}, (-1.0, 1.0), "late-shared"),
        ],
    )
    @torch.no_grad()
    def test_black_and_white(self, name: str, options: Any, ends: tuple[float, float], kind: str) -> None:
        network = built(name, kind, 2, **options).eval()
        seen: list[Tensor] = []
        first = network.bodies[-1].get_submodule(first_layer(network.bodies[-1], name))
        first.register_forward_pre_hook(lambda m, i: seen.append(i[0]))
        network(torch.stack([torch.zeros(2, 64, 64), torch.ones(2, 64, 64)]))
        given = seen[0][-2:]
        assert given.shape[1] == (2 if kind == "early" else 3)
        expected = torch.tensor(ends).view(2, 1).expand(-1, given.shape[1])
        assert torch.allclose(given.mean(dim=(2, 3)), expected, atol=1e-5)


class TestEarly:
    @pytest.mark.parametrize(("name", "sequences"), [(NAME, 1), ("test_vit", 4), ("googlenet", 2)])
    def test_a_picture_in_all_channels_gives_what_colours_give(self, name: str, sequences: int, tmp_path: Path) -> None:
        side = 160 if name == "test_vit" else 64
        path = library_file(name, tmp_path)
        early, colours = built(name, "early", sequences).eval(), built(name, "late", 1).eval()
        said = load_weights(early, str(path))[0]
        load_weights(colours, str(path))
        picture = panels(2, 1, side)
        seen: list[Tensor] = []
        for network in (early, colours):
            first = network.bodies[0].get_submodule(first_layer(network.bodies[0], name))
            first.register_forward_hook(lambda m, i, o: seen.append(o))
        with torch.no_grad():
            found, wanted = early.features(picture.expand(-1, sequences, -1, -1)), colours.features(picture)
            early.features(panels(2, sequences, side).flip(-1))
        assert torch.allclose(seen[0], seen[1], rtol=1e-3, atol=1e-5 * float(seen[1].abs().max()))
        assert not torch.allclose(seen[2], seen[1], rtol=0.1, atol=0.1 * float(seen[1].abs().max()))
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        assert f"adapted to {sequences} sequence" in said
        assert (f"times 3/{sequences}" in said) == (sequences != 3)


class TestLate:
    @torch.no_grad()
    def test_features_are_those_of_each_body_one_after_another(self) -> None:
        network = built("mobilenet_v2", "late", 3).eval()
        norms_moved(network)
        given = panels(2, 3)
        apart = [body(scaled(given[:, s : s + 1]).repeat(1, 3, 1, 1)) for s, body in enumerate(network.bodies)]
        assert network.width == 3 * 1280
        assert torch.allclose(network.features(given), torch.cat(apart, dim=1), atol=1e-6)
        assert not torch.allclose(apart[0], network.bodies[1](scaled(given[:, :1]).repeat(1, 3, 1, 1)), atol=1e-3)

    @pytest.mark.parametrize("kind", ["late", "late-shared"])
    @torch.no_grad()
    def test_a_missing_sequence_is_its_learned_features(self, kind: str) -> None:
        network = built(kind=kind, missing="mask").eval()
        norms_moved(network)
        width = network.width // 2
        assert network.missing_token.shape == (2, width)
        assert not network.missing_token.any()
        network.missing_token.copy_(torch.rand(2, width))
        whole, found = network.features(panels()), network.features(panels(missing=((0, 1), (3, 0), (2, 0), (2, 1))))
        for case, there in enumerate([(True, False), (True, True), (False, False), (False, True)]):
            for s in range(2):
                part = slice(s * width, (s + 1) * width)
                wanted = whole[case, part] if there[s] else network.missing_token[s]
                assert torch.allclose(found[case, part], wanted, atol=1e-5)


class TestMissing:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("missing", ["require", "drop"])
    def test_where_none_may_be_it_is_an_error(self, kind: str, missing: str) -> None:
        network = built(kind=kind, missing=missing).eval()
        with pytest.raises(ValueError, match=f"a sequence is missing.*missing='{missing}'"):
            network(panels(missing=((1, 1),)))
        with pytest.raises(ValueError, match="2 sequences was given panels of 3"):
            network(panels(sequences=3))

    def test_statistics_of_a_batch_norm_are_not_taken_from_one_row(self) -> None:
        network = built("resnet18", "late", missing="mask").train()
        before = [{k: v.clone() for k, v in body.named_buffers()} for body in network.bodies]
        network(panels(missing=((0, 0), (1, 0), (2, 0))))
        pairs = zip(before, network.bodies, strict=True)
        kept = [all(torch.equal(b[k], v) for k, v in body.named_buffers()) for b, body in pairs]
        assert kept == [True, False]


class TestDropping:
    @given(st.integers(1, 6), st.integers(1, 4), st.floats(0, 0.99), st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def test_something_is_always_left(self, cases: int, sequences: int, rate: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        given = torch.rand(cases, sequences, 2, 2, generator=generator)
        given[torch.rand(cases, sequences, generator=generator) < 0.3] = NAN
        kept, dropped = given.clone(), drop_sequences(given, rate, generator)
        assert torch.equal(given.nan_to_num(-1), kept.nan_to_num(-1))
        before, after = (~v.isnan().flatten(2).any(dim=2) for v in (given, dropped))
        assert not (after & ~before).any()
        assert torch.equal(before.any(dim=1), after.any(dim=1))
        assert torch.equal(dropped[after], given[after])
        assert dropped[~after].isnan().all()


class TestWeights:
    @staticmethod
    def bundle(network: Network, folder: Path, subjects: list[str]) -> str:
        folder.mkdir()
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
        facts = {"backbone": network.name, "subjects": subjects, "weights": "random, as the study states"}
        facts |= {"format": 1, "network": {}, "weights_sha256": checksum(folder / "model.safetensors")}
        (folder / "model.json").write_text(json.dumps(facts))
        return f"bundle:{folder}"

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_trained_fused_network_comes_back_as_it_was(self, kind: str, tmp_path: Path) -> None:
        trained = built(kind=kind, sequences=3, missing="mask")
        with torch.no_grad():
            trained.missing_token.fill_(0.25)  # type: ignore[union-attr]
        bundle = self.bundle(trained, tmp_path / "b", ["a", "c"])
        torch.manual_seed(9)
        network = build_network(NAME, 5, fusion=kind, sequences=3, missing="mask")  # type: ignore[arg-type]
        said, seen = load_weights(network, bundle, held_out=["b"])
        assert seen == ["a", "c"]
        assert "adapted" not in said
        wanted = trained.body.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in network.body.state_dict().items())
        with pytest.raises(SplitError, match="trained on 1 subject held out here"):
            load_weights(network, bundle, held_out=["c"])

    def test_a_trained_network_of_scans_needs_the_same_sequences(self, tmp_path: Path) -> None:
        bundle = self.bundle(built(kind="late", sequences=2), tmp_path / "b", [])
        facts = json.loads((tmp_path / "b" / "model.json").read_text())
        facts |= {"network": {"fusion": "late"}, "fitted": {"sequences": ["T1", "T2"], "standard": None}}
        (tmp_path / "b" / "model.json").write_text(json.dumps(facts))
        load_weights(built(kind="late", sequences=2), bundle, channels=("T1", "T2"))
        with pytest.raises(WeightsError, match="T2, T1"):
            load_weights(built(kind="late", sequences=2), bundle, channels=("T2", "T1"))


@dataclass(frozen=True)
class Dropped:
    """Panels of which sequences are left out by chance, as training does it."""

    values: Tensor
    truth: Tensor
    names: list[str] = field(default_factory=list)
    bags: ClassVar[bool] = False
    masked: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.truth)

    def training_batch(self, rows: list[int], generator: torch.Generator, device: Any) -> tuple[Tensor, Tensor]:
        return drop_sequences(self.values[rows], 0.5, generator).to(device), self.truth[rows].to(device)

    def views(self) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(self))
        return rows.unsqueeze(1), rows

    def plain_batch(self, slots: Tensor, device: Any) -> Tensor:
        return self.values[slots[:, 0]].to(device)

    def eval_batch_size(self, batch: int, device: torch.device) -> int:
        return 4 * batch


def test_training_killed_and_continued_ends_in_the_same_bits(tmp_path: Path) -> None:
    data = Dropped(panels(11, 2, 32, missing=((0, 0), (1, 1), (9, 0))), torch.rand(11, 1))

    def trained(folder: Path, epochs: int) -> Any:
        network = built("test_resnet", "late", missing="mask", outputs=1, dropout=0.1)
        recipe = Recipe(epochs=epochs, batch_size=3, lr=0.003, optimizer="adam", weight_decay=0.01)
        context = TrainingContext([Output("one")], folder, 2, ComputePlan(), save_every=0.0)
        return fit(network, recipe, data, data, context)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = trained(tmp_path / "whole", 4)
        trained(tmp_path / "cut", 2)
        continued = trained(tmp_path / "cut", 4)
    assert whole.history == continued.history
    states = whole.network.state_dict(), continued.network.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert whole.network.missing_token.any()


def test_a_planned_study_fuses_early_and_may_name_single_sequences() -> None:
    stated: dict[str, Any] = {"name": "t", "cohort": Path("c.csv"), "volumes": {"sequences": ["t1", "flair", "post"]}}
    stated |= {"panels": {"by": "case", "grid": "2x2"}, "targets": {"label": {"classes": ["x", "y"]}}}
    planned = Study(**stated)
    assert planned.recipe.auto
    assert [planned.fusion_of(network) for network in planned.networks] == ["early"]
    named = Study(**stated, recipe="auto", backbones=["mobilenet_v2@early", "mobilenet_v2@flair"])
    assert [named.fusion_of(network) for network in named.networks] == ["early", "flair"]
    single = Study(**stated | {"volumes": {"sequences": ["t1"]}}, recipe="auto", backbones=["mobilenet_v2@early"])
    assert [single.fusion_of(network) for network in single.networks] == ["early"]
