"""Sequences in one network: what each fusion computes, what stands in for missing ones, weights, freezing, chance."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from casewise.errors import SplitError, StudyError, TrainingError, WeightsError
from casewise.files import checksum
from casewise.models.backbones import MEAN, STD, Network, build_network
from casewise.models.freezing import freeze, layers, parameter_counts, split_at
from casewise.models.fusion import Fused, adapted, first_layer
from casewise.models.outputs import Output
from casewise.models.weights import load_weights
from casewise.plugins.volumes.dataset import drop_sequences
from casewise.study.schema import Recipe, Study
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import TrainingContext, fit
from casewise.training.rates import layer_groups, unfreeze

KINDS = ["early", "late", "late-shared"]
NAME = "shufflenet_v2_x0_5"
NAN = float("nan")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


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


def norms_moved(network: nn.Module) -> None:
    """Running statistics of a network that has seen something."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]


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
        assert torch.allclose(
            given.mean(dim=(2, 3)), torch.tensor(ends).view(2, 1).expand(-1, given.shape[1]), atol=1e-5
        )


class TestEarly:
    @pytest.mark.parametrize(("name", "sequences"), [(NAME, 1), ("test_vit", 4), ("googlenet", 2)])
    def test_one_picture_in_all_channels_gives_what_it_gives_in_colours(
        self, name: str, sequences: int, tmp_path: Path
    ) -> None:
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

    def test_each_channel_has_the_mean_of_the_colours(self, tmp_path: Path) -> None:
        path = library_file("resnet18", tmp_path)
        network = built("resnet18", "early", 2)
        load_weights(network, str(path))
        colours, found = load_file(path)["conv1.weight"], network.bodies[0].get_parameter("conv1.weight")
        assert found.shape == (64, 2, 7, 7)
        for channel in range(2):
            assert torch.allclose(found[:, channel], colours.mean(dim=1) * 1.5)
        assert torch.equal(adapted(colours, 1)[:, 0], colours.mean(dim=1) * 3)

    @pytest.mark.parametrize(("name", "sequences"), [("resnet18", 5), ("test_vit", 2)])
    def test_random_kernels_differ_by_sequence_and_spread_as_the_library_s(self, name: str, sequences: int) -> None:
        torch.manual_seed(0)
        with torch.no_grad():
            spreads = []
            for count in (3, sequences):
                network = build_network(name, 1, fusion="early", sequences=count)
                first = next(m for m in network.body.modules() if isinstance(m, nn.Conv2d))
                spreads.append(float(first(torch.randn(8, count, 160, 160)).std()))
                kernels = first.weight
                assert kernels.shape[1] == first.in_channels == count
                assert all(not torch.equal(kernels[:, 0], kernels[:, i]) for i in range(1, count))
        if name != "test_vit":  # timm draws its own
            assert 0.7 < spreads[1] / spreads[0] < 1.4

    def test_a_missing_sequence_is_its_learned_value(self) -> None:
        network = built("mobilenet_v2", "early", 3, missing="mask").eval()
        assert network.missing_token is not None
        assert network.missing_token.tolist() == [0, 0, 0]
        with torch.no_grad():
            network.missing_token.copy_(torch.tensor([0.3, -0.2, 0.7]))
            found = network.features(panels(3, 3, missing=((0, 1), (2, 0), (2, 1), (2, 2))))
            filled = scaled(panels(3, 3))
            filled[0, 1], filled[2, 0], filled[2, 1], filled[2, 2] = -0.2, 0.3, -0.2, 0.7
            assert torch.allclose(found, network.bodies[0](filled), atol=1e-5)


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

    @torch.no_grad()
    def test_one_body_for_all(self) -> None:
        network = built("mobilenet_v2", "late-shared", 3).eval()
        norms_moved(network)
        given = panels(2, 3)
        apart = [network.bodies[0](scaled(given[:, s : s + 1]).repeat(1, 3, 1, 1)) for s in range(3)]
        assert torch.allclose(network.features(given), torch.cat(apart, dim=1), atol=1e-5)
        swapped = network.features(given[:, [1, 0, 2]])
        assert torch.allclose(swapped[:, :1280], network.features(given)[:, 1280:2560], atol=1e-5)
        counts = [parameter_counts(built("mobilenet_v2", kind, 3).body).weights for kind in ("late-shared", "late")]
        assert counts[1] == 3 * counts[0]

    @pytest.mark.parametrize("kind", ["late", "late-shared"])
    @torch.no_grad()
    def test_a_missing_sequence_is_its_learned_features(self, kind: str) -> None:
        network = built(kind=kind, missing="mask").eval()
        norms_moved(network)
        assert network.missing_token is not None
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

    @pytest.mark.parametrize(("kind", "runs"), [("late", [3, 1]), ("late-shared", [4])])
    @torch.no_grad()
    def test_no_body_looks_at_what_is_missing(self, kind: str, runs: list[int]) -> None:
        network = built(kind=kind, missing="mask").eval()
        rows: list[int] = []
        for body in network.bodies:
            body.register_forward_hook(lambda m, i, o: rows.append(len(i[0])))
        network(panels(missing=((0, 1), (1, 1), (2, 1), (3, 0))))
        assert rows == runs

    @pytest.mark.parametrize("kind", ["late", "late-shared"])
    @torch.no_grad()
    def test_what_a_layer_gave_is_told_by_sequence(self, kind: str) -> None:
        network = built(kind=kind, missing="mask").eval()
        fused: Any = network.body
        gone: list[Any] = [(), ((0, 1), (2, 0)), tuple((i, 0) for i in range(4))]
        for pairs in gone:
            batch = panels(missing=pairs)
            seen: list[Tensor] = []
            hooks = [
                layer.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
                for layer in [body.get_submodule("layer4") for body in network.bodies]
            ]
            features = network.features(batch).view(4, 2, -1)
            for hook in hooks:
                hook.remove()
            maps = fused.by_sequence(seen, batch)
            assert maps.shape[:2] == (4, 2)
            there = ~batch[:, :, 0, 0].isnan()
            assert torch.equal(~maps.flatten(2).isnan().any(dim=2), there)
            assert torch.allclose(maps.mean(dim=(-2, -1))[there], features[there], atol=1e-5)


