"""Figures the reader can steer: live in Jupyter, pre-rendered on the page.

A notebook that is executed for the book (``WDTR_WIDGETS=static``) stores every frame with a slider
of plain HTML, which needs neither a kernel nor a library nor a network. Without scripts all frames
show at once, as small multiples.
"""

import base64
import hashlib
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

__all__ = ["explore"]


def explore(
    draw: Callable[..., Figure],
    choices: Mapping[str, Sequence],
    *,
    question: str,
    describe: Callable[..., str],
    start: Mapping[str, object] | None = None,
) -> None:
    """Let the reader choose the arguments of a figure, and ask a question that only choosing
    answers.

    Parameters
    ----------
    draw : function of the choices -> Figure
        Draws one frame.
    choices : mapping of name to values
        Numbers become a slider, strings a menu. The names are the arguments of `draw` and the
        labels on the page (underscores shown as spaces).
    question : str
        Shown above the controls.
    describe : function of the choices -> str
        What the frame shows, in one sentence with its numbers: its caption and its alternative
        text.
    start : mapping, optional
        The choices shown first; the first ones by default.
    """
    start = {name: values[0] for name, values in choices.items()} | dict(start or {})
    if not choices or any(start[name] not in choices.get(name, ()) for name in start):
        raise ValueError(f"start={start!r} must be among the choices {dict(choices)!r}")
    if os.environ.get("WDTR_WIDGETS") == "static":
        display(HTML(_frames(draw, choices, question, describe, start)))
    else:
        _live(draw, choices, question, describe, start)


def _live(draw, choices, question, describe, start) -> None:
    import ipywidgets

    controls = {}
    for name, values in choices.items():
        kind = ipywidgets.Dropdown if isinstance(values[0], str) else ipywidgets.SelectionSlider
        controls[name] = kind(
            options=list(values), value=start[name], description=name.replace("_", " ")
        )

    def show(**values) -> None:
        draw(**values)
        plt.show()
        print(describe(**values))

    output = ipywidgets.interactive_output(show, controls)
    display(ipywidgets.VBox([ipywidgets.HTML(html.escape(question)), *controls.values(), output]))


def _frames(draw, choices, question, describe, start) -> str:
    figures = []
    for key in product(*(range(len(values)) for values in choices.values())):
        values = {name: options[i] for (name, options), i in zip(choices.items(), key, strict=True)}
        text = html.escape(describe(**values))
        figures.append(
            f'<figure data-key="{",".join(map(str, key))}">'
            f'<img alt="{text}" src="{png(draw(**values))}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    asked = html.escape(question)
    name = "wdtr-" + hashlib.md5("".join([question, *figures]).encode()).hexdigest()[:8]
    controls = "".join(
        _control(label, list(values), start[label]) for label, values in choices.items()
    )
    return (
        f'{_STYLE}<div class="wdtr-frames" id="{name}" role="group" aria-label="{asked}">'
        f"<p><strong>{asked}</strong></p>"
        f'<div class="wdtr-controls" hidden>{controls}</div>'
        f'<div class="wdtr-grid">{"".join(figures)}</div></div>'
        f"<script>{_SCRIPT.replace('NAME', name)}</script>"
    )


def _control(label: str, values: list, first: object) -> str:
    index = values.index(first)
    label = html.escape(label.replace("_", " "))
    texts = [html.escape(str(value)) for value in values]
    if isinstance(values[0], str):
        options = "".join(
            f"<option{' selected' if i == index else ''}>{text}</option>"
            for i, text in enumerate(texts)
        )
        return f"<label>{label} <select>{options}</select></label>"
    return (
        f'<label>{label} <input type="range" min="0" max="{len(values) - 1}" value="{index}" '
        f'data-values="{" ".join(texts)}"> <output></output></label>'
    )


def png(figure: Figure) -> str:
    """The figure as a data URI, in 64 colours: a third of the bytes, no visible loss in a plot."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=90)
    plt.close(figure)
    image, told = Image.open(full), PngInfo()
    if "Lettering" in image.info:  # the size of its smallest letters
        told.add_text("Lettering", str(image.info["Lettering"]))
    image.convert("RGB").quantize(64).save(small, format="png", optimize=True, pnginfo=told)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()


_STYLE = """<style>
.wdtr-frames { border: 1px solid #9a9a9a; border-radius: 6px; padding: 0.5rem 1rem; margin: 1rem 0; }
.wdtr-controls:not([hidden]) { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; }
.wdtr-controls input { vertical-align: middle; width: 14rem; max-width: 60vw; }
.wdtr-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 0.5rem; }
.wdtr-live .wdtr-grid { display: block; }
.wdtr-live figure:not([data-shown]) { display: none; }
.wdtr-frames figure { margin: 0.5rem 0; }
.wdtr-frames img { max-width: 100%; height: auto; background: white; }
</style>"""  # noqa: E501

_SCRIPT = """(() => {
  const box = document.getElementById("NAME"), controls = [...box.querySelectorAll("input, select")];
  const show = (key) => box.querySelectorAll("figure").forEach(f => f.toggleAttribute("data-shown", f.dataset.key === key));
  const update = () => {
    for (const c of controls) if (c.type === "range") {
      const value = c.dataset.values.split(" ")[c.value];
      c.nextElementSibling.textContent = value;
      c.setAttribute("aria-valuetext", value);
    }
    show(controls.map(c => c.type === "range" ? c.value : c.selectedIndex).join(","));
  };
  controls.forEach(c => c.addEventListener("input", update));
  box.querySelector(".wdtr-controls").hidden = false;
  box.classList.add("wdtr-live");
  update();
})();"""  # noqa: E501
