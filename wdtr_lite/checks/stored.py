"""Data sets, networks, folders, and what methods of training return."""

import errno
import os
from collections.abc import Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from wdtr_lite.checks.classifiers import image_shape
from wdtr_lite.checks.tensors import valued
from wdtr_lite.checks.values import function, instance, option, shown, text, texts


def folder(value: str | os.PathLike, name: str = "folder") -> Path:
    """A folder's path; the folder may be missing."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    if not path:
        raise ValueError(f"{name} must name a folder, got {path!r}")
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)  # of a NUL or a surrogate there is none
        if code in (None, errno.ENAMETOOLONG, errno.ELOOP):
            raise ValueError(
                f"{name} must name a folder, got {shown(path)}: {error!s:.80}"
            ) from None
    else:
        if not os.path.isdir(path):
            raise ValueError(f"{name} must be a folder, got the file {path!r}")
    return Path(path)


def regular(path: Path) -> None:
    """A file that has an end, as no pipe and not every device has; it may be missing."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a regular file, not a folder, a pipe or a device")


def array_of(archive: Mapping[str, Any], key: str) -> np.ndarray:
    """What an npz file has under a key, where another member may be bytes, returned."""
    found = archive[key]
    instance(found, key, np.ndarray)
    return found


def weights(weights: Mapping[str, Tensor], name: str) -> None:
    """A network's by name, also what a layer adds to them, which may be anything."""
    instance(weights, name, Mapping)
    for key, value in weights.items():
        instance(key, f"each name in {name}", str)
        if added(key):
            continue
        instance(value, f"{name}[{key!r}]", Tensor)
        valued(value, f"{name}[{key!r}]")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(
                f"{name}[{key!r}] must hold all its numbers, got {tuple(value.shape)} from "
                f"{value.untyped_storage().nbytes()} bytes"
            )


def added(key: str) -> bool:
    """Whether it names what a layer's ``get_extra_state`` returns."""
    return key.endswith("_extra_state")


def are_finite(v: Tensor) -> Tensor:
    """Which values are finite, also of a type of one byte, of which torch does not say so."""
    return (v.float() if v.dtype.itemsize == 1 else v).isfinite()


def unbounded(model: nn.Module) -> set[str]:
    """The names of a network's buffers that are not finite, as a mask is not; lazy ones are."""
    buffers = model.named_buffers(remove_duplicate=False)
    return {key for key, v in buffers if not is_lazy(v) and not are_finite(v).all()}