class TestMissing:
    @pytest.mark.parametrize("kind", KINDS)
    def test_in_half_the_precision(self, kind: str) -> None:
        network = built("resnet18", kind, missing="mask").train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = network(panels(missing=((0, 0), (1, 1))).to(memory_format=torch.channels_last))
        value.square().mean().backward()
        assert value.dtype == torch.float32
        assert network.channels == 2
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("missing", ["require", "drop"])
    def test_where_none_may_be_it_is_an_error(self, kind: str, missing: str) -> None:
        network = built(kind=kind, missing=missing).eval()
        with pytest.raises(ValueError, match=f"a sequence is missing.*missing='{missing}'"):
            network(panels(missing=((1, 1),)))
        with pytest.raises(ValueError, match="2 sequences was given panels of 3"):
            network(panels(sequences=3))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "gone",
        [
            tuple((i, 1) for i in range(4)),
            tuple((i, s) for i in range(4) for s in range(2))[1:],
        ],
        ids=["one in all", "everything but one"],
    )
    def test_batches_that_lack_whole_sequences_are_learned_from(self, kind: str, gone: Any) -> None:
        """At 32 px the last map of a ResNet is one pixel: a batch norm cannot use one row."""
        network = built("resnet18", kind, missing="mask").train()
        value = network(panels(side=32, missing=gone))
        value.square().mean().backward()
        assert value.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        assert network.missing_token is not None
        assert network.missing_token.grad is not None
        learned = network.missing_token.grad.reshape(2, -1).abs().sum(dim=1) > 0
        if kind == "early" and len(gone) == 8:
            return  # a batch norm makes nothing of a batch that is the same everywhere
        assert learned.tolist() == [any(s == sequence for _, s in gone) for sequence in range(2)]
        assert all(b.isfinite().all() for b in network.buffers())
        assert all(m.training for m in network.modules())

    def test_statistics_of_a_batch_norm_are_not_taken_from_one_row(self) -> None:
        network = built("resnet18", "late", missing="mask").train()
        before = [{k: v.clone() for k, v in body.named_buffers()} for body in network.bodies]
        network(panels(missing=((0, 0), (1, 0), (2, 0))))
        kept = [
            all(torch.equal(b[k], v) for k, v in body.named_buffers())
            for b, body in zip(before, network.bodies, strict=True)
        ]
        assert kept == [True, False]

    def test_frozen_norms_stay_frozen(self) -> None:
        network = built("resnet18", "late", missing="mask")
        freeze(network, "layer2")
        network.train()
        network(panels(missing=((0, 0), (1, 0), (2, 0))))
        for body in network.bodies:
            assert not body.get_submodule("bn1").training
            assert body.get_submodule("layer3.0.bn1").training


