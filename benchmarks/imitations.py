"""What casewise imitates of fastai, Keras and timm, point by point: both programs are run and compared.

    python benchmarks/imitations.py [--tiles 10000] [--output docs/results/imitations.md]

A point whose values differ needs a reason in imitations.csv; without one the exit code is 1. The extra `bench` has
fastai and Keras, whose layers PyTorch computes.

The head of the page follows, with its figures in braces.

# fastai, Keras and timm, point by point

The presets imitate fastai (`covid-cxr`), Keras (`ssc-skin`) and timm (`ipmn-mri-transformer`). This page is made by
`benchmarks/imitations.py`, which runs the originals and casewise. Changes of tiles: the share of {tiles:,} tiles that
are changed, the lowest and the highest value, the standard deviation, and the largest difference of cumulative shares
(Kolmogorov and Smirnov). Up to {limit:.3f}, which equal distributions exceed in one of a hundred comparisons, counts as
equal. Points without a number were read in both sources. {versions}.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pages
import pandas as pd
import torch
import yaml
from scipy.stats import ks_2samp
from torch import Tensor, nn

from casewise.modalities.dataset import PanelData
from casewise.modalities.panels import augmented
from casewise.models.backbones import build_network
from casewise.models.freezing import frozen_end, parameter_counts
from casewise.models.outputs import Output
from casewise.plugins.published.layer_rates import layer_rates
from casewise.plugins.volumes.fusion import adapted
from casewise.study.images import Panels
from casewise.study.loading import preset_text
from casewise.study.recipe import Recipe
from casewise.study.sources import MEAN, STD
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training, TrainingContext
from casewise.training.rates import optimizer_of

SIDE, GREYS = 32, (64, 192)
# Points that were read in both sources, and reasons for differences.
READ = pd.read_csv(Path(__file__).with_suffix(".csv"), keep_default_na=False).set_axis(
    ["original", "point", "theirs", "ours", "reason"], axis=1
)


@dataclass(frozen=True)
class Point:
    """One point: what the original does and what casewise does, and whether both are equal."""

    name: str
    original: str
    ours: str
    equal: bool


def same(name: str, original: object, ours: object) -> Point:
    """A point whose two values are compared as texts."""
    return Point(name, str(original), str(ours), str(original) == str(ours))


def near(name: str, difference: object, limit: float) -> Point:
    """A point whose values were computed by both programs from the same input: their largest difference."""
    return Point(name, "computed", f"differs by {float(difference):.1g}", float(difference) <= limit)  # type: ignore[arg-type]


# Augmentation


def ramp(tiles: int) -> Tensor:
    """Tiles whose two channels are the column and the row, in eighths of a byte: (tiles, 3, SIDE, SIDE) `uint8`."""
    rows, columns = torch.meshgrid(torch.arange(SIDE) * 8, torch.arange(SIDE) * 8, indexing="ij")
    return torch.stack([columns, rows, torch.full_like(rows, 128)]).byte().expand(tiles, -1, -1, -1).contiguous()


def mappings(seen: Tensor, half: float) -> Tensor:
    """(B, 3, 3) the projective map by which each tile was read, from -1 to 1 with `half` pixels on either side."""
    at = torch.arange(9, SIDE - 8, 3)
    centre = (SIDE - 1) / 2
    y, x = (torch.stack(torch.meshgrid(at, at, indexing="ij")).reshape(2, -1).double() - centre) / half
    target = (seen[:, :2][:, :, at][..., at].reshape(len(seen), 2, -1).double() * 255 / 8 - centre) / half
    u, v = target[:, 0], target[:, 1]
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    x, y = x.expand_as(u), y.expand_as(u)
    equations = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=2),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=2),
        ],
        dim=1,
    )
    solved = torch.linalg.lstsq(equations, torch.cat([u, v], dim=1).unsqueeze(2)).solution[:, :, 0]
    return torch.cat([solved, solved.new_ones(len(solved), 1)], dim=1).view(-1, 3, 3)


def corners(maps: Tensor) -> Tensor:
    """(B, 4, 2) where the corners of each tile are read."""
    places = maps.new_tensor([[-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]])
    moved = places @ maps.transpose(1, 2)
    return moved[..., :2] / moved[..., 2:]


def displacement(maps: Tensor) -> np.ndarray:
    """(B,) the mean distance of the corners from where they are without a change."""
    still = corners(torch.eye(3, dtype=maps.dtype)[None])
    return (corners(maps) - still).norm(dim=2).mean(dim=1).numpy()


def symmetries(maps: Tensor) -> np.ndarray:
    """(8,) the shares of the eight symmetries of a square, the tile as it is first."""
    turned = maps[:, :2, :2].round().long()
    signs = turned.sum(dim=2) < 0
    number = 4 * turned[:, 0, 1].abs() + 2 * signs[:, 1] + signs[:, 0]
    return np.bincount(number.numpy(), minlength=8) / len(maps)


def defaults(function: Any) -> dict[str, Any]:
    """The defaults of a function's arguments."""
    return {name: entry.default for name, entry in inspect.signature(function).parameters.items()}


