"""The pixel graph: which pixels are neighbours, how strongly, and how much volume each has.

Tensors given to a graph's methods and to the functions built on it have the graph's device and
type: :meth:`PixelGraph.to` changes them, nothing is converted in silence.
"""

from collections.abc import Iterator
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import checks

__all__ = ["PixelGraph"]


class PixelGraph(nn.Module):
    r"""Pixels as vertices; edges between each pixel and the others in a square window around it.

    Pixels :math:`i = \text{row} \cdot W + \text{column}` are neighbours if their rows and their
    columns differ by at most the radius r: the paper's local grid. Windows are clipped at the
    border. The weight of an edge depends on its offset alone, :math:`\omega_{ij} = \omega(a_j -
    a_i) = \omega(a_i - a_j)`.

    Parameters
    ----------
    height, width : int
        Size H x W of the images, n = H W pixels.
    radius : int
        Radius r of the window in pixels, from 1 to max(H, W) - 1.
    weight : float or tensor (2r + 1, 2r + 1), optional
        The weight of every edge, or a kernel of non-negative weights, one per offset, equal at
        opposite offsets; its centre is not used, an offset of weight 0 is no edge. A kernel may
        require grad: what is computed with the graph is then differentiable in it. A
        :class:`torch.nn.Parameter` is the module's parameter.

    Attributes
    ----------
    device, dtype : torch.device, torch.dtype
        The kernel's, or else the CPU and torch's default type; ``graph.to(...)`` changes them in
        place, as with every :class:`torch.nn.Module`, and the graph moves with the module that
        holds it.
    kernel : tensor (2r + 1, 2r + 1) or None
        The weights by offset, where they are not all equal.

    Examples
    --------
    >>> from wdtr_lite import PixelGraph
    >>> graph = PixelGraph(1, 3, radius=1)
    >>> graph.volume
    tensor([[0.2500, 0.5000, 0.2500]])
    >>> graph.incidence().to_dense()
    tensor([[-1.,  1.,  0.],
            [ 0., -1.,  1.]])

    References
    ----------
    Section 4 and Definition 1 of Lin et al. (2019).
    """

    def __init__(self, height: int, width: int, radius: int, *, weight: float | Tensor = 1.0):
        super().__init__()
        for name, value in (("height", height), ("width", width), ("radius", radius)):
            checks.whole(value, name)
        if radius >= max(height, width):
            raise ValueError(
                f"radius must be less than the longer side, {max(height, width)} pixels, got {radius}"
            )
        self.height, self.width, self.radius = int(height), int(width), int(radius)
        kernel = _checked_kernel(weight, radius) if isinstance(weight, Tensor) else None
        self._weight = _checked_weight(weight) if kernel is None else None
        if isinstance(kernel, nn.Parameter):
            self.kernel = kernel
        else:
            self.register_buffer("kernel", kernel, persistent=False)
        like = torch.empty(0) if kernel is None else kernel.detach()
        for name, band in (("_rows", _band(height, radius)), ("_columns", _band(width, radius))):
            self.register_buffer(name, band.to(like), persistent=False)
        self._degree = self._constant_degree()
        if not bool(self.degree.sum().isfinite()):
            raise ValueError(
                f"weight is too large for {self.dtype}: the sum of all degrees is not finite"
            )
        if not bool((self.degree > 0).all()):
            raise ValueError("weight leaves a pixel without neighbours")
        if kernel is not None and bool(
            (self.components(torch.ones_like(self.volume)[None]) + 1 < self.size).any()
        ):
            raise ValueError("weight leaves the pixels in several unconnected parts")

    def extra_repr(self) -> str:
        weight = self._weight if self.kernel is None else "kernel"
        return f"{self.height}, {self.width}, {self.radius}, weight={weight}"

    def _apply(self, fn, recurse=True):
        """What every move of a module goes through: refused before anything has moved."""
        dtype = fn(self._rows).dtype
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"a PixelGraph is torch.float32 or torch.float64, got {dtype}")
        if not bool(self.degree.detach().double().sum().to(dtype).isfinite()):
            raise ValueError(
                f"weight is too large for {dtype}: the sum of all degrees is not finite"
            )
        super()._apply(fn, recurse)
        self._degree = self._constant_degree()
        return self

    def converted(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "PixelGraph":
        """A copy on another device or of another type; what is computed with it still reaches this
        graph's kernel.
        """
        device, dtype = device or self.device, dtype or self.dtype
        weight = self._weight if self.kernel is None else self.kernel.to(device, dtype)
        return PixelGraph(self.height, self.width, self.radius, weight=weight).to(device, dtype)

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors are."""
        return self._rows.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the graph's tensors, float32 or float64."""
        return self._rows.dtype

    @property
    def size(self) -> int:
        """The number of pixels, n = H W."""
        return self.height * self.width

    @property
    def degree(self) -> Tensor:
        r"""Sum of the weights of each pixel's edges, :math:`\sum_{j \in N(i)} \omega_{ij}`, (H, W)."""
        return self._degrees() if self._degree is None else self._degree

    def _constant_degree(self) -> Tensor | None:
        return self._degrees() if self.kernel is None else None  # a kernel may be learnt

    def _degrees(self) -> Tensor:
        return self.neighbor_sum(self._rows.new_ones(self.height, self.width))

    @property
    def volume(self) -> Tensor:
        r"""The paper's normalised volume d, (H, W), each pixel's share of all degrees. It sums to
        1.
        """
        degree = self.degree
        return degree / degree.sum()

    @property
    def offsets(self) -> Tensor:
        """Offsets (row, column) of a pixel's neighbours, int64 (K, 2), row by row, so that
        ``offsets[k] == -offsets[-1 - k]``.
        """
        half = [offset for offset, _ in self.forward_offsets()]
        return torch.tensor([(-dy, -dx) for dy, dx in reversed(half)] + half)

    def forward_offsets(self) -> Iterator[tuple[tuple[int, int], float | Tensor]]:
        """Each pair of opposite offsets once, as the one that leads to the pixel of larger number,
        with its weight.
        """
        r, kernel = self.radius, self.kernel
        for dy in range(min(r, self.height - 1) + 1):
            reach = min(r, self.width - 1)
            for dx in range(-reach if dy else 1, reach + 1):
                weight = self._weight if kernel is None else kernel[r + dy, r + dx]
                if weight > 0:
                    yield (dy, dx), weight

    def endpoints(self, v: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Views of v (..., H, W) at both ends, j and i > j, of all edges of one forward offset."""
        dy, dx = offset
        h, w = self.height - dy, self.width - abs(dx)
        left = max(0, -dx)
        return v[..., :h, left : left + w], v[..., dy:, left + dx : left + dx + w]

    def neighbor_sum(self, v: Tensor) -> Tensor:
        r"""Weighted sum over each pixel's neighbours, :math:`(Bv)_i = \sum_{j \in N(i)} \omega_{ij}
        v_j`.

        Two banded matrix products whatever the radius where all weights are equal; one with the
        kernel's rows as banded blocks otherwise.

        Parameters
        ----------
        v : tensor, (..., H, W)

        Returns
        -------
        tensor, (..., H, W)
        """
        checks.on_graph(self, v, "v")
        with torch.autocast(
            v.device.type, enabled=False
        ):  # half precision would leave nothing of the differences
            return self._neighbor_sum(v)

    def _neighbor_sum(self, v: Tensor) -> Tensor:
        r = self.radius
        if self.kernel is None:
            return self._weight * (self._rows @ v @ self._columns - v)
        column = torch.arange(self.width, device=self.device)
        step = column[:, None] - column  # from the output's column to the input's
        mask = (step.abs() <= r).to(self.dtype)
        blocks = self._centreless()[:, step.clamp(-r, r) + r] * mask  # (2r + 1, W, W)
        rows = F.pad(v, (0, 0, r, r)).unfold(-2, self.height, 1)  # (..., 2r + 1, W, H)
        return torch.einsum("...dwh,dwc->...hc", rows, blocks)

    def _centreless(self) -> Tensor:
        offset = torch.arange(-self.radius, self.radius + 1, device=self.device).abs()
        return self.kernel.masked_fill(offset[:, None] + offset == 0, 0)

    def incidence(self) -> Tensor:
        r"""The discrete gradient D of Definition 1, sparse, an edge a row.

        The row of edge (i, j), i > j, holds :math:`\sqrt{\omega_{ij}}` at i and
        :math:`-\sqrt{\omega_{ij}}` at j; edges are in the order of the forward offsets.

        Returns
        -------
        sparse COO tensor, (number of edges, n)
        """
        (j, i), weight = self.edges()
        edge = torch.arange(len(i), device=self.device)
        root = weight.sqrt()
        indices = torch.stack([torch.cat([edge, edge]), torch.cat([i, j])])
        return sparse_coo(indices, torch.cat([root, -root]), (len(i), self.size))

    def edges(self) -> tuple[Tensor, Tensor]:
        """Pixel pairs (2, edges), the smaller first, and the weight of each, (edges,)."""
        pixel = torch.arange(self.size, device=self.device).view(self.height, self.width)
        pairs, weights = [], []
        for offset, weight in self.forward_offsets():
            ends = torch.stack([end.reshape(-1) for end in self.endpoints(pixel, offset)])
            pairs.append(ends)
            weights.append(
                torch.as_tensor(weight, device=self.device, dtype=self.dtype).expand(ends.shape[1])
            )
        return torch.cat(pairs, dim=1), torch.cat(weights)

    def _neighbor_max(self, v: Tensor) -> Tensor:
        """The largest value among each pixel and its neighbours, (M, H, W)."""
        if self.kernel is None:
            return F.max_pool2d(v, 2 * self.radius + 1, stride=1, padding=self.radius)
        out = v.clone()
        for offset, _ in self.forward_offsets():
            (low, high), (low_out, high_out) = (
                self.endpoints(v, offset),
                self.endpoints(out, offset),
            )
            torch.maximum(low_out, high, out=low_out)
            torch.maximum(high_out, low, out=high_out)
        return out

    def components(self, x: Tensor) -> Tensor:
        """For each pixel of x (M, H, W) the largest pixel number linked to it, int64 (M, n); two
        black pixels are no link.
        """
        lit = (x > 0).double()
        label = (
            torch.arange(self.size, device=x.device, dtype=torch.float64)
            .view(self.height, self.width)
            .expand_as(x)
        )
        while True:
            wider = torch.maximum(label, lit * self._neighbor_max(label))
            wider = torch.maximum(wider, self._neighbor_max(lit * wider))
            if torch.equal(wider, label):
                return label.flatten(1).long()
            label = wider

    def adjacency(self) -> Tensor:
        """All weights as a dense matrix, (n, n)."""
        identity = torch.eye(self.size, device=self.device, dtype=self.dtype)
        return self.neighbor_sum(identity.view(-1, self.height, self.width)).flatten(-2)


def sparse_coo(indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with torch.sparse.check_sparse_tensor_invariants(
        True
    ):  # torch warns where it is neither on nor off
        return torch.sparse_coo_tensor(indices, values, shape).coalesce()


def _band(side: int, radius: int) -> Tensor:
    k = torch.arange(side)
    return (k[:, None] - k).abs() <= radius


def _checked_weight(weight: float) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"weight must be a number or a tensor, got {type(weight).__name__}")
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight must be positive and finite, got {weight}")
    return float(weight)


def _checked_kernel(weight: Tensor, radius: int) -> Tensor:
    checks.floating(weight, "weight")
    if weight.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"weight must be torch.float32 or torch.float64, got {weight.dtype}")
    if weight.shape != (2 * radius + 1,) * 2:
        raise ValueError(
            f"weight must have shape {(2 * radius + 1,) * 2} for radius {radius}, got {tuple(weight.shape)}"
        )
    if not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ValueError("weight must be non-negative and finite")
    if not torch.equal(weight, weight.flip(0, 1)):
        raise ValueError("weight must be equal at opposite offsets: weight + weight.flip(0, 1) is")
    return weight
