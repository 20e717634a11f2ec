"""Images and labels with their provenance: the book's data sets, from where the reader has them,
checked against the originals, and your own.
"""

from wdtr_lite.data.dataset import SOURCES, Dataset, Source, load, names, register
from wdtr_lite.data.digits import mnist5k, mnist5k_color, mnist14
from wdtr_lite.data.photographs import cifar16
from wdtr_lite.data.published import PUBLISHED, Published

__all__ = ["PUBLISHED", "SOURCES", "Dataset", "Published", "Source", "load", "names", "register"]

register("mnist5k", mnist5k)
register("mnist5k_color", mnist5k_color)
for _name, _published in PUBLISHED.items():
    register(_name, _published.load, splits=_published.splits)
register("mnist14", mnist14, splits=PUBLISHED["mnist"].splits)
register("cifar16", cifar16, splits=PUBLISHED["cifar10"].splits)
