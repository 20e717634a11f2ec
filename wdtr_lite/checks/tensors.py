"""Tensors, and images on graphs."""

from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wdtr_lite.checks.values import INFINITY, number, shown

_TRACING = torch._C._TorchDispatchModeKey.PROXY  # make_fx is at work

if TYPE_CHECKING:
    from wdtr_lite.graph import PixelGraph
    from wdtr_lite.transport.measures import Image


def precise(x: Tensor, what: str) -> None:
    """A type in which differences can be taken."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64 for {what}, got {x.dtype}")


def floating(v: Tensor, name: str) -> None:
    """A tensor of a floating type."""
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(v).__name__}")
    if v.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"{name} must be a floating tensor, got {v.dtype}")
    dense(v, name)


def dense(v: Tensor, name: str) -> None:
    """A tensor that holds every value as a number."""
    if v.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {v.layout}")
    if v.is_nested or v.is_quantized:
        kind = "nested" if v.is_nested else "quantised"
        raise TypeError(f"{name} must be a dense tensor, got a {kind} one of {v.dtype}")


def like(v: Tensor, x: Tensor, name: str, other: str = "x") -> None:
    """Of the shape of x."""
    if v.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of {other}, {tuple(x.shape)}, got {tuple(v.shape)}"
        )


def nonnegative(v: Tensor, name: str, *, moderate: bool = False) -> None:
    """Non-negative and finite values; moderate ones have squares and quotients in their type."""
    if not v.numel() or not eager(v):
        return
    low, high = torch.aminmax(v.detach())
    if not (low >= 0 and high < float("inf")):  # NaN fails both
        got = f"{float(low):g} to {float(high):g}"
        raise ValueError(f"{name} must be non-negative and finite, got {got}")
    if not moderate:
        return
    least, most = torch.finfo(v.dtype).tiny ** 0.75, torch.finfo(v.dtype).max ** 0.75
    if high > 0 and not least <= high <= most:
        raise ValueError(
            f"{name} must have a largest pixel from {least:.2g} to {most:.2g} in {v.dtype}, or be "
            f"black, got {float(high):g}"
        )


def in_range(value: Tensor, what: str, large: str = "its arguments") -> Tensor:
    """A result of finite arguments, which is finite unless it or its parts overflow; returned."""
    if eager(value) and not bool(value.isfinite().all()):
        raise RuntimeError(f"{what} overflows {value.dtype}: scale {large}")
    return value


def valued(v: Tensor, name: str) -> None:
    """A dense tensor that is not on the meta device."""
    dense(v, name)
    if v.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on meta")


def bounded(v: Tensor, name: str) -> None:
    """Finite values."""
    if not v.numel() or not eager(v):
        return
    low, high = torch.aminmax(v.detach())
    if not (low > -INFINITY and high < INFINITY):  # NaN fails both
        raise ValueError(f"{name} must be finite, got {float(low):g} to {float(high):g}")


def generator(generator: torch.Generator | None, x: Tensor) -> torch.Generator:
    """A generator on the device of x, returned."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != x.device.type:
        raise ValueError(f"generator is on {generator.device} but x is on {x.device}")
    return generator


def graph_dtype(dtype: torch.dtype, name: str) -> None:
    """One of the types that a pixel graph can have."""
    if not isinstance(dtype, torch.dtype) or dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be torch.float32 or torch.float64, got {shown(dtype)}")


def kernel(weight: Tensor, radius: int) -> None:
    """Weights by offset (2r + 1, 2r + 1), non-negative and finite, equal at opposite offsets."""
    floating(weight, "weight")
    graph_dtype(weight.dtype, "weight")
    side = 2 * radius + 1
    if weight.shape != (side, side):
        raise ValueError(
            f"weight must have shape {(side, side)} for radius {radius}, got {tuple(weight.shape)}"
        )
    if weight.is_meta:
        return
    learnt(weight)
    apart = (weight != weight.flip(0, 1)).nonzero()
    if len(apart):
        one, other = (apart[0] - radius).tolist(), (radius - apart[0]).tolist()
        raise ValueError(
            f"weight must be equal at opposite offsets, got {weight[tuple(apart[0])]:g} at {one} "
            f"and {weight[tuple(-1 - apart[0])]:g} at {other}: weight + weight.flip(0, 1) is"
        )
    lost = (weight > 0) & (weight / 2 == 0)  # half of each is taken
    lost[radius, radius] = False
    if bool(lost.any()):
        raise ValueError(f"weight is too small for {weight.dtype}, got {float(weight[lost][0]):g}")


