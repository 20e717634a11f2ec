"""Every PNG that matplotlib writes says how large its smallest letters are, in points.

Run in the kernel that executes a chapter. The pages' `book/_ext/pictures.py` and the browser
tests read it.
"""

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.text import Text

write = FigureCanvasBase.print_figure


def letters(figure):
    """The sizes of all texts that show."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axes.get_visible() and axes.axison and axis.get_visible():
                axis.get_ticklabels(which="both")  # which sets their texts
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text.get_alpha() != 0:
            yield text.get_fontsize()


def print_figure(self, filename, *args, **options):
    kind = options.get("format") or str(filename).rpartition(".")[2]
    size = min(letters(self.figure), default=None) if kind == "png" else None
    if size and not options.get("metadata"):
        options["metadata"] = {"Lettering": f"{size:g}"}
    return write(self, filename, *args, **options)


FigureCanvasBase.print_figure = print_figure