class TestDropping:
    @given(st.integers(1, 6), st.integers(1, 4), st.floats(0, 0.99), st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def test_something_is_always_left(self, cases: int, sequences: int, rate: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        given = torch.rand(cases, sequences, 2, 2, generator=generator)
        given[torch.rand(cases, sequences, generator=generator) < 0.3] = NAN
        kept = given.clone()
        dropped = drop_sequences(given, rate, generator)
        assert torch.equal(given.nan_to_num(-1), kept.nan_to_num(-1))
        before, after = (~v.isnan().flatten(2).any(dim=2) for v in (given, dropped))
        assert not (after & ~before).any()
        assert torch.equal(before.any(dim=1), after.any(dim=1))
        assert torch.equal(dropped[after], given[after])
        assert dropped[~after].isnan().all()

    def test_by_the_rate_and_each_as_likely(self) -> None:
        gone = drop_sequences(torch.zeros(20_000, 3, 1, 1), 0.4, torch.Generator().manual_seed(0)).isnan()[..., 0, 0]
        share = 0.4 - 0.4**3 / 3
        assert gone.float().mean(dim=0).tolist() == pytest.approx([share] * 3, abs=0.012)
        assert gone.all(dim=1).sum() == 0
        assert float((gone.sum(dim=1) == 2).float().mean()) == pytest.approx(3 * 0.4**2 * 0.6 + 0.4**3, abs=0.012)


class TestWeights:
    @pytest.mark.parametrize(("kind", "bodies"), [("late", 2), ("late-shared", 1)])
    def test_every_body_has_the_library_s(self, kind: str, bodies: int, tmp_path: Path) -> None:
        path = library_file(NAME, tmp_path)
        network = built(kind=kind, missing="mask")
        said, seen = load_weights(network, "pretrained", folder=tmp_path)
        assert len(network.bodies) == bodies
        stored = load_file(path)
        for body in network.bodies:
            assert all(torch.equal(v, stored[k]) for k, v in body.state_dict().items())
        assert said.startswith(f"file {path}")
        assert ("each of 2 bodies" in said) == (bodies == 2)
        assert seen == []

    def test_a_head_in_the_file_is_left_over_and_nothing_else(self, tmp_path: Path) -> None:
        tensors = load_file(library_file(NAME, tmp_path))
        save_file(tensors | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "head.safetensors")
        load_weights(built(), str(tmp_path / "head.safetensors"))
        for change, words in (({"more": torch.zeros(1)}, "more is unknown"), (None, "conv5.0.weight is missing")):
            values = tensors | change if change else {k: v for k, v in tensors.items() if k != "conv5.0.weight"}
            save_file(values, tmp_path / "wrong.safetensors")
            for kind in KINDS:
                with pytest.raises(WeightsError, match=words):
                    load_weights(built(kind=kind), str(tmp_path / "wrong.safetensors"))

    def test_kernels_that_are_no_colours_are_refused(self, tmp_path: Path) -> None:
        tensors = load_file(library_file(NAME, tmp_path))
        tensors["conv1.0.weight"] = torch.zeros(24, 4, 3, 3)
        save_file(tensors, tmp_path / "four.safetensors")
        with pytest.raises(WeightsError, match=r"conv1.0.weight is \(24, 4, 3, 3\) instead of \(24, 2, 3, 3\)"):
            load_weights(built(), str(tmp_path / "four.safetensors"))
        load_weights(built(sequences=4), str(tmp_path / "four.safetensors"))

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

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_trained_network_of_pictures_may_begin_a_fused_one(self, kind: str, tmp_path: Path) -> None:
        torch.manual_seed(2)
        trained = build_network(NAME, 1)
        bundle = self.bundle(trained, tmp_path / "b", ["a"])
        network = built(kind=kind)
        said, _ = load_weights(network, bundle, held_out=["b"])
        wanted = trained.body.get_submodule("conv5.0").weight
        assert all(torch.equal(body.get_submodule("conv5.0").weight, wanted) for body in network.bodies)  # type: ignore[arg-type]
        assert ("adapted to 2 sequences" in said) == (kind == "early")
        with pytest.raises(SplitError):
            load_weights(network, bundle, held_out=["a"])

    def test_of_another_fusion_it_is_refused(self, tmp_path: Path) -> None:
        bundle = self.bundle(built(kind="late"), tmp_path / "b", [])
        for other in (built(), built(kind="late-shared"), built(kind="late", sequences=3), built(kind=None)):
            with pytest.raises(WeightsError, match="does not belong to"):
                load_weights(other, bundle)
        with pytest.raises(WeightsError, match="missing_token is missing"):
            load_weights(built(kind="late", missing="mask"), bundle)


class TestFreezing:
    @pytest.mark.parametrize("kind", KINDS)
    def test_blocks_are_frozen_in_every_body(self, kind: str) -> None:
        network, alone = built("mobilenet_v2", kind, 3, missing="mask"), build_network("mobilenet_v2", 2)
        assert [name for name, _ in network.blocks] == [name for name, _ in alone.blocks]
        assert [name for name, _ in layers(network)] == [name for name, _ in layers(alone)]
        assert freeze(network, "11 blocks") == freeze(alone, "11 blocks") == "features.10"
        wanted = [p.requires_grad for p in alone.body.parameters()]
        for body in network.bodies:
            assert [p.requires_grad for p in body.parameters()] == wanted
        network.train()
        for body in network.bodies:
            assert not body.get_submodule("features.10").training
            assert body.get_submodule("features.11").training
        assert network.missing_token is not None
        assert network.missing_token.requires_grad
        bodies = 3 if kind == "late" else 1
        if kind != "early":
            assert parameter_counts(network).frozen == bodies * parameter_counts(alone).frozen
        freeze(network, "all")
        counts = parameter_counts(network.body)
        assert counts.trainable == network.missing_token.numel()
        freeze(network, "none")
        assert parameter_counts(network).frozen == 0

    def test_groups_of_layers_hold_those_of_every_body(self) -> None:
        network = built("resnet18", "late")
        unfreeze(network, 1, 3)
        learning = {k for k, p in network.body.named_parameters() if p.requires_grad}
        first = {k.removeprefix("bodies.0.") for k in learning if k.startswith("bodies.0.")}
        assert {k.removeprefix("bodies.1.") for k in learning if k.startswith("bodies.1.")} == first != set()
        grouped = {id(p) for group in layer_groups(network, 3) for m in group for p in m.parameters()}
        assert grouped == {id(p) for p in network.body.parameters()}

    @torch.no_grad()
    def test_an_early_network_is_cut_as_any_other(self) -> None:
        network = built("mobilenet_v2", "early").eval()
        frozen, rest = split_at(network, "11 blocks")
        assert torch.equal(rest(frozen(panels())), network.features(panels()))

    @pytest.mark.parametrize(("kind", "missing"), [("late", "require"), ("late-shared", "drop"), ("early", "mask")])
    def test_others_are_computed_at_every_step(self, kind: str, missing: str) -> None:
        with pytest.raises(TrainingError, match=f"fused \\({kind}\\).* computed at every step"):
            split_at(built("mobilenet_v2", kind, missing=missing), "11 blocks")


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"fusion": "erly"}, "fusion: must be one of early, late, late-shared, got 'erly'. Did you mean 'early'"),
            ({"fusion": "late", "missing": "mast"}, "missing: must be one of .* got 'mast'. Did you mean 'mask'"),
            ({"fusion": "late", "sequences": 0}, "sequences: there must be one at least, got 0"),
            ({"fusion": "late", "pooling": "attention"}, "every sequence by itself"),
        ],
    )
    def test_in_a_sentence(self, options: Any, words: str) -> None:
        with pytest.raises(StudyError, match=words):
            build_network("cnn", 1, **options)