def learnt(weight: Tensor) -> Tensor:
    """Weights by offset as an optimiser must leave them: non-negative and finite, not all 0;
    returned.
    """
    if not eager(weight):
        return weight
    low, high = torch.aminmax(weight.detach())
    if not (low >= 0 and high < INFINITY):  # NaN fails both
        got = f"{float(low):g} to {float(high):g}"
        raise ValueError(f"weight must be non-negative and finite, got {got}")
    if not high > 0:
        got = f"got {shown(weight.tolist())}"
        raise ValueError(f"weight leaves a pixel without neighbours, {got}")
    return weight


def is_graph(graph: object) -> bool:
    """Whether it is a pixel graph."""
    return isinstance(graph, torch.nn.Module) and hasattr(graph, "neighbor_sum")


def graph(graph: "PixelGraph") -> None:
    """A pixel graph."""
    if not is_graph(graph):
        raise TypeError(f"graph must be a PixelGraph, got {type(graph).__name__}")


def on_graph(pixels: "PixelGraph", v: Tensor, name: str, x: Tensor | None = None) -> None:
    """A tensor (..., H, W) of the graph's device and type, or of exactly the shape of x."""
    graph(pixels)
    floating(v, name)
    if v.dtype != pixels.dtype:
        wide = v.dtype in (torch.float32, torch.float64)
        raise TypeError(
            f"{name} is {v.dtype} but the graph is {pixels.dtype}: convert it"
            + (", or use graph.to(dtype=...)" if wide else "")
        )
    if v.device != pixels.device:
        raise ValueError(
            f"{name} is on {v.device} but the graph is on {pixels.device}: use graph.to(device)"
        )
    if v.shape[-2:] != (pixels.height, pixels.width):
        raise ValueError(
            f"{name} must be (..., {pixels.height}, {pixels.width}), got {tuple(v.shape)}"
        )
    if x is not None:
        like(v, x, name)


def some_pixels(x: Tensor) -> None:
    """At least one image."""
    if not x.numel():
        raise ValueError(f"x must hold an image, got {tuple(x.shape)}")


def layers(graph: "PixelGraph", x: Tensor) -> None:
    """Images (M, H, W) on the graph."""
    image(graph, x)
    if x.dim() != 3:
        raise ValueError(f"x must be (M, {graph.height}, {graph.width}), got {tuple(x.shape)}")


def offset(graph: "PixelGraph", v: Tensor, offset: tuple[int, int]) -> tuple[int, int]:
    """An offset within the radius to a pixel of larger number, for a tensor (..., H, W)."""
    if not isinstance(v, Tensor):
        raise TypeError(f"v must be a tensor, got {type(v).__name__}")
    dense(v, "v")
    if v.shape[-2:] != (graph.height, graph.width):
        raise ValueError(f"v must be (..., {graph.height}, {graph.width}), got {tuple(v.shape)}")
    pair = isinstance(offset, tuple | list) and len(offset) == 2
    if not pair or any(isinstance(k, bool) or not isinstance(k, Integral) for k in offset):
        raise TypeError(f"offset must be two whole numbers, got {shown(offset)}")
    dy, dx = map(int, offset)
    if not (0, 0) < (dy, dx) or max(dy, abs(dx)) > graph.radius:
        raise ValueError(f"offset must be one of forward_offsets(), got {shown(offset)}")
    return dy, dx


def vector(graph: "PixelGraph", v: Tensor, name: str, x: Tensor | None = None) -> None:
    """The same, of finite values."""
    on_graph(graph, v, name, x)
    bounded(v, name)


