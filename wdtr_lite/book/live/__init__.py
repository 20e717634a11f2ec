"""Widgets that compute in the reader's browser: drawn digits, classifiers, a moved photograph.

Each is one piece of HTML with its data and our own scripts, the ``.js`` files of this folder. It
needs no kernel, library or network. Without scripts and in print a picture stands in its place.
"""

import base64
import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.figure import Figure
from torch import Tensor, nn

from wdtr_lite import PixelGraph, attacks, metric, transport
from wdtr_lite.book import plots
from wdtr_lite.book.reports import CLASSES, label
from wdtr_lite.book.widgets import png

__all__ = ["EPSILON", "RADIUS", "ask_three", "draw_two", "move_photograph", "rounded"]

EPSILON = 1.0
"""Of the Sinkhorn divergence that is computed in the page, in pixels²."""

RADIUS = 4
"""Of the graph of L(x), in pixels."""


# ---------------------------------------------------------------- the widgets


def draw_two(digits: Mapping[str, Tensor], *, question: str) -> HTML:
    """Draw two digits; their L2 and W2 distance and the ink on its way.

    Parameters
    ----------
    digits : mapping of name -> (28, 28) uint8
        To start from, the first two at first.
    question : str
    """
    x, y = (image.double() for image in list(digits.values())[:2])
    data = _images(digits) | {"first": [0, 1], "epsilon": EPSILON}
    return _widget("transport", data, _two_digits(x, y), question)


def ask_three(
    networks: Mapping[str, nn.Module], digits: Mapping[str, Tensor], *, question: str
) -> HTML:
    """Draw a digit, move, turn, blur or attack it, and see what classifiers take it for, with the
    input gradient g and L(x) g.

    Parameters
    ----------
    networks : mapping of a method of training -> a ``small_cnn``, as :func:`rounded`
    digits : mapping of name -> (28, 28) uint8
        To start from, the first one at first.
    question : str
    """
    first = next(iter(digits.values())).float() / 255
    asked = [
        {"name": label(method), "color": plots.color_of(method), **weights(network)}
        for method, network in networks.items()
    ]
    data = _images(digits) | {"first": 0, "networks": asked, "radius": RADIUS}
    return _widget("classifiers", data, _answers(networks, first), question)


def move_photograph(report: Mapping[str, Any], *, question: str) -> HTML:
    """Move a photograph, and see the stored answers of networks at every shift.

    Parameters
    ----------
    report : what ``photographs`` stored
    question : str
    """
    images, rows = report["result"]["images"], report["result"]["rows"]
    data = {
        "images": [
            {"label": image["label"], "pixels": _base64(bytes.fromhex(image["pixels"]))}
            for image in images
        ],
        "classes": CLASSES,
        "networks": [
            {"name": label(row["method"]), "answers": row["measurements"]} for row in rows
        ],
        "borders": [{"name": name, "title": title} for name, title in BORDERS.items()],
        "reach": report["config"]["reach"],
        "side": 32,
    }
    return _widget("photograph", data, _maps(data), question)


BORDERS = {"zeros": "black", "edge": "the border repeated", "reflect": "the border mirrored"}


# ---------------------------------------------------------------- data in the page


def rounded(network: nn.Module) -> nn.Module:
    """The network with each weight rounded to 8 bits, with a scale for each output: the one that
    answers in the page.
    """
    with torch.no_grad():
        for layer in layers(network):
            whole, scale = _whole(layer.weight)
            layer.weight.copy_(whole * scale)
    return network


def layers(network: nn.Module) -> list[Any]:
    return [layer for layer in network.children() if isinstance(layer, nn.Conv2d | nn.Linear)]


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight.abs().flatten(1).amax(1).reshape(-1, *[1] * (weight.dim() - 1)) / 127
    return (weight / scale).round(), scale


def weights(network: nn.Module) -> dict[str, Any]:
    told = []
    for layer in layers(network):
        whole, scale = _whole(layer.weight.detach())
        told.append(
            {
                "shape": list(layer.weight.shape),
                "weights": _base64(whole.to(torch.int8).numpy().tobytes()),
                "scales": [float(f"{value:.7g}") for value in scale.flatten().tolist()],
                "bias": [float(f"{value:.7g}") for value in layer.bias.tolist()],
            }
        )
    normalize: Any = network.normalize
    return {"layers": told, "mean": float(normalize.mean), "std": float(normalize.std)}


