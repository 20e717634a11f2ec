"""Layers whose derivatives are the library's kernels: right at every order, values unchanged."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, grad, gradcheck, gradgradcheck
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

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
    "softplus": (nn.Softplus(), IMAGE),
    "softplus, steep": (nn.Softplus(beta=3, threshold=2), IMAGE),
    "softplus, falling": (nn.Softplus(beta=-0.5), IMAGE),
    "silu": (nn.SiLU(), IMAGE),
    "gelu": (nn.GELU(), IMAGE),
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


def by_loop(value, x, along):
    return torch.stack([grad(value, x, each, create_graph=True)[0] for each in along])


def by_batch(value, x, along):
    return grad(value, x, along, is_grads_batched=True, create_graph=True)[0]


def by_vmap(value, x, along):
    return torch.func.vmap(lambda each: grad(value, x, each, create_graph=True)[0])(along)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("several", [by_batch, by_vmap])
@pytest.mark.parametrize("name", LAYERS)
def test_several_gradients_at_once(name, several):
    """Vectorised, they and what follows from them are as in a loop: Jacobians and Hessians, and
    the gradients of these in the images and parameters.
    """
    function, inputs, _ = case(name)
    rng = torch.Generator().manual_seed(1)
    for order in (1, 2):
        found = []
        for way in (by_loop, several):
            value = function(*inputs).sin()
            if order == 2:
                value = grad(value.square().sum(), inputs[0], create_graph=True)[0]
            along = torch.randn((3, *value.shape), generator=rng.manual_seed(1), dtype=value.dtype)
            jacobian = way(value, inputs[0], along)
            gradients = grad(jacobian.square().sum(), inputs, allow_unused=True)
            found.append([jacobian, *(g for g in gradients if g is not None)])
        assert len(found[0]) == len(found[1]) > 1
        for mine, theirs in zip(*found):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


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


SMOOTH = "soft", "silu", "gelu"  # how their names begin


def kinds(value):
    return {node.name() for node in autograd_nodes(value)}


@pytest.mark.parametrize("name", [name for name in LAYERS if "evaluation" not in name])
def test_they_are_in_the_graph(name):
    function, inputs, _ = case(name)
    kind = {"conv": "_Convolution", "tran": "_Convolution"} | dict.fromkeys(SMOOTH, "_Activation")
    expected = kind.get(name[:4], "_Normalization")
    found = {kind.removesuffix("Backward") for kind in kinds(function(*inputs))}
    assert (expected in found) == (name != "conv2d, even")


class Computed(TorchDispatchMode):
    """Which gradients of convolutions are: of input, weight and bias."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(args[-1])
        return func(*args, **(kwargs or {}))


def test_a_pass_to_the_input_alone_computes_no_gradient_of_the_weights():
    layer = nn.Conv2d(1, 1, 3)
    x = torch.rand(1, 1, 5, 5, requires_grad=True)
    with LibraryKernels():
        value = layer(x)
    with Computed() as computed:
        grad(value.sum(), x, create_graph=True)
    assert computed.masks == [[True, False, False]]


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("name", [name for name in LAYERS if name[:5] != "batch"])
def test_third_derivatives_where_functions_are_transformed(name):
    """They are those of autograd, which torch's own of normalisation are not."""
    function, (x, *parameters), layer = case(name)
    kept = [b.clone() for b in layer.buffers()]

    def value(x):
        return function(x, *parameters).sin().sum()

    first = grad(value(x), x, create_graph=True)[0]
    second = grad(first.square().sum(), x, create_graph=True)[0]
    (expected,) = grad(second, x, x.cos())
    moved = [b.clone() for b in layer.buffers()]
    for buffer, was in zip(layer.buffers(), kept):
        buffer.copy_(was)
    still = x.detach()
    square = torch.func.grad(lambda x: torch.func.grad(value)(x).square().sum())
    torch.testing.assert_close(torch.func.jvp(square, (still,), (still.cos(),))[1], expected)
    for buffer, once in zip(layer.buffers(), moved):
        torch.testing.assert_close(buffer, once)