def lighting(seen: Tensor) -> np.ndarray:
    """(B, 2) shift and factor of the log odds of two greys."""
    grey = torch.logit(torch.tensor(GREYS) / 255)
    low, high = torch.logit(seen[:, :2].mean(dim=(2, 3))).T
    factor = (high - low) / (grey[1] - grey[0])
    return torch.stack([low / factor - grey[0], factor], dim=1).numpy()


def of_casewise(store: Tensor, **stated: Any) -> Tensor:
    """Tiles augmented by casewise with the named set, but what is stated."""
    settings = Panels.model_validate({"by": "image", "augmentation": "fastai-default", **stated})
    slots = torch.arange(len(store)).unsqueeze(1)
    return augmented(store, slots, settings, torch.Generator().manual_seed(1))


def of_fastai(store: Tensor, **stated: Any) -> Tensor:
    """Tiles augmented by fastai's default transforms with vertical flips, but what is stated."""
    from fastai.vision import all as fastai

    fastai.set_seed(2)
    seen = fastai.TensorImage(store.float() / 255)
    for transform in fastai.aug_transforms(**{"flip_vert": True, **stated}):
        seen = transform(seen, split_idx=0)
    return torch.Tensor(seen)


GEOMETRY = {"rotate": 0, "zoom_in": 0, "perspective": 0, "flip": "none"}
OF_FASTAI = {"max_rotate": 0, "max_zoom": 1.0, "max_warp": 0, "do_flip": False}
# What is compared with everything else off: its keys in casewise and in fastai, and how it is measured.
MEASURES: dict[str, tuple[str, str, Callable[[Tensor], np.ndarray]]] = {
    "rotation, degrees": ("rotate", "max_rotate", lambda m: torch.atan2(m[:, 1, 0], m[:, 0, 0]).rad2deg().numpy()),
    "enlargement": ("zoom_in", "max_zoom", lambda m: (1 / m[:, 0, 0]).numpy()),
    "place of the enlarged part": ("zoom_in", "max_zoom", lambda m: m[:, 0, 2].numpy()),
    "warp, x": ("perspective", "max_warp", lambda m: m[:, 2, 0].numpy()),
    "warp, y": ("perspective", "max_warp", lambda m: m[:, 2, 1].numpy()),
}


def spread(values: np.ndarray, neutral: float) -> str:
    """The share of tiles that are changed, and the lowest value, the standard deviation and the highest value."""
    changed = float((np.abs(values - neutral) > 1e-3).mean())
    return f"{100 * changed:.1f} %; {values.min():.3f} to {values.max():.3f}, SD {values.std():.3f}"


def distribution(name: str, original: np.ndarray, ours: np.ndarray, neutral: float, limit: float) -> Point:
    """The point of one kind of change."""
    # rounding must not order tiles that are not changed
    rounded = [values.round(4) for values in (original, ours)]
    distance = float(ks_2samp(*rounded).statistic)
    return Point(name, spread(original, neutral), f"{spread(ours, neutral)}; {distance:.3f}", distance <= limit)


