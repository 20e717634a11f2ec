"""Layers whose derivatives are the library's kernels: right at every order, values unchanged."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck

from wdtr_lite.calculus.derivatives import autograd_nodes
from wdtr_lite.kernels import LibraryKernels

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even")

IMAGE = (2, 4, 5, 6)
LAYERS = {
    "conv1d": (nn.Conv1d(4, 2, 3, padding=1), (2, 4, 5)),
    "conv2d": (nn.Conv2d(4, 2, 3), IMAGE),
    "conv2d, stride": (nn.Conv2d(4, 2, 3, stride=2, padding=1, bias=False), IMAGE),
    "conv2d, dilation": (nn.Conv2d(4, 2, (3, 2), dilation=(2, 1), padding=(1, 0)), IMAGE),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, groups=2, padding="same"), IMAGE),
    "conv2d, depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), IMAGE),
    "conv2d, even": (nn.Conv2d(4, 2, 2, padding="same"), IMAGE),
    "conv2d, valid": (nn.Conv2d(4, 2, 2, padding="valid"), IMAGE),
    "conv2d, circular": (nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), IMAGE),
    "conv2d, one image": (nn.Conv2d(4, 2, 3), IMAGE[1:]),
    "conv3d": (nn.Conv3d(2, 2, 2), (1, 2, 3, 3, 3)),
    "transposed1d": (nn.ConvTranspose1d(4, 2, 3, stride=2), (2, 4, 3)),
    "transposed2d": (nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1, groups=2), (2, 4, 3, 3)),
    "transposed3d": (nn.ConvTranspose3d(2, 2, 2, dilation=2), (1, 2, 2, 2, 2)),
    "batch norm": (nn.BatchNorm2d(4), IMAGE),
    "batch norm, plain": (nn.BatchNorm1d(4, affine=False), (5, 4)),
    "batch norm, sequences": (nn.BatchNorm1d(4), (2, 4, 3)),
    "batch norm, evaluation": (nn.BatchNorm2d(4).eval(), IMAGE),
    "layer norm": (nn.LayerNorm([5, 6]), IMAGE),
    "layer norm, no bias": (nn.LayerNorm(4, bias=False), (3, 2, 4)),
    "layer norm, plain": (nn.LayerNorm(4, elementwise_affine=False), (5, 4)),
    "group norm": (nn.GroupNorm(2, 4), IMAGE),
    "group norm, plain": (nn.GroupNorm(2, 4, affine=False), (3, 4, 2)),
    "instance norm": (nn.InstanceNorm2d(4, affine=True), IMAGE),
    "instance norm, kept": (nn.InstanceNorm2d(4, track_running_stats=True), IMAGE),
}


def case(name, device="cpu", dtype=torch.float64):
    """A layer as a function of images and parameters, and both."""
    layer, shape = LAYERS[name]
    layer = layer.to(device, dtype)
    rng = torch.Generator().manual_seed(0)
    names = [key for key, _ in layer.named_parameters()]
    values = [torch.randn(p.shape, generator=rng) for p in layer.parameters()]
    images = torch.randn(shape, generator=rng)
    inputs = [v.to(device, dtype).requires_grad_() for v in (images, *values)]

    def function(x, *parameters):
        with LibraryKernels():
            return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    return function, inputs, layer


def torchs(name, **options):
    _, inputs, layer = case(name, **options)
    names = [key for key, _ in layer.named_parameters()]

    def plain(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x,))

    return plain, inputs


def third(function):
    """A second derivative of a nonlinear function of the layer, with its graph."""

    def second(*inputs):
        value = function(*inputs).sin().sum()
        first = grad(value, inputs, create_graph=True)
        total = sum(
            (g * (k + 1 + torch.arange(g.numel()).view(g.shape)).cos()).sum()
            for k, g in enumerate(first)
        )
        return grad(total, inputs, create_graph=True)  # fmt: skip

    return second


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_the_first_and_second_order(name):
    function, inputs, _ = case(name)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs, gen_non_contig_grad_outputs=True)


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_the_third_order(name):
    function, inputs, _ = case(name)
    assert gradcheck(third(function), inputs, fast_mode=True)


@pytest.mark.parametrize("name", LAYERS)
def test_values_gradients_and_statistics_are_torchs(name):
    """In float32, where the kernels are the same: to the last bit but for the affine maps."""
    (plain, inputs), ours = torchs(name, dtype=torch.float32), case(name, dtype=torch.float32)
    kept = [b.clone() for b in ours[2].buffers()]
    found = []
    for function in (plain, ours[0]):
        for buffer, was in zip(ours[2].buffers(), kept):
            buffer.copy_(was)
        value = function(*inputs)
        gradients = grad(value.square().sum(), inputs)
        found.append([value, *gradients, *(b.clone() for b in ours[2].buffers())])
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def kinds(value):
    return {node.name() for node in autograd_nodes(value)}


@pytest.mark.parametrize("name", [name for name in LAYERS if "evaluation" not in name])
def test_they_are_in_the_graph(name):
    function, inputs, _ = case(name)
    expected = "_Convolution" if name.startswith(("conv", "trans")) else "_Normalization"
    found = {kind.removesuffix("Backward") for kind in kinds(function(*inputs))}
    assert (expected in found) == (name != "conv2d, even")


def test_a_pass_to_the_input_alone_computes_no_gradient_of_the_weights():
    layer = nn.Conv2d(1, 1, 3)
    x = torch.rand(1, 1, 5, 5, requires_grad=True)
    with LibraryKernels():
        value = layer(x)
    with torch.profiler.profile(acc_events=True) as profile:
        grad(value.sum(), x, create_graph=True)
    called = {event.key for event in profile.key_averages()}
    assert "_InputGradient" in called and "_WeightGradient" not in called


def test_frozen_layers_and_plain_evaluation_are_torchs():
    layer = nn.Conv2d(1, 1, 3)
    with LibraryKernels(), torch.no_grad():
        assert layer(torch.rand(1, 1, 5, 5)).grad_fn is None
    with LibraryKernels():
        assert layer.requires_grad_(False)(torch.rand(1, 1, 5, 5)).grad_fn is None
        x = torch.rand(1, 1, 5, 5, requires_grad=True)
        (gradient,) = grad(layer(x).square().sum(), x, create_graph=True)
        assert gradient.sum().backward() is None and layer.weight.grad is None


@pytest.mark.parametrize("name", ["conv2d", "layer norm", "group norm"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which torch itself calls
def test_where_functions_are_transformed_they_are_torchs(name):
    function, (x, *parameters), _ = case(name)
    (expected,) = grad(function(x, *parameters).sin().sum(), x)
    per_image = torch.func.grad(lambda image: function(image[None], *parameters).sin().sum())
    torch.testing.assert_close(torch.func.vmap(per_image)(x.detach()), expected)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, x), *parameters)).tangent
    along = torch.func.jvp(lambda x: function(x, *parameters), (x,), (x,))[1]
    torch.testing.assert_close(tangent, along)


def test_bad_input_is_refused_as_ever():
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    with LibraryKernels():
        with pytest.raises(RuntimeError, match="expected input"):
            nn.Conv2d(2, 1, 3)(x)
        with pytest.raises(RuntimeError, match="normalized_shape"):
            nn.LayerNorm(5)(x)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            nn.BatchNorm2d(3)(x[..., :1, :1])
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            nn.InstanceNorm2d(3)(x[..., :1, :1])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_second_derivatives_under_autocast(name, dtype):
    """As near to the right ones as torch's are."""

    def curvature(function, inputs):
        value = function(*inputs)
        first = grad(value.float().sin().sum(), inputs, create_graph=True)
        return [value, *grad(sum(g.float().square().sum() for g in first), inputs)]

    right = curvature(*torchs(name))
    (plain, inputs), (ours, *_) = torchs(name, dtype=torch.float32), case(name, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found, theirs = curvature(ours, inputs), curvature(plain, inputs)
    for mine, others, exact in zip(found, theirs, right):
        assert mine.dtype == others.dtype
        missed, usual = (
            float((v.double() - exact).detach().norm() / exact.detach().norm())
            for v in (mine, others)
        )
        assert missed < max(1.5 * usual, 2e-6)


def test_channels_last_stays():
    layer = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).to(
        memory_format=torch.channels_last
    )
    x = torch.rand(2, 4, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    with LibraryKernels():
        value = layer(x)
    (gradient,) = grad(value.sin().sum(), x, create_graph=True)
    for v in (value, gradient):
        assert v.is_contiguous(memory_format=torch.channels_last)
