"""Modules whose parts agree."""

from typing import Any

from torch import nn


class Fixed(nn.Module):
    """A module some of whose attributes are set by its constructor alone, which checks them and
    makes others of them.
    """

    _fixed: tuple[str, ...]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in self.__dict__:
            kind = type(self).__name__
            raise AttributeError(f"{name} of a {kind} cannot be changed: make another {kind}")
        super().__setattr__(name, value)