def image(
    graph: "PixelGraph",
    x: Tensor,
    name: str = "x",
    *,
    interior: bool = False,
    moderate: bool = False,
) -> None:
    """An image: on the graph, non-negative and finite; in the interior of the simplex positive."""
    on_graph(graph, x, name)
    nonnegative(x, name, moderate=moderate)
    if interior and x.numel() and eager(x) and not (low := x.detach().min()) > 0:
        raise ValueError(
            f"{name} must be positive on every pixel, its least is {float(low):g}: "
            "this holds in the interior of the simplex only"
        )


def metric(metric: "PixelGraph | str") -> None:
    """A pixel graph, or the word "euclidean"."""
    if not is_graph(metric) and not (isinstance(metric, str) and metric == "euclidean"):
        raise ValueError(f"metric must be a PixelGraph or 'euclidean', got {shown(metric)}")


def point(space: "PixelGraph | str", x: Tensor, *, interior: bool = False) -> None:
    """An image on the graph; in the Euclidean metric any floating tensor."""
    metric(space)
    if isinstance(space, str):
        floating(x, "x")
        bounded(x, "x")
    else:
        image(space, x, interior=interior)


def eager(x: Tensor) -> bool:
    """Whether the values of x may be looked at."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_dispatch_mode(_TRACING) is not None
        or x.is_meta
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def field(x: Tensor) -> None:
    """Finite values (..., H, W), of either sign, in float32 or float64."""
    plane(x, "x")
    graph_dtype(x.dtype, "x")
    bounded(x, "x")


def plane(v: Tensor, name: str) -> None:
    """A tensor (..., H, W) of a floating type."""
    floating(v, name)
    if v.dim() < 2 or 0 in v.shape[-2:]:
        raise ValueError(f"{name} must be (..., H, W), got {tuple(v.shape)}")


def broadcast(v: Tensor, x: Tensor, name: str) -> None:
    """Of a shape that broadcasts with that of x."""
    try:
        torch.broadcast_shapes(v.shape, x.shape)
    except RuntimeError as error:
        raise ValueError(
            f"{name} must broadcast with x, {tuple(x.shape)}, got {tuple(v.shape)}"
        ) from error


def same_mass(x: Tensor, y: Tensor) -> None:
    """Images (..., H, W) of the same mass in each channel, to rounding."""
    masses = [z.detach().double().sum((-2, -1)) for z in (x, y)]
    apart = (masses[0] - masses[1]).abs()
    if bool((apart > (1e-10 if x.dtype == torch.float64 else 1e-6) * masses[1]).any()):
        got = " and ".join(f"{float(mass.flatten()[apart.argmax()]):.9g}" for mass in masses)
        raise ValueError(f"x and y must have the same mass in each channel, got {got}")


def zero_sum(v: Tensor, x: Tensor, name: str) -> None:
    """Changes of images (..., H, W) that keep the mass of each channel, to rounding."""
    total, size = v.detach().double().sum((-2, -1)), (x + v.abs()).detach().double().sum((-2, -1))
    far = total.abs() > (1e-10 if v.dtype == torch.float64 else 1e-5) * size
    if bool(far.any()):
        raise ValueError(
            f"{name} must sum to zero in each channel, got a sum of {float(total[far][0]):.3g}"
        )


def totals(mass: "float | Tensor", x: Tensor) -> Tensor:
    """A total for each image (..., H, W), non-negative and finite, returned in the type of x."""
    if not isinstance(mass, Tensor):
        most = torch.finfo(x.dtype).max
        if number(mass, "mass") > most:
            raise ValueError(f"mass must be at most {most:.2g} in {x.dtype}, got {mass!r}")
        mass = float(mass)
    else:
        valued(mass, "mass")
        real(mass, "mass")
        batch = x.shape[:-2]
        if mass.dim() > len(batch) or any(
            k not in (1, n) for k, n in zip(reversed(mass.shape), reversed(batch), strict=False)
        ):
            raise ValueError(f"mass must be {tuple(batch)} or a number, got {tuple(mass.shape)}")
        nonnegative(mass, "mass")
    return torch.as_tensor(mass, device=x.device, dtype=x.dtype)


def real(image: "Image", name: str) -> None:
    """An array or tensor of real numbers."""
    tensor = isinstance(image, Tensor)
    short = tensor and image.is_floating_point() and image.dtype.itemsize == 1
    if image.is_complex() or short if tensor else image.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {image.dtype}")