@dataclass(frozen=True)
class Dropped:
    """Panels of which sequences are left out by chance, as training does it."""

    values: Tensor
    truth: Tensor
    names: list[str] = field(default_factory=list)
    bags: ClassVar[bool] = False

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


@pytest.mark.parametrize(
    "kind", ["late", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("early", "late-shared"))]
)
def test_training_killed_and_continued_ends_in_the_same_bits(kind: str, tmp_path: Path) -> None:
    data = Dropped(panels(11, 2, 32, missing=((0, 0), (1, 1), (9, 0))), torch.rand(11, 1))

    def trained(folder: Path, epochs: int) -> Any:
        network = built(kind=kind, missing="mask", outputs=1, dropout=0.1)
        recipe = Recipe(epochs=epochs, batch_size=3, lr=0.003, optimizer="adam", weight_decay=0.01)
        return fit(
            network, recipe, data, data, TrainingContext([Output("one")], folder, 2, ComputePlan(), save_every=0.0)
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = trained(tmp_path / "whole", 4)
        trained(tmp_path / "cut", 2)
        continued = trained(tmp_path / "cut", 4)
    assert whole.history == continued.history
    states = whole.network.state_dict(), continued.network.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert whole.network.missing_token.any()


BACKBONES = ["alexnet", "densenet121", "resnet18", "efficientnet_b5", "mobilenet_v2", "vit_small_patch16_224"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "late"),
        ("mobilenet_v2", "early"),
        ("vit_tiny_patch16_224", "late-shared"),
        *(pytest.param(name, kind, marks=pytest.mark.slow) for name in BACKBONES for kind in KINDS),
    ],
)
def test_every_backbone_of_the_study_learns_at_192(name: str, kind: str) -> None:
    network = built(name, kind, side=192, missing="mask", outputs=3).train()
    assert isinstance(network.body, Fused)
    value = network(panels(2, side=192, missing=((1, 1),)))
    value.square().mean().backward()
    assert value.shape == (2, 3)
    assert value.isfinite().all()
    assert network.head[1].in_features == network.width
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_a_planned_study_fuses_early_and_may_name_single_sequences() -> None:
    stated: dict[str, Any] = {"name": "t", "cohort": Path("c.csv"), "volumes": {"sequences": ["t1", "flair", "post"]}}
    stated |= {"panels": {"by": "case", "grid": "2x2"}, "targets": {"label": {"classes": ["x", "y"]}}}
    planned = Study(**stated)
    assert planned.recipe.auto
    assert [planned.fusion_of(network) for network in planned.networks] == ["early"]
    named = Study(**stated, recipe="auto", backbones=["mobilenet_v2@early", "mobilenet_v2@flair"])
    assert [named.fusion_of(network) for network in named.networks] == ["early", "flair"]