def finite_weights(weights: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Those of the network, but for what is not finite in the network itself."""
    own = model.state_dict().keys() - unbounded(model)
    for key, value in weights.items():
        if key in own and not added(key) and not (valid := are_finite(value)).all():
            raise ValueError(f"{name}[{key!r}] must be finite, got {value[~valid][0]:g}")


def same_types(weights: Mapping[str, Tensor], model: nn.Module, name: str) -> None:
    """Those of the network, which torch would cast others to."""
    for key, value in model.state_dict().items():
        if key in weights and not added(key) and weights[key].dtype != value.dtype:
            raise TypeError(f"{name}[{key!r}] must be {value.dtype}, got {weights[key].dtype}")


def objective(method: type, kind: type, options: tuple[str, ...]) -> None:
    """A class of the kind, a method of training, which says what it is and what it uses of the
    options.
    """
    if not (isinstance(method, type) and issubclass(method, kind)):
        raise TypeError(f"method must be a subclass of {kind.__name__}, got {shown(method)}")
    for name in ("name", "label"):
        text(getattr(method, name, None), f"{method.__name__}.{name}")
    used = texts(method.options, f"{method.__name__}.options")
    texts(method.needs, f"{method.__name__}.needs")
    texts(method.devices, f"{method.__name__}.devices")
    function(method.check_epsilon, f"{method.__name__}.check_epsilon")
    instance(method.trial, f"{method.__name__}.trial", Mapping)
    for name, allowed in {"options": options, "needs": used, "trial": used}.items():
        for each in getattr(method, name):
            if not allowed:
                raise ValueError(
                    f"{method.__name__}.{name} must be among {method.__name__}.options, which is "
                    f"empty, got {shown(each)}"
                )
            option(each, f"{method.__name__}.{name}", allowed)


def trainable(model: nn.Module) -> nn.Module:
    """A network with weights to train, in a type that float32 images go through, returned."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("there are no gradients in inference mode: train outside of it")
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    if not parameters:
        raise ValueError(f"model must have parameters to train, got {type(model).__name__}")
    allocated(model)
    for weight in parameters:
        if weight.dtype != torch.float32:
            raise TypeError(f"model must have float32 parameters, got {weight.dtype}")
        if not is_lazy(weight) and weight.is_inference():
            raise ValueError(
                "model must have been made outside of inference mode, got inference tensors: "
                "copy.deepcopy(model)"
            )
    return model


def allocated(model: nn.Module | None) -> None:
    """A network, if any, whose parameters are stored somewhere."""
    instance(model, "model", (nn.Module, type(None)))
    if model is not None and any(weight.is_meta for weight in model.parameters()):
        raise ValueError("model must have parameters with values, got some on meta")


def optimizer(returned: object, weights: Iterable[Tensor], name: str) -> Optimizer:
    """One of torch's that a function returned for these weights, all of them, and that steps on
    their gradients alone; returned.
    """
    instance(returned, name, Optimizer)
    assert isinstance(returned, Optimizer)
    kind, held = type(returned).__name__, [p for g in returned.param_groups for p in g["params"]]
    if left := set(map(id, weights)) - set(map(id, held)):
        raise ValueError(
            f"{name} must hold all weights of the model that are not frozen, got {kind} without "
            f"{len(left)} of them"
        )
    try:
        signature(returned.step).bind()
    except TypeError as error:
        raise TypeError(f"{name} must step without a closure, got {kind}: {error}") from error
    return returned


def takes(model: nn.Module, x: Tensor) -> None:
    """A network that images (B, C, H, W) go through."""
    try:
        with torch.no_grad():
            model(x)
    except Exception as error:
        raise ValueError(
            f"model must take images {tuple(x.shape)}, got a {type(model).__name__}, which raises "
            f"{type(error).__name__}: {error}"
        ) from error


def transformed(returned: Any, x: Tensor, name: str) -> Tensor:
    """Images (B, C, H, W) of the number, type and device of x, that a function returned."""
    tensor = isinstance(returned, Tensor)
    if not tensor or (returned.dtype, returned.device) != (x.dtype, x.device):
        got = f"{returned.dtype} on {returned.device}" if tensor else f"{shown(returned)}"
        raise TypeError(f"{name} must return images in {x.dtype} on {x.device}, got {got}")
    if returned.dim() != 4 or len(returned) != len(x):
        raise ValueError(
            f"{name} must return images ({len(x)}, C, H, W), got {tuple(returned.shape)}"
        )
    return returned


def terms(returned: Any, batch: int, classes: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, K), loss (B,) and penalty (B,), of which a gradient can be taken in the weights,
    that a method of training returned.
    """
    if not isinstance(returned, tuple) or len(returned) != 3:
        raise TypeError(f"{name} must return Terms(outputs, loss, penalty), got {shown(returned)}")
    parts = {"outputs": (batch, classes), "loss": (batch,), "penalty": (batch,)}
    for (part, shape), value in zip(parts.items(), returned, strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else f"{shown(value)}"
            raise TypeError(f"{part} of {name} must be a floating tensor, got {got}")
        if value.shape != shape:
            why = ": model has a logit for each class of the data set" if value.dim() == 2 else ""
            raise ValueError(f"{part} of {name} must be {shape}, got {tuple(value.shape)}{why}")
    if not (returned[1].requires_grad or returned[2].requires_grad):
        raise ValueError(
            f"loss of {name} must depend on the weights of model, got one without a gradient"
        )
    return returned


def contrast(std: list[float]) -> None:
    """The standard deviations of images' channels, none of them 0."""
    if not all(each > 0 for each in std):
        raise ValueError(
            f"images must vary in each channel, got images of standard deviation {shown(std)}"
        )


def stored_images(images: Tensor) -> None:
    """uint8 (N, C, H, W) or (N, H, W), channels not last."""
    if images.dtype != torch.uint8:
        small = images.is_floating_point() and images.numel() and images.float().max() <= 1
        wide = images.dtype == torch.uint16 and images.numel() and images.int().max() > 255
        whole = "images.to(torch.uint8)" if not wide else "(images.int() // 257).to(torch.uint8)"
        hint = {torch.bool: "255 * images.to(torch.uint8)", torch.uint16: whole}.get(
            images.dtype, "images.round().to(torch.uint8)"
        )
        hint = "(255 * images).round().to(torch.uint8)" if small else hint
        raise TypeError(f"images must be uint8, 0 (black) to 255, got {images.dtype}: {hint}")
    image_shape(images)
    if images.dim() == 4 and images.shape[3] in (1, 3, 4) and min(images.shape[1:3]) > 4:
        raise ValueError(
            f"images must be (N, C, H, W), got {tuple(images.shape)}: images.movedim(3, 1)"
        )


def stored_labels(labels: Tensor, images: Tensor) -> None:
    """A whole number for each image."""
    if not labels.numel() and len(images):
        raise ValueError(f"labels must be one for each of {len(images)} images, got none")
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        hint = "labels.argmax(1)" if labels.dim() == 2 else "labels.long()"
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}: {hint}")
    if labels.shape != images.shape[:1]:
        hints = {1: ": labels[:, 0]"} if labels.dim() == 2 else {}
        hint = hints.get(labels.shape[-1], ": labels.argmax(1)") if labels.dim() == 2 else ""
        raise ValueError(
            f"labels must be one for each of images, {tuple(images.shape)}, "
            f"got {tuple(labels.shape)}{hint}"
        )


def indices(index: Tensor, count: int, name: str) -> None:
    """Different images of so many, by their number."""
    if index.dtype.is_floating_point or index.dtype.is_complex:
        raise TypeError(f"{name} must hold whole numbers, got {index.dtype}")
    if index.dim() != 1 or index.dtype == torch.bool:
        shapes = f"({count},)" if index.dtype == torch.bool else "(n,)"
        raise ValueError(f"{name} must be {shapes} of {index.dtype}, got {tuple(index.shape)}")
    index = index.long()
    outside = index[(index < 0) | (index >= count)]
    if len(outside):
        raise ValueError(f"{name} must hold numbers from 0 to {count - 1}, got {int(outside[0])}")
    values, often = index.unique(return_counts=True)
    if len(values) < len(index):
        raise ValueError(f"{name} must name no image twice, got {int(values[often > 1][0])} again")


def parts(split: Mapping[str, Tensor]) -> None:
    """Training images, which no other part's errors are measured on."""
    if not len(split.get("train", ())):
        held = {part: len(index) for part, index in split.items()}
        raise ValueError(f"split must have images to train on, 'train', got {held}")
    apart = [("train", "test"), ("validation", "test"), ("fit", "test"), ("fit", "validation")]
    for one, other in apart:
        if {one, other} <= split.keys():
            common = split[one][torch.isin(split[one], split[other])]
            if len(common):
                raise ValueError(
                    f"split must have no image both in {one!r} and in {other!r}, "
                    f"got {int(common[0])}"
                )