def augmentation(tiles: int, limit: float) -> Iterator[Point]:
    """The points of the augmentation preset."""
    store, dark = ramp(tiles), {"brightness": 0, "contrast": 0}
    halves = (SIDE - 1) / 2, SIDE / 2

    def both(ours: dict[str, Any], original: dict[str, Any]) -> tuple[Tensor, Tensor]:
        seen = of_fastai(store, max_lighting=0, **original), of_casewise(store, **dark, **ours)
        return mappings(seen[0], halves[0]), mappings(seen[1], halves[1])

    for name, (key, of_original, measure) in MEASURES.items():
        named = ((GEOMETRY, key), (OF_FASTAI, of_original))
        alone = [{k: v for k, v in values.items() if k != own} for values, own in named]
        original, ours = both(*alone)
        yield distribution(name, measure(original), measure(ours), float(name == "enlargement"), limit)
    original, ours = both({"flip": "none"}, {"do_flip": False})
    yield distribution("all together, distance of the corners", displacement(original), displacement(ours), 0, limit)
    original, ours = both({**GEOMETRY, "flip": "dihedral"}, {**OF_FASTAI, "do_flip": True})
    shares = [symmetries(maps) for maps in (original, ours)]
    texts = [", ".join(f"{100 * share:.1f}" for share in values) + " %" for values in shares]
    yield Point("shares of the eight symmetries", *texts, bool(np.abs(shares[0] - shares[1]).max() <= limit))
    original, ours = both({**GEOMETRY, "flip": "horizontal"}, {**OF_FASTAI, "do_flip": True, "flip_vert": False})
    mirrored = [float((m[:, 0, 0] < 0).double().mean()) for m in (original, ours)]
    texts = [f"{100 * share:.1f} %" for share in mirrored]
    yield Point("without vertical flips: mirrored", *texts, abs(mirrored[0] - mirrored[1]) <= limit)
    greys = torch.tensor([*GREYS, 128], dtype=torch.uint8).view(1, 3, 1, 1).expand(tiles, 3, 4, 4).contiguous()
    light = lighting(of_fastai(greys, **OF_FASTAI)), lighting(of_casewise(greys, **GEOMETRY))
    for column, name in enumerate(("brightness, shift of log odds", "contrast, factor of log odds")):
        yield distribution(name, light[0][:, column], light[1][:, column], float(column), limit)
    from fastai.vision import all as fastai

    stated = defaults(fastai.aug_transforms)
    yield same("interpolation, edge", f"{stated['mode']}, {stated['pad_mode']}", "bilinear, reflection")
    corner = "centres of pixels in the corners" if stated["align_corners"] else "edges of pixels"
    yield same("-1 and 1 in coordinates", corner, "edges of pixels")


# Networks and training


def heads() -> Iterator[Point]:
    """The points of fastai's head."""
    from fastai.vision import all as fastai
    from torchvision import models

    for name in ("resnet18", "vgg11_bn", "densenet121", "mobilenet_v2"):
        cut = fastai.model_meta.get(getattr(models, name), {"cut": -1})["cut"]
        library = models.get_model(name, weights=None)
        original = fastai.nn.Sequential(fastai.create_body(library, 3, False, cut), fastai.AdaptiveConcatPool2d())
        ours = build_network(name, 3, head="fastai").eval()
        ours.body.load_state_dict(library.state_dict(), strict=False)
        panels = torch.rand(2, 3, 96, 96)
        with torch.no_grad():
            expected = original.eval()((panels - ours.mean) / ours.std).flatten(1)
            difference = (ours.features(panels) - expected).abs().max() / expected.abs().max()
        yield near(f"head: what it receives, {name}", difference, 1e-5)
    torch.manual_seed(0)
    head = fastai.add_head(nn.Identity(), 512, 3)[1]
    leaves = [m for m in head.modules() if not any(True for _ in m.children())][3:]
    ours_head = list(build_network("resnet18", 3, head="fastai").head)
    yield same("head: layers", *([", ".join(type(m).__name__ for m in one) for one in (leaves, ours_head)]))
    details = [
        (m.p if isinstance(m, nn.Dropout) else [tuple(p.shape) for p in m.parameters()] for m in one)
        for one in (leaves, ours_head)
    ]
    yield same("head: shapes and dropout", *(", ".join(str(d) for d in one if d) for one in details))
    counts = [sum(p.numel() for m in one for p in m.parameters()) for one in (leaves, ours_head)]
    yield same("head: parameters, three outputs", *counts)
    starts = [
        ", ".join(f"{float(m.weight.std()):.3f}" for m in one if isinstance(m, nn.Linear))
        + f"; norms {float(one[0].weight[0].detach()):g} and {float(one[0].bias[0].detach()):g}"
        for one in (leaves, ours_head)
    ]
    numbers = [[float(m.weight.std()) for m in one if isinstance(m, nn.Linear)] for one in (leaves, ours_head)]
    close = np.allclose(*numbers, rtol=0.05) and starts[0].split(";")[1] == starts[1].split(";")[1]
    yield Point("head: SD of first weights; norms' weight and bias", *starts, close)
    norms = [f"{one[0].eps:g}, {one[0].momentum:g}" for one in (leaves, ours_head)]
    yield same("head: eps and momentum of norms", *norms)