def test_batch_normalisation_where_functions_are_transformed():
    """Of the function, for torch.func refuses the layer, which counts its passes."""
    (x,), still = case("softplus")[1], sample(*IMAGE, dtype=torch.float64).detach()
    w, b = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for transformed in (False, True):
        mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)

        def value(x, kept=(mean, var)):
            with LibraryKernels():
                return F.batch_norm(x, *kept, w, b, training=True).sin().sum()

        if transformed:
            square = torch.func.grad(lambda x: torch.func.grad(value)(x).square().sum())
            third = torch.func.jvp(square, (x.detach(),), (still,))[1]
        else:
            first = grad(value(x), x, create_graph=True)[0]
            second = grad(first.square().sum(), x, create_graph=True)[0]
            (third,) = grad(second, x, still)
        found.append((third, mean, var))
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs)


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


def sample(*shape, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=rng).to(dtype).requires_grad_()


def image(dtype=torch.float32):
    return sample(*IMAGE, dtype=dtype)


def batch(weight=None, bias=None, mean=None, var=None, *, x=None, **options):
    options = {"training": True} | options
    return F.batch_norm(image() if x is None else x, mean, var, weight, bias, **options)


def convolved(x=None, weight=None, function=F.conv2d, **options):
    weight = sample(3, 4, 3, 3).detach() if weight is None else weight
    return function(image() if x is None else x, weight, **options)


def transposed(x=None, weight=None, function=F.conv_transpose2d, **options):
    return convolved(x, sample(4, 3, 3, 3) if weight is None else weight, function, **options)