def _images(digits: Mapping[str, Tensor]) -> dict[str, Any]:
    pixels = [_base64(image.numpy().tobytes()) for image in digits.values()]
    return {"images": pixels, "names": list(digits)}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@cache
def script(name: str) -> str:
    """What a widget of this name runs."""
    return "".join((Path(__file__).parent / f"{each}.js").read_text() for each in ("core", name))


def _widget(name: str, data: Mapping[str, Any], instead: Figure, question: str) -> HTML:
    """A widget's HTML: a picture, which the script hides, and what the script needs."""
    asked, made = html.escape(question), f"wdtr-{name}"
    described = html.escape(str(instead.get_suptitle()))
    told = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return HTML(
        f'<div class="wdtr-live-widget" id="{made}" role="group" aria-label="{asked}">'
        f"<p><strong>{asked}</strong></p>"
        f'<figure class="wdtr-instead"><img alt="{described}" src="{png(instead)}"></figure></div>'
        f"<style>{_STYLE}</style>"
        f"<script>(() => {{ {script(name)}\nconst box = document.getElementById('{made}');"
        'const live = wdtr.element(box, "div", { className: "wdtr-live-part" });'
        f'wdtr.widgets.{name}(live, {told}); box.classList.add("wdtr-on"); }})();</script>'
    )


_STYLE = (Path(__file__).parent / "live.css").read_text()


# ---------------------------------------------------------------- pictures instead


def _two_digits(x: Tensor, y: Tensor) -> Figure:
    figure, panels = plt.subplots(1, 5, figsize=(6.8, 1.9))
    ends = x.numpy(), y.numpy()
    shown = [transport.displacement_interpolation(*ends, t) for t in np.linspace(0, 1, 5)]
    for axes, image, name in zip(panels, shown, ("from", "", "halfway", "", "to"), strict=True):
        plots.show_image(axes, image, name)
    distance = float(transport.wasserstein_distance(x, y))
    figure.suptitle(f"The ink of one digit moved to another: W2 = {distance:.2f} pixels", size=9)
    return figure


def _answers(networks: Mapping[str, nn.Module], x: Tensor) -> Figure:
    figure, panels = plt.subplots(len(networks), 4, figsize=(5.2, 1.5 * len(networks)))
    graph, said = PixelGraph(28, 28, RADIUS), []
    for row, (method, network) in zip(panels, networks.items(), strict=True):
        with torch.no_grad():
            shares = network(x[None, None]).softmax(1)[0]
        answer = int(shares.argmax())
        gradient = attacks.input_gradient(network, x[None, None], torch.tensor([answer]))[0, 0]
        said.append(f"{label(method)} {answer}")
        plots.show_image(row[0], x.numpy(), vmax=1)
        row[0].set_ylabel(label(method), fontsize=8)
        row[1].bar(range(10), shares.numpy(), color=plots.color_of(method))
        row[1].set(ylim=(0, 1), xticks=range(10), yticks=[])
        plots.show_change(row[2], gradient.numpy(), "g")
        plots.show_change(row[3], metric.apply_laplacian(graph, x, gradient).numpy(), "L(x) g")
    figure.suptitle("Three networks asked: " + ", ".join(said), size=9)
    return figure


def _maps(data: Mapping[str, Any]) -> Figure:
    """Where each network is right, of the first image with black coming in."""
    figure, panels = plt.subplots(1, len(data["networks"]), figsize=(6.8, 2.7))
    reach, right, counts = data["reach"], data["images"][0]["label"], []
    for axes, network in zip(panels, data["networks"], strict=True):
        answers = np.array(network["answers"]["zeros"][0])
        kept = (answers == right).reshape(2 * reach + 1, -1)
        axes.imshow(kept, extent=[-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5])
        axes.set(title=network["name"], xlabel="moved to the right")
        counts.append(f"{network['name']} {int(kept.sum())}")
    panels[0].set_ylabel("moved down")
    text = f"A {data['classes'][right]} moved: right at {', '.join(counts)} of {kept.size} places"
    figure.suptitle(text, size=9)
    return figure