def training(preset: Recipe) -> Iterator[Point]:
    """The points of fastai's training."""
    from fastai.callback.schedule import combined_cos
    from fastai.vision import all as fastai

    store, rows, label = torch.zeros(8, 3, SIDE, SIDE).byte(), [[n % 8] for n in range(400)], torch.zeros(400, 1)
    recipe = preset.model_copy(update={"lr": 0.01, "batch_size": 4, "epochs": 4})
    network = build_network("test_resnet", 3, head="fastai")
    context = TrainingContext((Output("label", "classification", 3, main=True),), Path(), 0, ComputePlan())
    trained = Training(network, recipe, PanelData(store, rows, label, Panels()), context)
    rates: list[float] = []
    for _ in range(trained.steps * recipe.epochs):
        rates.append(trained.optimizer.param_groups[0]["lr"])
        trained.cycle.step()
    cycle, learner = defaults(fastai.Learner.fit_one_cycle), defaults(fastai.Learner.__init__)
    schedule = combined_cos(cycle["pct_start"], 0.01 / cycle["div"], 0.01, 0.01 / cycle["div_final"])
    expected = np.array([float(schedule(step / len(rates))) for step in range(len(rates))])
    yield near("one cycle: rates as shares of the highest, 400 steps", np.abs(rates - expected).max() / 0.01, 0.02)
    ends = [
        f"highest / {first:.0f}, highest / {last:.0f}"
        for first, last in ((cycle["div"], cycle["div_final"]), (0.01 / rates[0], 0.01 / rates[-1]))
    ]
    yield same("one cycle: first and last rate", *ends)
    optimizer: Any = trained.optimizer
    own = optimizer.defaults
    yield same("one cycle: momentum", " to ".join(map(str, learner["moms"])), own["betas"][0])
    torch.manual_seed(0)
    starts = torch.randn(20)
    one, two = nn.Parameter(starts.clone()), nn.Parameter(starts.clone())
    steppers = (
        fastai.RAdam([one], lr=0.01, wd=0.01, eps=own["eps"], sqr_mom=own["betas"][1]),
        optimizer_of([{"params": [two], "lr": 0.01}], preset.model_copy(update={"weight_decay": 0.01})),
    )
    for gradient in torch.randn(50, 20):
        one.grad, two.grad = gradient.clone(), gradient.clone()
        for stepper in steppers:
            stepper.step()
    yield near("RAdam: 50 steps with equal settings", (one - two).abs().max(), 1e-5)
    radam = defaults(fastai.RAdam)
    stated = [
        "{:g}, {:g}, {:g}".format(*values)
        for values in ((radam["mom"], radam["sqr_mom"], radam["eps"]), (*own["betas"], own["eps"]))
    ]
    yield same("RAdam: two betas, eps", *stated)
    yield same("RAdam: weight decay", f"{radam['wd']:g}", f"{preset.weight_decay:g}")
    whole = sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in network.parameters()
    )
    kinds = [
        "all parameters" if everything else "all but norms and biases" for everything in (learner["wd_bn_bias"], whole)
    ]
    yield same("weight decay concerns", *kinds)
    raw, labels = torch.randn(16, 3), torch.arange(16) % 3
    loss = fastai.LabelSmoothingCrossEntropy(eps=preset.label_smoothing)(raw, labels)
    yield near("loss with label smoothing", (loss - trained.loss(raw, labels[:, None].float())).abs(), 1e-6)
    gradual = preset.gradual_unfreezing
    kept = [
        "trained, with their statistics" if norms else "kept" for norms in (learner["train_bn"], gradual.train_norms)
    ]
    yield same("batch norms of frozen layers", *kept)
    yield same(
        "first stage reads", "augmented images", {"images": "augmented images"}.get(gradual.first_stage, "features")
    )
    stats = [[f"{v:g}" for values in one for v in values] for one in (fastai.imagenet_stats, (MEAN, STD))]
    yield same("normalisation of torchvision's networks", *map(", ".join, stats))
    method = defaults(fastai.Resize.__init__)["method"]
    yield same("to 224 pixels", f"`Resize`: {method}, at random in training; bilinear", "stretched; Lanczos")