ones, zeros, double, low = torch.ones, torch.zeros, torch.float64, torch.bfloat16
UNUSUAL = {
    "batch norm, means": lambda: batch(mean=zeros(2), var=ones(2)),
    "batch norm, weights": lambda: batch(ones(1), x=sample(2, 64, 2)),
    "batch norm, a matrix": lambda: batch(ones(2, 2)),
    "batch norm, float64 weights": lambda: batch(ones(4, dtype=double)),
    "batch norm, mixed": lambda: batch(ones(4, dtype=low), mean=zeros(4), var=ones(4)),
    "batch norm, eps": lambda: batch(eps=-1.0),
    "layer norm, eps of 0": lambda: F.layer_norm(torch.ones(2, 4).requires_grad_(), (4,), eps=0.0),
    "group norm, eps of 0": lambda: F.group_norm(image(), 1, eps=0.0),
    "instance norm, eps of 0": lambda: F.instance_norm(image(), eps=0.0),
    "batch norm, eps, a name": lambda: batch(eps="small"),
    "batch norm, momentum": lambda: batch(momentum=None),
    "batch norm, one dimension": lambda: batch(x=sample(4)),
    "batch norm, lists": lambda: batch(mean=[0.0] * 4, var=[1.0] * 4),
    "batch norm, a learned mean": lambda: batch(mean=sample(4), var=ones(4)),
    "batch norm, training": lambda: batch(training=1),
    "layer norm, weights": lambda: F.layer_norm(sample(1, 4), (4,), torch.tensor([2.0])),
    "layer norm, bias": lambda: F.layer_norm(sample(1, 4), (4,), None, ones(1)),
    "layer norm, float64 weights": lambda: F.layer_norm(sample(1, 4), (4,), ones(4).double()),
    "layer norm, float64": lambda: F.layer_norm(sample(1, 4, dtype=double), (4,), ones(4)),
    "layer norm, mixed": lambda: F.layer_norm(sample(1, 4, dtype=low), (4,), ones(4)),
    "layer norm, a list of weights": lambda: F.layer_norm(sample(1, 4), (4,), [1.0] * 4),
    "layer norm, a number": lambda: F.layer_norm(sample(1, 4), 4),
    "layer norm, a float": lambda: F.layer_norm(sample(1, 4), (4.0,)),
    "layer norm, an array": lambda: F.layer_norm(sample(1, 4), np.array([4])),
    "layer norm, a set": lambda: F.layer_norm(sample(1, 4), {4}),
    "layer norm, eps": lambda: F.layer_norm(sample(1, 4), (4,), eps=None),
    "layer norm, complex": lambda: F.layer_norm(sample(1, 4, dtype=torch.cfloat), (4,)),
    "layer norm, float8": lambda: F.layer_norm(sample(1, 4, dtype=torch.float8_e5m2), (4,)),
    "layer norm, nested": lambda: F.layer_norm(
        torch.nested.nested_tensor([ones(2, 4), ones(3, 4)], requires_grad=True), (4,)
    ),
    "layer norm, meta": lambda: F.layer_norm(sample(1, 4).to("meta"), (4,)).shape,
    "group norm, weights": lambda: F.group_norm(image(), 2, ones(1)),
    "group norm, bias": lambda: F.group_norm(image(), 2, ones(4), ones(2)),
    "group norm, a matrix": lambda: F.group_norm(image(), 2, ones(4, 1)),
    "group norm, float64 weights": lambda: F.group_norm(image(), 2, ones(4, dtype=double)),
    "group norm, mixed": lambda: F.group_norm(image(low), 2, ones(4)),
    "group norm, none": lambda: F.group_norm(image(), 0),
    "group norm, a float": lambda: F.group_norm(image(), 2.0),
    "group norm, a bool": lambda: F.group_norm(image(), True),
    "group norm, numpy": lambda: F.group_norm(image(), np.int64(2)),
    "instance norm, weights": lambda: F.instance_norm(image(), weight=ones(1)),
    "instance norm, bias": lambda: F.instance_norm(image(), bias=ones(5)),
    "instance norm, float64 weights": lambda: F.instance_norm(image(), weight=ones(4).double()),
    "instance norm, mixed": lambda: F.instance_norm(image(low), weight=ones(4)),
    "instance norm, means": lambda: F.instance_norm(image(), zeros(1), ones(1)),
    "instance norm, float64 means": lambda: F.instance_norm(
        image(), zeros(4, dtype=double), ones(4, dtype=double)
    ),
    "instance norm, momentum": lambda: F.instance_norm(image(), momentum=None),
    "stride, numpy": lambda: convolved(stride=np.int64(2)),
    "stride, numpy each": lambda: convolved(stride=(np.int64(2), np.int64(1))),
    "stride, float": lambda: convolved(stride=2.0),
    "stride, three": lambda: convolved(stride=(1, 1, 1)),
    "dilation, three": lambda: convolved(dilation=(1, 1, 1), padding="same"),
    "padding, tensor": lambda: convolved(padding=torch.tensor(1)),
    "padding, unknown": lambda: convolved(padding="VALID"),
    "groups, numpy": lambda: convolved(groups=np.int64(1)),
    "groups, none": lambda: convolved(groups=0),
    "bias, one": lambda: convolved(bias=ones(1)),
    "bias, float64": lambda: convolved(bias=ones(3, dtype=double)),
    "weight, float64, autocast": lambda: torch.autocast("cpu", low)(convolved)(
        weight=ones(3, 4, 3, 3, dtype=double)
    ),
    "weight, a list": lambda: convolved(weight=[1.0], padding="same"),
    "weight, flat": lambda: convolved(weight=ones(3, 4), padding="same"),
    "weight, complex": lambda: convolved(weight=ones(3, 4, 3, 3, dtype=torch.cfloat)),
    "complex": lambda: convolved(image(torch.cfloat), sample(3, 4, 3, 3, dtype=torch.cfloat)),
    "meta": lambda: convolved(image().to("meta"), ones(3, 4, 3, 3, device="meta")).shape,
    "conv1d of images": lambda: convolved(function=F.conv1d),
    "conv2d of sequences": lambda: convolved(sample(2, 4, 5), ones(3, 4, 3)),
    "conv2d of volumes": lambda: convolved(sample(1, 2, 4, 5, 6)),
    "conv3d of images": lambda: convolved(function=F.conv3d),
    "transposed, numpy": lambda: transposed(stride=np.int64(2)),
    "transposed, padding": lambda: transposed(padding="same"),
    "transposed, output padding": lambda: transposed(output_padding=3),
    "transposed, complex": lambda: transposed(
        image(torch.cfloat), sample(4, 3, 3, 3, dtype=torch.cfloat)
    ),
    "transposed1d of images": lambda: transposed(function=F.conv_transpose1d),
}


UNUSUAL |= {
    "softplus, beta, numpy": lambda: F.softplus(image(), np.float64(2)),
    "softplus, beta of 0": lambda: F.softplus(image(), 0),
    "softplus, beta, a name": lambda: F.softplus(image(), "steep"),
    "softplus, a list": lambda: F.softplus([1.0]),
    "softplus, integers": lambda: F.softplus(torch.arange(3)),
    "softplus, autocast": lambda: torch.autocast("cpu", low)(F.softplus)(image(low)),
    "silu, a list": lambda: F.silu([1.0]),
    "silu, in place": lambda: nn.SiLU(inplace=True)(image() * 1),
    "silu, complex": lambda: F.silu(image(torch.cfloat)),
    "gelu, by tanh": lambda: F.gelu(image(), approximate="tanh"),
    "gelu, unknown": lambda: F.gelu(image(), approximate="erf"),
    "gelu, none": lambda: F.gelu(image(), approximate=None),
}


