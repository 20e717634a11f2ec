"""The pixel graph: which pixels are neighbours, how strongly, and how much volume each has.

Tensors given to a graph's methods and to the functions built on it have the graph's device and
type: ``PixelGraph.to`` changes them, nothing is converted in silence.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wdtr_lite import checks

__all__ = ["PixelGraph"]

LONGEST = 2**13  # a side's square band has 256 MiB


class PixelGraph(checks.Fixed):
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
        :class:`torch.nn.Parameter` is trained and saved with the module; the mean of its weights
        at opposite offsets counts, and an optimiser must keep it positive.

    Attributes
    ----------
    device, dtype : torch.device, torch.dtype
        The kernel's, or else the CPU and torch's default type, at least float32; ``graph.to(...)``
        changes them in place, as with every :class:`torch.nn.Module`, and the graph moves with the
        module that holds it. float16 and bfloat16 leave it in the type that it has, for half of the
        precision would leave nothing of the differences: a module's ``.half()`` is of its other
        parts, and the images that the graph is given stay float32.
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

    _fixed = "height", "width", "radius"
    kernel: Tensor | None
    _weight: float  # where there is no kernel
    _rows: Tensor
    _columns: Tensor
    _degree: Tensor | None

    def __init__(self, height: int, width: int, radius: int, *, weight: float | Tensor = 1.0):
        super().__init__()
        self.height, self.width, self.radius = (
            checks.whole(value, name, most=LONGEST)
            for name, value in (("height", height), ("width", width), ("radius", radius))
        )
        longer = max(self.height, self.width)
        if self.radius >= longer:
            raise ValueError(
                f"radius must be less than the longer side, {longer} pixels, got {radius}"
            )
        if isinstance(weight, Tensor):
            checks.kernel(weight, self.radius)
            kernel = weight
        else:
            self._weight, kernel = checks.number(weight, "weight", positive=True), None
        if isinstance(kernel, nn.Parameter):
            self.register_parameter("kernel", kernel)
        else:
            self.register_buffer("kernel", kernel, persistent=False)
        like = torch.empty(0) if kernel is None else kernel
        self._lay_out(like.device, torch.promote_types(like.dtype, torch.float32))
        self._check_weights()

    def extra_repr(self) -> str:
        weight = self._weight if self.kernel is None else "kernel"
        return f"{self.height}, {self.width}, {self.radius}, weight={weight}"

    def _apply(self, fn, recurse=True):
        """What every move of a module goes through, with those that hold it; half types move it to
        the device alone.
        """
        like, move = fn(self._rows), fn
        dtype = like.dtype
        if dtype in (torch.float16, torch.bfloat16):
            dtype, move = self.dtype, lambda v: v.to(fn(v).device)
        checks.graph_dtype(dtype, "a PixelGraph")
        self._check_range(dtype)
        super()._apply(move, recurse)
        self._lay_out(like.device, dtype)
        return self

    @torch.inference_mode(False)  # whose tensors could take part in no gradient later
    def _lay_out(self, device: torch.device, dtype: torch.dtype) -> None:
        """The constants of the graph, computed where they will be used."""
        for name, side in (("_rows", self.height), ("_columns", self.width)):
            k = torch.arange(side, device=device)
            band = ((k[:, None] - k).abs() <= self.radius).to(dtype)
            self.register_buffer(name, band, persistent=False)
        degree = self._degrees() if self.kernel is None else None  # a kernel may be learnt
        self.register_buffer("_degree", degree, persistent=False)

    def _check_range(self, dtype: torch.dtype) -> None:
        degree = self.degree.detach().double()
        total, least = degree.sum().to(dtype), torch.finfo(dtype).tiny
        for size, fits in (("large", total.isfinite()), ("small", degree.min() >= least)):
            if not degree.is_meta and not bool(fits):
                raise ValueError(f"weight is too {size} for the degrees in {dtype}, {self._got()}")

    def _got(self) -> str:
        return f"got {checks.shown(self._weight if self.kernel is None else self.kernel.tolist())}"

    def _check_weights(self) -> None:
        if self.kernel is not None and not self.kernel.is_meta:
            if not bool((self.degree > 0).all()):
                raise ValueError(f"weight leaves a pixel without neighbours, {self._got()}")
            largest = self.components(torch.ones_like(self.degree)[None])
            if bool((largest + 1 < self.size).any()):
                raise ValueError(f"weight leaves the pixels in unconnected parts, {self._got()}")
        self._check_range(self.dtype)

    def converted(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "PixelGraph":
        """A copy on another device or of another type; what is computed with it still reaches this
        graph's kernel.
        """
        if device is not None and str(device) != "meta":
            checks.device(device)
        device = self.device if device is None else device
        dtype = self.dtype if dtype is None else dtype
        checks.graph_dtype(dtype, "dtype")
        weight = self._weights()
        weight = self._weight if weight is None else weight.to(device, dtype)
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
        r"""The sum of each pixel's weights, :math:`\sum_{j \in N(i)} \omega_{ij}`, (H, W)."""
        return self._degrees() if self._degree is None else self._degree

    def _degrees(self) -> Tensor:
        return self.weighted_sum(self._rows.new_ones(self.height, self.width))

    @property
    def volume(self) -> Tensor:
        r"""The paper's normalised volume d, (H, W), each pixel's share of all degrees, of sum 1."""
        degree = self.degree
        return degree / degree.sum()

    def _weights(self) -> Tensor | None:
        """The kernel without its centre, and equal at opposite offsets whatever was learnt."""
        if self.kernel is None:
            return None
        half = self.kernel / 2
        offset = torch.arange(-self.radius, self.radius + 1, device=self.device).abs()
        return checks.learnt((half + half.flip(0, 1)).masked_fill(offset[:, None] + offset == 0, 0))

    # ------------------------------------------------------------ edges

    @property
    def offsets(self) -> Tensor:
        """Offsets (row, column) of a pixel's neighbours, int64 (K, 2), row by row, so that
        ``offsets[k] == -offsets[-1 - k]``.
        """
        half = [offset for offset, _ in self.forward_offsets()]
        return torch.tensor([(-dy, -dx) for dy, dx in reversed(half)] + half)

    def forward_offsets(self) -> Iterator[tuple[tuple[int, int], float | Tensor]]:
        """Each pair of opposite offsets once, as the one that leads to the pixel of larger number.

        Yields
        ------
        offset : (int, int)
            Rows, from 0, and columns.
        weight : float or tensor ()
            Positive.

        Examples
        --------
        >>> from wdtr_lite import PixelGraph
        >>> list(PixelGraph(2, 2, radius=1, weight=0.5).forward_offsets())
        [((0, 1), 0.5), ((1, -1), 0.5), ((1, 0), 0.5), ((1, 1), 0.5)]
        """
        r, weights = self.radius, self._weights()
        down, across = min(r, self.height - 1), min(r, self.width - 1)
        for dy in range(down + 1):
            for dx in range(-across if dy else 1, across + 1):
                weight = self._weight if weights is None else weights[r + dy, r + dx]
                if weight > 0:
                    yield (dy, dx), weight

    def endpoints(self, v: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Values at both ends, j and i > j, of all edges of one forward offset.

        Parameters
        ----------
        v : tensor, (..., H, W)
        offset : (int, int)
            One of :meth:`forward_offsets`.

        Returns
        -------
        pair of tensors, (..., H - rows, W - abs(columns))
            Views of v.

        Examples
        --------
        >>> import torch
        >>> from wdtr_lite import PixelGraph
        >>> v = torch.arange(6).view(2, 3)
        >>> j, i = PixelGraph(2, 3, radius=1).endpoints(v, (1, -1))
        >>> j.tolist(), i.tolist()
        ([[1, 2]], [[3, 4]])
        """
        dy, dx = checks.offset(self, v, offset)
        h, w = self.height - dy, self.width - abs(dx)
        left = max(0, -dx)
        return v[..., :h, left : left + w], v[..., dy:, left + dx : left + dx + w]

    def edges(self) -> tuple[Tensor, Tensor]:
        """All edges, in the order of the forward offsets, each offset's row by row.

        Returns
        -------
        pixels : tensor, int64 (2, number of edges)
            The smaller pixel number first.
        weight : tensor, (number of edges,)

        Examples
        --------
        >>> from wdtr_lite import PixelGraph
        >>> pixels, weight = PixelGraph(1, 4, radius=2).edges()
        >>> pixels.T.tolist()
        [[0, 1], [1, 2], [2, 3], [0, 2], [1, 3]]
        """
        number = torch.arange(self.size, device=self.device).view(self.height, self.width)
        pixels, weights = [], []
        for offset, weight in self.forward_offsets():
            ends = torch.stack([end.flatten() for end in self.endpoints(number, offset)])
            pixels.append(ends)
            weights.append(self._rows.new_ones(ends.shape[1]) * weight)
        return torch.cat(pixels, dim=1), torch.cat(weights)

    def incidence(self) -> Tensor:
        r"""The discrete gradient D of Definition 1, sparse, an edge a row.

        The row of edge (i, j), i > j, holds :math:`\sqrt{\omega_{ij}}` at i and
        :math:`-\sqrt{\omega_{ij}}` at j; edges are in the order of :meth:`edges`.

        Returns
        -------
        sparse COO tensor, (number of edges, n)
        """
        (j, i), weight = self.edges()
        edge = torch.arange(len(i), device=self.device)
        root = weight.sqrt()
        indices = torch.stack([torch.cat([edge, edge]), torch.cat([i, j])])
        return sparse_coo(indices, torch.cat([root, -root]), (len(i), self.size))

    def adjacency(self) -> Tensor:
        """The weights of all edges as a dense symmetric matrix, 0 where there is none.

        Returns
        -------
        tensor, (n, n)
        """
        identity = torch.eye(self.size, device=self.device, dtype=self.dtype)
        return self.neighbor_sum(identity.view(-1, self.height, self.width)).flatten(-2)

    # ------------------------------------------------------------ over a pixel's neighbours

    def neighbor_sum(self, v: Tensor) -> Tensor:
        r"""The weighted sum over neighbours, :math:`(Av)_i = \sum_{j \in N(i)} \omega_{ij} v_j`.

        Two banded matrix products whatever the radius where all weights are equal, rounded as is
        the largest value within the radius; one with the kernel's rows as banded blocks otherwise.
        In full precision under autocast too, for half of it would leave nothing of the differences.

        Parameters
        ----------
        v : tensor, (..., H, W)

        Returns
        -------
        tensor, (..., H, W)
        """
        checks.vector(self, v, "v")
        return checks.in_range(self.weighted_sum(v), "neighbor_sum", "v")

    def weighted_sum(self, v: Tensor) -> Tensor:
        """As :meth:`neighbor_sum`, of values that are not looked at."""
        checks.on_graph(self, v, "v")
        with full_precision(v):
            weights = self._weights()
            if weights is None:
                return self._weight * (self._rows @ v @ self._columns - v)
            return self._kernel_sum(v, weights)

    def _kernel_sum(self, v: Tensor, weights: Tensor) -> Tensor:
        r = self.radius
        column = torch.arange(self.width, device=self.device)
        step = (column[:, None] - column).clamp(-r, r)  # from the output's column to the input's
        blocks = weights[:, step + r] * self._columns  # (2r + 1, W, W)
        rows = F.pad(v, (0, 0, r, r)).unfold(-2, self.height, 1)  # (..., 2r + 1, W, H)
        return torch.einsum("...dwh,dwc->...hc", rows, blocks)

    def components(self, x: Tensor) -> Tensor:
        """The connected components of the pixels that an image links: two neighbours are linked
        unless both are black.

        Parameters
        ----------
        x : tensor, (M, H, W)

        Returns
        -------
        tensor, int64 (M, n)
            For each pixel the largest pixel number of its component.

        Examples
        --------
        >>> import torch
        >>> from wdtr_lite import PixelGraph
        >>> x = torch.tensor([[[0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]])
        >>> PixelGraph(1, 6, radius=1).components(x)
        tensor([[2, 2, 2, 3, 5, 5]])
        """
        checks.layers(self, x)
        lit = (x > 0).double()
        number = torch.arange(self.size, device=x.device, dtype=torch.float64)
        label = number.view(self.height, self.width).expand_as(x)
        while True:
            wider = torch.maximum(label, lit * self._neighbor_max(label))
            wider = torch.maximum(wider, self._neighbor_max(lit * wider))
            if torch.equal(wider, label):
                return label.flatten(1).long()
            label = wider

    def _neighbor_max(self, v: Tensor) -> Tensor:
        """The largest value among each pixel and its neighbours, (M, H, W)."""
        if self.kernel is None:
            return F.max_pool2d(v[:, None], 2 * self.radius + 1, 1, padding=self.radius)[:, 0]
        out = v.clone()
        for offset, _ in self.forward_offsets():
            (low, high), (low_out, high_out) = (self.endpoints(u, offset) for u in (v, out))
            torch.maximum(low_out, high, out=low_out)
            torch.maximum(high_out, low, out=high_out)
        return out


def full_precision(v: Tensor) -> AbstractContextManager:
    """Without the autocast of v's device."""
    return nullcontext() if v.is_meta else torch.autocast(v.device.type, enabled=False)


def sparse_coo(indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A coalesced sparse tensor; torch warns where its checks are neither on nor off."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        return torch.sparse_coo_tensor(indices, values, shape).coalesce()