def of_keras(preset: Recipe) -> Iterator[Point]:
    """The points of ssc-skin: MobileNetV2 and the tutorial on fine-tuning."""
    import keras

    base = keras.applications.MobileNetV2(input_shape=(128, 128, 3), include_top=False, weights=None, pooling="avg")
    norm = next(layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization))
    network = build_network("mobilenet_v2", 1, scaling=preset.scaling)
    own_norm: Any = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    counts, head = parameter_counts(network), 1281

    def trainable() -> int:
        return sum(int(np.prod(weight.shape)) for weight in base.trainable_weights)

    whole = trainable()
    totals = base.count_params() + head, counts.trainable + counts.running_statistics
    yield same("weights and running statistics, one output", *(f"{total:,}" for total in totals))
    yield same("trainable weights", *(f"{total:,}" for total in (whole + head, counts.trainable)))
    for layer in base.layers[:11]:  # the input, and ten entries
        layer.trainable = False
    modules = list(network.body.modules())[: frozen_end(network, "features.2.conv.0")]
    frozen = sum(p.numel() for module in modules for p in module.parameters(recurse=False))
    yield same("weights of the first ten entries", *(f"{total:,}" for total in (whole - trainable(), frozen)))
    values = np.arange(256.0, dtype="float32").reshape(1, 16, 16, 1).repeat(3, 3)
    expected = torch.from_numpy(keras.applications.mobilenet_v2.preprocess_input(values.copy())).permute(0, 3, 1, 2)
    scaled = (torch.from_numpy(values).permute(0, 3, 1, 2) / 255 - network.mean) / network.std
    yield near("scaling of pixels", (scaled - expected).abs().max(), 1e-6)
    yield same("batch norm: eps", f"{norm.epsilon:g}", f"{own_norm.eps:g}")
    yield same("batch norm: share of a new batch", f"{1 - norm.momentum:.3g}", f"{own_norm.momentum:g}")
    activation: Any = network.body
    yield same("activations", "ReLU6", type(activation.features[0][2]).__name__)
    padded = any(isinstance(layer, keras.layers.ZeroPadding2D) for layer in base.layers)
    yield same("padding before steps of two", "below and on the right" if padded else "all sides", "all sides")
    yield same(
        "trainable batch norms",
        "",
        f"{preset.batch_norm.replace('_', ' ')} statistics".replace("statistics statistics", "statistics"),
    )
    yield same("dropout before the head", "", preset.dropout or "none")
    yield same("rates of the two phases", "0.0001, 1e-05", ", ".join(f"{p.lr or preset.lr:g}" for p in preset.phases))
    adam, own = keras.optimizers.Adam(), optimizer_of([{"params": list(network.parameters())}], preset)
    yield same("Adam: two betas", f"{adam.beta_1}, {adam.beta_2}", "{}, {}".format(*own.defaults["betas"]))
    yield same("Adam: eps", f"{adam.epsilon:g}", f"{own.defaults['eps']:g}")
    yield same("optimiser of the second phase", "", type(own).__name__)