def outcome(call):
    """What a call returns, or the error that it raises."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", UNUSUAL)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_unusual_arguments_are_accepted_or_refused_as_torch_does(name):
    expected = outcome(UNUSUAL[name])
    with LibraryKernels():
        found = outcome(UNUSUAL[name])
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, equal_nan=True)
    else:
        assert found == expected


def test_complex_convolutions_have_torchs_second_derivatives():
    weight = sample(3, 4, 2, 2, dtype=torch.cfloat)

    def second():
        x = image()
        value = F.conv2d(x.cfloat(), weight).abs().square().sin().sum()
        (gradient,) = grad(value, x, create_graph=True)
        return grad(gradient.square().sum(), weight)[0]

    expected = second()
    with LibraryKernels():
        torch.testing.assert_close(second(), expected)


BY_GROUPS = {
    "layer norm": lambda x, w, b: F.layer_norm(x, (64,), w.repeat(16), b.repeat(16)),
    "group norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "instance norm": lambda x, w, b: F.instance_norm(x, None, None, w, b),
    "layer norm, plain": lambda x, w, b: F.layer_norm(x, (64,)),
}


@pytest.mark.parametrize("name", BY_GROUPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (20, 1), (350, 10)])
def test_low_precision_is_as_precise_as_torchs(name, dtype, mean, std):
    """Value, gradient and second derivative, against torch's in float64."""
    x, w, b = sample(8, 4, 64) * std + mean, sample(4), sample(4) + 1
    inputs = [v.detach().to(dtype) for v in (x, w, b)]

    def derivatives(inputs):
        inputs = [v.requires_grad_() for v in inputs]
        value = BY_GROUPS[name](*inputs)
        first = grad(value.sin().sum(), inputs[0], create_graph=True)[0]
        return [value, first, grad(first.square().sum(), inputs[0])[0]]

    exact, theirs = derivatives([v.double() for v in inputs]), derivatives(inputs)
    with LibraryKernels():
        found = derivatives(inputs)
    for mine, others, right in zip(found, theirs, exact):
        missed, usual = ((v.double() - right).norm() / right.norm() for v in (mine, others))
        assert mine.dtype == dtype and missed < 1.1 * usual


@pytest.mark.parametrize("layer", [nn.Softplus(), nn.SiLU(), nn.GELU()], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_second_derivatives_of_activations_are_right_far_out(layer, dtype):
    """From -1e4 to 1e4, against torch's in float64; nowhere other than a number."""
    ends = torch.logspace(-4, 4, 81, dtype=double)
    x = torch.cat([-ends, zeros(1, dtype=double), ends]).to(dtype)

    def second(x):
        x = x.detach().requires_grad_()
        (slope,) = grad(layer(x).sum(), x, create_graph=True)
        return grad(slope.sum(), x)[0].double()

    right = second(x.double())
    with LibraryKernels():
        found = second(x)
    torch.testing.assert_close(found, right, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_running_statistics_in_low_precision_are_the_exact_ones_rounded():
    kept = []
    for dtype in (low, double):
        mean, var = zeros(4, dtype=dtype), ones(4, dtype=dtype)
        with LibraryKernels():
            F.instance_norm(image(low).to(dtype), mean, var)
        kept.append(torch.stack([mean, var]).to(low))
    assert torch.equal(*kept)


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


def test_one_channel_in_another_layout():
    """A view of its weight has other strides, which torch's kernel refuses."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 1, 3).double().to(memory_format=torch.channels_last)
    x, found = torch.rand(2, 3, 6, 6).double().to(memory_format=torch.channels_last), []
    for how in (LibraryKernels, nullcontext):
        leaf = x.clone().requires_grad_()
        with how():
            value = layer(leaf).square().sum()
        (slope,) = grad(value, leaf, create_graph=True)
        found.append(grad(slope.square().sum(), [layer.weight, layer.bias]))
    torch.testing.assert_close(*found)


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
