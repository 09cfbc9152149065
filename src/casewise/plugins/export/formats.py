"""The formats of a graph: how one is written, and how the written file is read again for the check.

A new format is a class with the members of `_Onnx`, registered in `FORMATS`.

A format may lack or limit operators, which are then written with ones that it has.
While a graph is recorded, calls of these operators are replaced, also those in the code of timm and torchvision.
Resizing and adaptive pooling are linear along each axis: a product with a fixed matrix for rows and one for columns.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from casewise.errors import CasewiseError, cut, nearest

if TYPE_CHECKING:
    from casewise.plugins.export.learner import LearnerGraph


class _PortableOperators(TorchFunctionMode):
    """Replace operators in `PORTABLE` by equal computations while it is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The value of a call, computed by the replacement where there is one."""
        replacement = PORTABLE.get(func)
        return (replacement or func)(*args, **(kwargs or {}))


def _cumprod(values: Tensor, dim: int) -> Tensor:
    columns = list(values.unbind(dim))
    for number in range(1, len(columns)):
        columns[number] = columns[number - 1] * columns[number]
    return torch.stack(columns, dim=dim)


def _quantile(values: Tensor, levels: Tensor, dim: int) -> Tensor:
    """Linear between the two nearest values; the levels come first, as in `torch.quantile`."""
    last = values.shape[dim] - 1
    positions = levels * last
    below = positions.floor().clamp(max=max(last - 1, 0)).long()
    ascending = values.sort(dim=dim).values
    lower, upper = ascending.index_select(dim, below), ascending.index_select(dim, (below + 1).clamp(max=last))
    weights = (positions - below).view([-1 if axis == dim else 1 for axis in range(values.ndim)])
    return (lower + (upper - lower) * weights).movedim(dim, 0)


def _adaptive_avg_pool2d(maps: Tensor, output_size: Any) -> Tensor:
    sides = tuple(maps.shape[-2:])
    cells = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    cells = tuple(side if count is None else int(count) for side, count in zip(sides, cells, strict=True))
    if cells == (1, 1):
        return maps.mean(dim=(2, 3), keepdim=True)
    rows, columns = (_matrix(functional.adaptive_avg_pool2d, n, side) for n, side in zip(cells, sides, strict=True))
    return torch.matmul(torch.matmul(rows.to(maps), maps), columns.to(maps).T)


def _interpolate(maps: Tensor, size: Any = None, *args: Any, **options: Any) -> Tensor:
    mode = options.get("mode", "nearest")
    if args or size is None or mode not in ("bilinear", "bicubic") or maps.ndim != 4:
        return functional.interpolate(maps, size, *args, **options)
    sizes = (size, size) if isinstance(size, int) else tuple(size)

    def resized(square: Tensor, wanted: Any) -> Tensor:
        return functional.interpolate(square, size=wanted, **options)

    rows, columns = (_matrix(resized, int(n), int(side)) for n, side in zip(sizes, maps.shape[-2:], strict=True))
    return torch.matmul(torch.matmul(rows.to(maps), maps), columns.to(maps).T)


def _matrix(operator: Callable[[Tensor, Any], Tensor], count: int, side: int) -> Tensor:
    """The matrix (count, side) of an operator that is linear along each axis, from what it makes of unit vectors."""
    identity = torch.eye(side).view(1, 1, side, side)
    return operator(identity, (count, side))[0, 0]


PORTABLE: dict[Any, Callable[..., Tensor]] = {
    torch.Tensor.cumprod: _cumprod,
    torch.cumprod: _cumprod,
    torch.quantile: _quantile,
    functional.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    functional.interpolate: _interpolate,
}


# One file of ONNX holds at most 2 GiB; the weights of graphs above this size are in a second file.
LARGEST_ONNX_FILE = 3 * 2**29

# Panels of each input -> values (B, V) of each output.
RunGraph = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Names:
    """The names of the inputs and outputs of a graph, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Onnx:
    """ONNX, run by ONNX Runtime."""

    name, ending, reader = "onnx", ".onnx", "onnxruntime"

    def check_installed(self) -> None:
        """Check that the packages are there.

        Raises:
            CasewiseError: one is missing; the message names the extra.
        """
        packages = ("onnx", "onnxruntime", "onnxscript")
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise CasewiseError(
                f"--to onnx needs {' and '.join(missing)}: pip install 'casewise[export]'. "
                "`--to torchscript` needs no further package."
            )

    def write(self, graph: LearnerGraph, panels: Sequence[Tensor], names: Names, path: Path) -> None:
        """Record a graph with these panels as an example; the numbers of panels, and of images in a bag, stay free.

        Raises:
            CasewiseError: the graph cannot be recorded.
        """
        free = {0: torch.export.Dim("batch")} | ({1: torch.export.Dim("images")} if panels[0].ndim == 5 else {})
        size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
        with _quiet(), torch.no_grad(), _PortableOperators(), _refusing(graph, self.name):
            program = torch.onnx.export(
                graph,
                tuple(panels),
                dynamo=True,
                dynamic_shapes=(tuple(free for _ in panels),),
                input_names=list(names.inputs),
                output_names=list(names.outputs),
                verbose=False,
            )
            assert program is not None
            model = program.model
            for nodes in (model.graph.all_nodes(), *(function.all_nodes() for function in model.functions.values())):
                for node in nodes:
                    node.metadata_props.clear()  # lines of source, with the paths of this computer
            program.save(path, external_data=size > LARGEST_ONNX_FILE)

    def open(self, path: Path, names: Names) -> RunGraph:
        """The graph in a file, as a program without casewise runs it, on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def run(panels: Sequence[Tensor]) -> list[Tensor]:
            inputs = dict(zip(names.inputs, (values.numpy() for values in panels), strict=True))
            return [torch.from_numpy(values) for values in session.run(list(names.outputs), inputs)]

        return run


class TorchScript:
    """TorchScript, run by libtorch in C++ or by `torch.jit.load` in Python."""

    name, ending, reader = "torchscript", ".pt", "torch.jit.load"

    def check_installed(self) -> None:
        """Nothing is needed but PyTorch."""

    def write(self, graph: LearnerGraph, panels: Sequence[Tensor], names: Names, path: Path) -> None:
        """See `_Onnx`."""

        def recorded(*inputs: Tensor) -> tuple[Tensor, ...]:
            # a function: of a module, the recorder would also evaluate every property
            values: tuple[Tensor, ...] = graph(*inputs)
            return values

        with _quiet(), torch.no_grad(), _refusing(graph, self.name):
            torch.jit.save(torch.jit.trace(recorded, tuple(panels), check_trace=False), str(path))

    def open(self, path: Path, names: Names) -> RunGraph:
        """See `_Onnx`."""
        with _quiet():
            module: Any = torch.jit.load(str(path), map_location="cpu")

        def run(panels: Sequence[Tensor]) -> list[Tensor]:
            with torch.inference_mode():
                return list(module(*panels))

        return run


GraphFormat: TypeAlias = _Onnx | TorchScript
FORMATS: dict[str, GraphFormat] = {graph_format.name: graph_format for graph_format in (_Onnx(), TorchScript())}


def format_named(name: str) -> GraphFormat:
    """The format of a name, after checking that its packages are installed.

    Raises:
        CasewiseError: there is none of this name, or a package is missing.
    """
    if name not in FORMATS:
        raise CasewiseError(f"--to: {cut(name)} is none of {', '.join(FORMATS)}.{nearest(name, FORMATS)}")
    FORMATS[name].check_installed()
    return FORMATS[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of libraries on what they do."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def _refusing(graph: LearnerGraph, name: str) -> Iterator[None]:
    """Errors of a recorder as one sentence that names the learner."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = (str(cause) or type(cause).__name__).strip().splitlines()
        other = next(format_name for format_name in FORMATS if format_name != name)
        raise CasewiseError(
            f"{graph.name} cannot be exported to {name}: {cut(lines[0])}. Try --to {other}, or select other learners "
            "with --learner."
        ) from error