def of_timm(preset: Recipe) -> Iterator[Point]:
    """The points of networks of timm."""
    import timm
    from timm.models import adapt_input_conv
    from timm.optim import param_groups_layer_decay

    for name in ("vit_tiny_patch16_224", "test_vit", "test_resnet", "resnet10t"):
        original = timm.create_model(name, num_classes=0).eval()
        config = original.pretrained_cfg
        side = config["input_size"][-1]
        ours = build_network(name, 3, side=side).eval()
        ours.body.load_state_dict(original.state_dict())
        panels = torch.rand(2, 3, side, side)
        with torch.no_grad():
            features = original((panels - ours.mean) / ours.std)
            yield near(f"features, {name}", (ours.features(panels) - features).abs().max(), 1e-5)
        both = (config["mean"], config["std"]), (ours.mean.flatten().tolist(), ours.std.flatten().tolist())
        texts = [", ".join(f"{v:.4g}" for values in one for v in values) for one in both]
        yield same(f"mean and deviation of pixels, {name}", *texts)
    config = timm.get_pretrained_cfg("vit_base_patch16_224").to_dict()
    yield same(
        "images of the published weights", f"{config['interpolation']}, the middle {100 * config['crop_pct']:.0f} %", ""
    )
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    settings = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(whole, weight_decay=0.05, layer_decay=preset.layer_decay)
        for p in group["params"]
    }
    scales = {name: settings[id(p)][0] for name, p in whole.named_parameters()}
    network = build_network("vit_tiny_patch16_224", 3, side=224)
    names = {id(p): name.removeprefix("body.") for name, p in network.named_parameters()}
    own = {names[id(p)]: g["lr"] for g in layer_rates(network, 1.0, preset.layer_decay) for p in g["params"]}
    kinds = "pos_embed", "blocks.0.attn.qkv.weight", "blocks.11.attn.qkv.weight", "norm.weight"
    texts = [", ".join(f"{values[key]:.4f}" for key in kinds) for values in (scales, own)]
    yield same("layer decay: embedding, first block, last block, norm", *texts)
    inside = [name for name in scales if name in own and not name.startswith("norm.")]
    yield near("layer decay: all other tensors", max(abs(scales[name] - own[name]) for name in inside), 1e-9)
    decayed = sum(settings[id(p)][1] > 0 for p in whole.parameters())
    yield same(
        "weight decay concerns",
        f"{decayed} of {len(scales)} tensors, not norms, biases and positions",
        "all parameters",
    )
    kernels = torch.rand(4, 3, 3, 3)
    for count, text in ((1, "one channel"), (2, "two channels")):
        difference = adapt_input_conv(count, kernels) - adapted(kernels, count)
        yield near(f"first layer for {text}", difference.abs().max(), 1e-6)


def points(tiles: int, limit: float) -> dict[str, list[Point]]:
    """All points by original; those of the table imitations.csv that are not computed were read in both sources."""
    covid, ssc, ipmn = (
        Recipe.model_validate(yaml.safe_load(preset_text(name))["recipe"])
        for name in ("covid-cxr", "ssc-skin", "ipmn-mri-transformer")
    )
    computed = {
        "fastai": [*augmentation(tiles, limit), *heads(), *training(covid)],
        "Keras": list(of_keras(ssc)),
        "timm": list(of_timm(ipmn)),
    }
    for entry in READ.itertuples():
        of_original = computed[entry.original]
        known = next((number for number, point in enumerate(of_original) if point.name == entry.point), None)
        if known is None:
            of_original.append(same(entry.point, entry.theirs, entry.ours))
        else:
            point = of_original[known]
            of_original[known] = replace(point, original=point.original or entry.theirs, ours=point.ours or entry.ours)
    return computed


def reason_of(original: str, point: Point) -> str:
    """Why they differ; empty if they are equal, or if no reason is stated."""
    stated = READ[(READ.original == original) & (READ.point == point.name)].reason
    return "" if point.equal or stated.empty else str(stated.iloc[0])


def row(original: str, point: Point) -> tuple[str, ...]:
    """The row of a point."""
    reason = reason_of(original, point)
    state = "equal" if point.equal else "differs on purpose" if reason else "**differs, not stated**"
    return point.name, point.original, point.ours, state, reason


def main() -> None:
    """Compare all points and write the page."""
    parser = pages.page_parser(__doc__)
    parser.add_argument("--tiles", type=int, default=10_000)
    options = parser.parse_args()
    if missing := [name for name in ("fastai", "keras") if find_spec(name) is None]:
        sys.exit(f"{' and '.join(missing)}: not installed: pip install 'casewise[bench]'. Nothing was compared.")
    torch.set_num_threads(1)
    limit = 1.63 * (2 / options.tiles) ** 0.5
    compared = points(options.tiles, limit)
    programs = ("fastai", "keras", "timm", "torch", "torchvision")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in programs)
    lines = [pages.head_of(__doc__, tiles=options.tiles, limit=limit, versions=versions)]
    for name, of_original in compared.items():
        equal = sum(point.equal for point in of_original)
        lines += [f"## {name}\n\n{equal} of {len(of_original)} points are equal.\n"]
        rows = [row(name, point) for point in of_original]
        lines += [*pages.table(["point", name, "casewise", "state", "reason"], rows), ""]
    pages.publish("\n".join(lines), options.output)
    unstated = [p.name for name, of in compared.items() for p in of if not p.equal and not reason_of(name, p)]
    if unstated:
        sys.exit(f"not equal, and imitations.csv states no reason: {', '.join(unstated)}")


if __name__ == "__main__":
    main()
