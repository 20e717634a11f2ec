"""The attacks: foolbox's images, closed forms of linear models, the balls, what is left alone."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import generator, gpu, graph_of, images, laplacian, seeds, weight_matrix
from torch import Tensor
from torch.nn import functional as F

from wdtr_lite import attacks, data, metric
from wdtr_lite.attacks import (
    Attack,
    ascend,
    fgsm,
    ifgsm,
    input_gradient,
    pgd,
    wasserstein_attack,
)
from wdtr_lite.attacks.gradient import uniform
from wdtr_lite.attacks.margin import margin
from wdtr_lite.attacks.wasserstein import to_box
from wdtr_lite.models import resnet8, small_cnn

EPSILON = 8 / 255
# Three classes, images (2, 3, 4).
LINEAR = torch.tensor(np.random.default_rng(0).standard_normal((3, 2 * 3 * 4)))


def linear(x):
    return x.flatten(1) @ LINEAR.to(x.dtype).T


def loss(model, x, y):
    return F.cross_entropy(model(x), y, reduction="none").detach()


def norm_of(v, norm):
    return v.abs().amax((1, 2, 3)) if norm == "linf" else v.flatten(1).norm(dim=1)


@pytest.fixture(scope="module")
def digits():
    part = data.load("mnist5k").part("test")
    return part[0][::10].float()[:, None] / 255, part[1][::10]


@pytest.fixture(scope="module")
def trained():
    """A small network after one pass through mnist5k."""
    torch.manual_seed(0)
    model, (x, y) = small_cnn(), data.load("mnist5k").part("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for batch in torch.randperm(len(x), generator=generator()).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch].float()[:, None] / 255), y[batch]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return resnet8(channels=1, mean=0.1307, std=0.3081, width=4).eval()


@pytest.fixture(params=["trained", "untrained"])
def model(request):
    return request.getfixturevalue(request.param)


# ---------------------------------------------------------------- against foolbox


def foolbox_images(name, model, x, y, epsilon, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, name)(random_start=False, **how)
        return attack(wrapped, x, y, epsilons=epsilon)[1]


@pytest.mark.parametrize("epsilon", [EPSILON, 0.1, 0.3])
def test_fgsm_is_foolbox(model, digits, epsilon):
    x, y = digits
    assert torch.equal(
        fgsm(model, x, y, epsilon), foolbox_images("LinfFastGradientAttack", model, x, y, epsilon)
    )


def in_float64(model, digits):
    return copy.deepcopy(model).double(), digits[0].double(), digits[1]


@pytest.mark.parametrize("epsilon", [0.1, 2.0])
def test_fgsm_l2_is_foolbox(model, digits, epsilon):
    """In float64; in float32 the cross-entropy rounds, of which foolbox takes the gradient."""
    (exact, x, y), single = in_float64(model, digits), digits[0]
    expected = foolbox_images("L2FastGradientAttack", exact, x, y, epsilon)
    torch.testing.assert_close(fgsm(exact, x, y, epsilon, norm="l2"), expected, rtol=0, atol=1e-9)
    found = fgsm(model, single, y, epsilon, norm="l2").double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("epsilon", "alpha", "steps"), [(EPSILON, 2 / 255, 7), (0.3, 0.1, 4)])
def test_ifgsm_is_foolbox(model, digits, epsilon, alpha, steps):
    x, y = digits
    expected = foolbox_images(
        "LinfBasicIterativeAttack", model, x, y, epsilon, abs_stepsize=alpha, steps=steps
    )
    assert torch.equal(ifgsm(model, x, y, epsilon, alpha=alpha, steps=steps), expected)
    expected = foolbox_images(
        "LinfProjectedGradientDescentAttack", model, x, y, epsilon, abs_stepsize=alpha, steps=steps
    )
    found = pgd(model, x, y, epsilon, alpha=alpha, steps=steps)
    with torch.no_grad():
        wrong, wrong_expected = (int((model(z).argmax(1) != y).sum()) for z in (found, expected))
    assert abs(wrong - wrong_expected) <= 1


@pytest.mark.parametrize(("epsilon", "alpha", "steps"), [(0.5, 0.2, 5), (3.0, 1.0, 4)])
def test_ifgsm_l2_is_foolbox(model, digits, epsilon, alpha, steps):
    """In float64, as above; roundings of a step are steps of the next gradient."""
    model, x, y = in_float64(model, digits)
    expected = foolbox_images(
        "L2BasicIterativeAttack", model, x, y, epsilon, abs_stepsize=alpha, steps=steps
    )
    found = ifgsm(model, x, y, epsilon, alpha=alpha, steps=steps, norm="l2")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


# ---------------------------------------------------------------- what each attack promises

ATTACKS = {
    "fgsm": fgsm,
    "ifgsm": lambda m, x, y, e, **how: ifgsm(m, x, y, e, alpha=e / 2 + 1e-3, steps=3, **how),
    "pgd": lambda m, x, y, e, **how: pgd(m, x, y, e, alpha=e / 2 + 1e-3, steps=3, **how),
    "pgd_random": lambda m, x, y, e, **how: pgd(
        m, x, y, e, alpha=e + 1e-3, steps=3, restarts=2, generator=generator(), **how
    ),
}
BALLS = [(name, norm) for name in ATTACKS for norm in ("linf", "l2")]


@given(seed=seeds, epsilon=st.sampled_from([1e-4, 0.03, 0.5, 2.0]), which=st.sampled_from(BALLS))
def test_in_the_ball_and_in_range(seed, epsilon, which):
    """And, on a linear model, a larger loss: three steps of half the radius."""
    name, norm = which
    x = images(5, 2, 3, 4, seed=seed)
    y = torch.tensor(np.random.default_rng(seed).integers(0, 3, 5))
    found = ATTACKS[name](linear, x, y, epsilon, norm=norm)
    assert bool((norm_of(found - x, norm) <= epsilon * (1 + 1e-12) + 1e-15).all())
    assert bool(((found >= 0) & (found <= 1)).all()) and not found.requires_grad
    assert bool((loss(linear, found, y) >= loss(linear, x, y) - 1e-9).all()) or name == "pgd_random"


def test_linear_models_are_attacked_at_best():
    """Two classes: the loss rises with the margin w x, most along sign(w) or w / |w|."""
    w = torch.tensor(np.random.default_rng(1).standard_normal(12)).view(1, 1, 3, 4)
    x, y = 0.4 + 0.2 * images(4, 1, 3, 4, black=0), torch.tensor([0, 1, 0, 1])
    side = torch.tensor([1, -1, 1, -1]).view(-1, 1, 1, 1).double()

    def two(z):
        margin = (z * w).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(margin), margin], 1)

    for norm, best in (("linf", w.sign()), ("l2", w / w.norm())):
        for attack in ATTACKS.values():
            found, expected = attack(two, x, y, 0.1, norm=norm), x + 0.1 * side * best
            if (attack, norm) == (ATTACKS["pgd_random"], "l2"):  # on its way there
                assert bool(
                    (
                        loss(two, found, y) > 0.9 * loss(two, expected, y) + 0.1 * loss(two, x, y)
                    ).all()
                )
            else:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", BALLS, ids="-".join)
def test_nothing_to_do(which):
    """A radius of 0 gives x, a gradient of 0 too, and no NaN."""
    name, norm = which
    x, y = images(3, 2, 3, 4), torch.tensor([0, 1, 2])
    assert torch.equal(ATTACKS[name](linear, x, y, 0.0, norm=norm), x)
    found = ATTACKS[name](lambda z: 0 * linear(z), x, y, 0.1, norm=norm)
    assert bool(found.isfinite().all()) and (torch.equal(found, x) or name == "pgd_random")


def test_tiny_gradients_have_a_direction():
    """Of squares that underflow in float32."""
    x, y = images(3, 2, 3, 4, black=0).float(), torch.tensor([0, 1, 2])
    found = fgsm(lambda z: 1e-25 * linear(z), x, y, 0.01, norm="l2") - x
    torch.testing.assert_close(
        found.flatten(1).norm(dim=1), torch.full((3,), 0.01), rtol=1e-3, atol=0
    )
    graph = graph_of(3, 4, 1).float()
    tiny, plain = (
        wasserstein_attack(lambda z, c=c: c * linear(z), x, y, graph, 0.05) for c in (1e-25, 1e-2)
    )
    torch.testing.assert_close(tiny, plain, rtol=0, atol=1e-3)
    assert float((tiny - x).abs().max()) > 5e-3


def test_images_are_attacked_one_by_one(trained, digits):
    """In a batch as alone."""
    x, y = digits[0][:4], digits[1][:4]
    graph = graph_of(28, 28, 2).float()
    attacks = [
        lambda x, y: fgsm(trained, x, y, 0.1),
        lambda x, y: ifgsm(trained, x, y, 1.0, alpha=0.5, steps=3, norm="l2"),
        lambda x, y: wasserstein_attack(trained, x, y, graph, 0.5, steps=2),
    ]
    for attack in attacks:
        alone = torch.cat([attack(x[k : k + 1], y[k : k + 1]) for k in range(4)])
        torch.testing.assert_close(attack(x, y), alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_the_model_is_left_alone(mode):
    """Mode, parameters, their gradients, what requires one; in evaluation mode the statistics."""
    torch.manual_seed(0)
    model = resnet8(channels=1, mean=0.5, std=0.5, width=2).train(mode)
    model.linear.weight.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before = copy.deepcopy(model)
    x, y = images(2, 1, 8, 8).float(), torch.tensor([0, 1])
    graph = graph_of(8, 8, 2).float()
    with torch.no_grad():  # gradients are asked for whatever the caller does
        for attack in ATTACKS.values():
            assert not torch.equal(attack(model, x, y, 0.1), x)
        assert not torch.equal(wasserstein_attack(model, x, y, graph, 0.1, steps=2), x)
    assert all(
        a.training == b.training for a, b in zip(model.modules(), before.modules(), strict=True)
    )
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b) and a.requires_grad == b.requires_grad
        assert torch.equal(a.grad, torch.ones_like(a)) if a is model.conv.weight else a.grad is None
    same = all(torch.equal(a, b) for a, b in zip(model.buffers(), before.buffers(), strict=True))
    assert same is not mode
    assert not x.requires_grad and x.grad is None


def test_images_that_require_grad():
    """Get none, and the result has no graph."""
    x, y = images(2, 2, 3, 4).requires_grad_(), torch.tensor([0, 1])
    for attack in (
        *ATTACKS.values(),
        lambda m, x, y, e: wasserstein_attack(m, x, y, graph_of(3, 4, 1), e),
    ):
        assert not attack(linear, x, y, 0.1).requires_grad and x.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    x, y = images(2, 2, 3, 4).to(dtype), torch.tensor([0, 1])
    for attack in ATTACKS.values():
        assert (
            attack(linear, x, y, 0.1).dtype == attack(linear, x, y, 0.1, norm="l2").dtype == dtype
        )
    assert wasserstein_attack(linear, x, y, graph_of(3, 4, 1).to(dtype=dtype), 0.1).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_refused(dtype):
    """Whose steps would round away, or leave the ball."""
    x, y = images(2, 2, 3, 4).to(dtype), torch.tensor([0, 1])
    for attack in (*ATTACKS.values(), lambda m, x, y, e: Attack("pgd", e)(m, x, y)):
        with pytest.raises(TypeError, match=f"^x must be float32 or float64 .* got {dtype}, in wh"):
            attack(linear, x, y, 0.1)


def test_a_network_of_a_half_type_is_attacked_as_the_message_says(trained, digits):
    """Small steps are as strong as in float32."""
    x, y = digits
    half = copy.deepcopy(trained).bfloat16()
    attack = Attack("ifgsm", 8 / 255, steps=100)
    found = attack(lambda x: half(x.to(torch.bfloat16)), x, y)
    assert found.dtype == torch.float32 and float((found - x).abs().max()) <= 8 / 255 + 1e-7
    wrong, expected = (
        int((trained(z).argmax(1) != y).sum()) for z in (found, attack(trained, x, y))
    )
    assert abs(wrong - expected) <= 0.1 * expected


# ---------------------------------------------------------------- random starts


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm):
    """Of radius R in dimension n: R^n is uniform, and so is, in the mean 0, each pixel."""
    n = 20_000
    v = uniform(torch.zeros(n, 1, 2, 3, dtype=torch.float64), norm, generator())
    radius = norm_of(v, norm)
    assert float(radius.max()) <= 1
    u = radius**6
    for power in (1, 2, 3):
        assert float((u**power).mean()) == pytest.approx(
            1 / (power + 1), abs=5 * float((u**power).std()) / n**0.5
        )
    flat = v.flatten(1)
    assert bool((flat.mean(0).abs() <= 5 * flat.std(0) / n**0.5).all())
    variance = 1 / 3 if norm == "linf" else 1 / 8
    assert bool(
        ((flat**2).mean(0) - variance).abs().max() <= 5 * float((flat**2).std(0).max()) / n**0.5
    )


def test_starts_come_from_the_generator(trained, digits):
    x, y = digits

    def attack(seed):
        return pgd(trained, x, y, 0.1, alpha=0.02, steps=2, generator=generator(seed))

    torch.manual_seed(5)
    first, state = attack(1), torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(first, attack(1)) and not torch.equal(first, attack(2))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_restart_is_kept(trained, digits):
    """Against all runs with the same generator: the first misclassified, else the largest loss."""
    x, y = digits
    how = {"alpha": 0.05, "steps": 1}
    for epsilon in (0.05, 0.15):
        runs = generator(3)
        found = torch.stack([pgd(trained, x, y, epsilon, generator=runs, **how) for _ in range(4)])
        with torch.no_grad():
            logits = torch.stack([trained(z) for z in found])
        outcomes = [
            [
                (bool(logits[k, i].argmax() != y[i]), float(F.cross_entropy(logits[k, i], y[i])))
                for k in range(4)
            ]
            for i in range(len(x))
        ]
        best = [
            next(
                (k for k, (wrong, _) in enumerate(outcome) if wrong),
                max(range(4), key=outcome.__getitem__),
            )
            for outcome in outcomes
        ]
        assert len(set(best)) == 4
        expected = found[best, torch.arange(len(x))]
        assert torch.equal(
            pgd(trained, x, y, epsilon, restarts=4, generator=generator(3), **how), expected
        )


def test_a_misclassified_image_is_left_alone():
    """A restart sees the images that still stand, and is not made where none does."""
    weight = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
    x = torch.full((3, 1, 1, 2), 0.5, dtype=torch.float64)
    y = torch.tensor([0, 1, 0])
    batches = []

    def model(image):
        batches.append(len(image))
        return image.flatten(1) @ weight + torch.tensor(
            [0.01, 0.0], dtype=torch.float64
        )  # always 0

    for labels, expected in ((y, [3, 3, 2, 2, 2, 2]), (torch.ones_like(y), [3, 3])):
        batches.clear()
        pgd(model, x, labels, 1e-4, alpha=1e-4, steps=1, restarts=3, generator=generator())
        assert batches == expected


def test_a_wrong_label_beats_a_larger_loss():
    """Where the label changes the loss is 0.69, elsewhere up to 1.10."""
    logits = torch.tensor(
        [[2.0, 1.0, 0.0], [2.0, 2.001, -9.0], [2.0, 1.999, 1.999]], dtype=torch.float64
    )

    def lookup(x):
        return logits[(x[:, 0, 0, 0] * 2.999).long()] + 0 * x.sum((1, 2, 3))[:, None]

    x, y = torch.full((64, 1, 1, 2), 0.5, dtype=torch.float64), torch.zeros(64, dtype=torch.int64)
    found = pgd(lookup, x, y, 0.5, alpha=0.1, steps=1, restarts=30, generator=generator())
    assert bool((lookup(found).argmax(1) == 1).all())
    logits[1, 1] = 1.5
    found = pgd(lookup, x, y, 0.5, alpha=0.1, steps=1, restarts=30, generator=generator())
    assert bool((loss(lookup, found, y) > 1.09).all())


# ---------------------------------------------------------------- the Wasserstein ball

GRAPHS = {"3x4": (3, 4, 1), "4x3_wide": (4, 3, 2, 0.5), "row": (1, 12, 2)}


def dense_metric(size, image, floor=1 / 255, unit="pixel"):
    """The metric of one channel from the loops of the paper; "pixel" divides by 2 / (n S)."""
    weights = weight_matrix(*size)
    height, width = size[:2]
    factor = 1.0
    if unit == "pixel":
        radius, weight = size[2], size[3] if len(size) > 3 else 1.0
        moment = sum(
            weight * (dy**2 + dx**2)
            for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1)
            for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1)
        ) / ((height > 1) + (width > 1))
        factor = 2 / (height * width * moment)
    matrix = factor * laplacian(weights, np.maximum(image.flatten(), floor))
    return matrix, np.linalg.pinv(matrix, hermitian=True)


@pytest.mark.parametrize("size", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("unit", [None, "pixel"])
@pytest.mark.parametrize("steps", [1, 4])
def test_wasserstein_ball(size, unit, steps):
    """In [0, 1], the masses of x, at most epsilon long in the dense metric, and nearly, if free."""
    height, width = size[:2]
    x, y = images(6, 2, height, width, black=0.3), torch.arange(6) % 3
    epsilon = torch.tensor([0.0, 1e-3, 0.05, 0.3, 1.0, 5.0], dtype=torch.float64) * (
        1 if unit else 0.05
    )
    found = wasserstein_attack(linear, x, y, graph_of(*size), epsilon, steps=steps, unit=unit)
    assert bool(((found >= 0) & (found <= 1)).all()) and torch.equal(found[0], x[0])
    torch.testing.assert_close(found.sum((-2, -1)), x.sum((-2, -1)), rtol=0, atol=1e-12)
    lengths = []
    for k in range(6):
        xi = (found - x)[k].flatten(1).numpy()
        inverses = [dense_metric(size, channel, unit=unit)[1] for channel in x[k].numpy()]
        lengths.append(sum(v @ g @ v for v, g in zip(xi, inverses, strict=True)) ** 0.5)
    lengths = torch.tensor(np.array(lengths))
    assert bool((lengths <= epsilon * (1 + 1e-6)).all())
    assert bool((lengths[1:4] > 0.5 * epsilon[1:4]).all())
    assert bool((loss(linear, found, y) > loss(linear, x, y))[1:].all())


@pytest.mark.parametrize("size", GRAPHS.values(), ids=GRAPHS)
def test_wasserstein_step_is_the_best(size):
    """Interior image, linear loss of gradient w: xi = epsilon L w / sqrt(w' L w) over all channels,
    by dense matrices; none of 2,000 random tangents of that length raises the loss more."""
    height, width = size[:2]
    x, y = 0.3 + 0.4 * images(3, 2, height, width, black=0), torch.tensor([0, 1, 0])
    w = torch.tensor(np.random.default_rng(2).standard_normal((2, height, width)))

    def two(z):
        margin = (z * w).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(margin), margin], 1)

    epsilon = 0.02
    found = (wasserstein_attack(two, x, y, graph_of(*size), epsilon) - x).flatten(2).numpy()
    rng, flat = np.random.default_rng(3), w.flatten(1).numpy()
    for k, sign in enumerate((1, -1, 1)):
        matrices, inverses = zip(
            *(dense_metric(size, channel) for channel in x[k].numpy()), strict=True
        )
        raised = np.stack([matrix @ v for matrix, v in zip(matrices, flat, strict=True)])
        best = epsilon * raised / (raised * flat).sum() ** 0.5
        np.testing.assert_allclose(found[k], sign * best, rtol=0, atol=1e-12)
        others = rng.standard_normal((2000, *flat.shape))
        others[1000:] = sign * best + best.std() * rng.standard_normal(
            (1000, *flat.shape)
        ) * rng.random((1000, 1, 1))
        others -= others.mean(-1, keepdims=True)
        lengths = (
            sum(np.einsum("ki,ij,kj->k", others[:, c], inverses[c], others[:, c]) for c in range(2))
            ** 0.5
        )
        others *= (epsilon / lengths)[:, None, None]
        gain = sign * (others * flat).sum((1, 2))
        best_gain = sign * (found[k] * flat).sum()
        assert gain.max() < best_gain and gain.max() > 0.5 * best_gain


def test_several_steps_of_a_linear_loss():
    """End where one does: 0.5, then 1, of the radius along one direction, then in the ball."""
    x, y = 0.3 + 0.4 * images(3, 2, 3, 4, black=0), torch.tensor([0, 1, 0])

    seen = []

    def two(z):
        seen.append(z.detach())
        return linear(z)[:, :2]

    once, often = (wasserstein_attack(two, x, y, graph_of(3, 4, 1), 0.02, steps=k) for k in (1, 5))
    torch.testing.assert_close(often, once, rtol=0, atol=1e-10)
    for share, at in zip((0, 0, 0.5, 1, 1, 1), seen, strict=True):
        torch.testing.assert_close(at, x + share * (once - x), rtol=0, atol=1e-10)


def test_black_pixels_are_linked_by_the_floor():
    """Three black pixels to a lit one: with the floor, ink may go there."""
    x = torch.zeros(1, 1, 1, 8, dtype=torch.float64)
    x[..., :3] = 0.6

    def far(z):
        return torch.stack([0 * z.sum((1, 2, 3)), z[:, 0, 0, 7]], 1)

    y, graph = torch.tensor([0]), graph_of(1, 8, 1)
    found = wasserstein_attack(far, x, y, graph, 1.0, steps=5, floor=0.05)
    assert float(found[0, 0, 0, 7]) > 0.01
    smaller = wasserstein_attack(far, x, y, graph, 1.0, steps=5, floor=0.01)
    assert 0 < float(smaller[0, 0, 0, 7]) < float(found[0, 0, 0, 7])


def test_wasserstein_attack_fools(trained, digits):
    """Float32: masses to rounding, the length, in float64, to 1e-4; more errors with the radius."""
    x, y = digits
    graph, single = graph_of(28, 28, 2), graph_of(28, 28, 2).float()
    wrong = []
    with torch.no_grad():
        wrong.append(int((trained(x).argmax(1) != y).sum()))
        for epsilon, steps in ((1.0, 1), (1.0, 3), (4.0, 3)):
            found = wasserstein_attack(trained, x, y, single, epsilon, steps=steps)
            wrong.append(int((trained(found).argmax(1) != y).sum()))
            xi = (found - x).double()
            assert (
                float(xi.sum((-2, -1)).abs().max()) < 1e-5
                and float(found.min()) >= 0
                and float(found.max()) <= 1
            )
            xi = xi - xi.mean((-2, -1), keepdim=True)
            size = metric.tangent_norm_sq(
                graph, x.double().clamp_min(1 / 255), xi, unit="pixel"
            ).sqrt()
            assert float(size.max()) <= epsilon * (1 + 1e-4)
    assert wrong[0] < wrong[1] <= wrong[2] < wrong[3]


def test_a_floor_that_is_too_small_is_named(trained, digits):
    """Where lengths cannot be found in float32, in float64 they can."""
    x, y = digits[0][:4], digits[1][:4]
    graph = graph_of(28, 28, 1)
    says = "^floor=1e-06 is too small to measure lengths in torch.float32: take a larger one, or x"
    with pytest.raises(RuntimeError, match=says):
        wasserstein_attack(trained, x, y, graph.float(), 1.0, floor=1e-6)
    exact, x = in_float64(trained, (x, y))[:2]
    graph = graph_of(28, 28, 1)
    xi = wasserstein_attack(exact, x, y, graph, 1.0, floor=1e-6) - x
    size = metric.tangent_norm_sq(graph, x.clamp_min(1e-6), xi, unit="pixel").sqrt()
    assert float(size.max()) <= 1 + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_channels_stay(dtype, steps, level):
    """Whose masses allow no change: alone, in a batch, and in one of the channels of an image."""
    graph, y = graph_of(12, 10, 2).to(dtype=dtype), torch.tensor([0, 1, 2, 0])
    weight = torch.randn(3, 3, 12, 10, generator=generator()).to(dtype)

    def model(x):
        return torch.einsum("bchw,kchw->bk", x, weight[:, : x.shape[1]])

    flat = torch.full((1, 1, 12, 10), level, dtype=dtype)
    assert torch.equal(wasserstein_attack(model, flat, y[:1], graph, 2.0, steps=steps), flat)
    x = images(4, 3, 12, 10).to(dtype)
    x[1], x[2, 1] = level, level
    found = wasserstein_attack(model, x, y, graph, 2.0, steps=steps)
    rest = [0, 2, 3]
    alone = wasserstein_attack(model, x[rest], y[rest], graph, 2.0, steps=steps)
    torch.testing.assert_close(
        found[rest], alone, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-9
    )
    assert torch.equal(found[1], x[1]) and torch.equal(found[2, 1], x[2, 1])
    assert ((found - x).abs().amax((2, 3)) > 0.01).sum() == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ink", [10.0**-k for k in (1, 5, 9, 13, 17, 25, 37)])
def test_channels_that_are_nearly_black(dtype, ink):
    """One pixel has some ink: a change is as small, and not smaller than its own rounding."""
    x = torch.zeros(1, 1, 12, 10, dtype=dtype)
    x[0, 0, 3, 4] = ink
    weight = torch.randn(3, 120, generator=generator()).to(dtype)
    graph = graph_of(12, 10, 2).to(dtype=dtype)
    found = wasserstein_attack(lambda z: z.flatten(1) @ weight.T, x, torch.tensor([0]), graph, 2.0)
    assert float(found.sum()) == pytest.approx(float(x.sum()), rel=1e-5)
    assert float((found - x).abs().max()) > 0.1 * ink


def test_coloured_digits(trained, digits):
    """Of one colour: two channels are black."""
    x, y = digits[0][:20], digits[1][:20]
    colour = torch.zeros(20, 3, 28, 28).index_put((torch.arange(20), torch.arange(20) % 3), x[:, 0])

    def model(z):
        return trained(z.sum(1, keepdim=True))

    graph = graph_of(28, 28, 2).float()
    found = wasserstein_attack(model, colour, y, graph, 2.0, steps=2)
    black = colour.amax((2, 3)) == 0
    assert torch.equal((found - colour).abs().amax((2, 3)) < 1e-3, black)
    assert torch.equal(found[black], colour[black])
    torch.testing.assert_close(found.sum((2, 3)), colour.sum((2, 3)), rtol=0, atol=1e-4)
    assert (loss(model, found, y) > loss(model, colour, y)).all()


def test_far_wasserstein_attacks():
    """Radii beyond all masses: in the box, and the masses hold."""
    x, y = images(3, 2, 3, 4), torch.tensor([0, 1, 2])
    for epsilon in (1e6, 1e12, 1e100):
        found = wasserstein_attack(linear, x, y, graph_of(3, 4, 1), epsilon, steps=2)
        assert bool(((found >= 0) & (found <= 1)).all())
        torch.testing.assert_close(found.sum((-2, -1)), x.sum((-2, -1)), rtol=0, atol=1e-12)
        assert bool((loss(linear, found, y) > loss(linear, x, y) + 0.5).all())


@given(seed=seeds, size=st.sampled_from([1e-6, 0.1, 1.0, 30.0]))
def test_projection_to_the_box(seed, size):
    """Feasible; and optimal, for the residual makes an obtuse angle with every way into the set."""
    rng = np.random.default_rng(seed)
    x, z = images(2, 3, 4, seed=seed), images(50, 2, 3, 4, seed=seed + 1)
    v = torch.tensor(size * rng.standard_normal((2, 3, 4)))
    xi = to_box(x, v)
    assert bool((xi >= -x).all() and (x + xi <= 1 + 1e-12).all())
    assert float(xi.sum((-2, -1)).abs().max()) <= 1e-12 * max(1, size)
    other = to_box(x, z - x)  # feasible changes
    angle = ((v - xi) * (other - xi)).sum((-2, -1))
    assert float(angle.max()) <= 1e-10 * max(1, size)
    torch.testing.assert_close(to_box(x, xi), xi, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- the gradient and the steps


def test_gradient_is_of_the_sum():
    """Not of the mean: each image's own; a linear model's is (softmax - one-hot) W, for labels
    divided by the probability of the other classes.
    """
    x, y = images(4, 2, 3, 4), torch.tensor([0, 1, 2, 0])
    error = linear(x).softmax(1) - F.one_hot(y, 3)
    expected = error / -error.gather(1, y[:, None]) @ LINEAR
    torch.testing.assert_close(input_gradient(linear, x, y).flatten(1), expected)
    p = images(4, 3, black=0)
    p = p / p.sum(1, keepdim=True)
    expected = (linear(x).softmax(1) - p) @ LINEAR
    torch.testing.assert_close(input_gradient(linear, x, p).flatten(1), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_probabilities_in_place_of_labels(trained, digits, norm):
    """Of one class they are its label; others pull elsewhere."""
    x, y = digits
    sure = F.one_hot(y, 10).to(x.dtype)
    how = {"epsilon": 0.1, "alpha": 0.04, "steps": 3, "norm": norm}
    found = ascend(trained, x, y, x, **how)
    assert torch.equal(found, ifgsm(trained, x, y, **how))
    torch.testing.assert_close(ifgsm(trained, x, sure, **how), found, rtol=0, atol=1e-6)
    assert not torch.equal(ifgsm(trained, x, 0.5 * sure + 0.05, **how), found)


def test_ascend_starts_anywhere(trained, digits):
    """At any point of the ball: the steps after the first are those of the whole way."""
    x, y = digits
    how = {"epsilon": 0.1, "alpha": 0.04, "norm": "linf"}
    halfway = ascend(trained, x, y, x, steps=2, **how)
    assert torch.equal(
        ascend(trained, x, y, halfway, steps=3, **how), ascend(trained, x, y, x, steps=5, **how)
    )
    far = ascend(trained, x, y, (x + 0.5).clamp(0, 1), steps=1, **how)
    assert float((far - x).abs().max()) <= 0.1 + 1e-6


def test_outputs_that_hold_logits(trained, digits):
    """As of Hugging Face's models."""
    x, y = digits[0][:8], digits[1][:8]

    def model(image):
        return SimpleNamespace(logits=trained(image), loss=None)

    for attack in (
        *ATTACKS.values(),
        lambda m, x, y, e: wasserstein_attack(m, x, y, graph_of(28, 28, 1).float(), e),
    ):
        assert torch.equal(attack(model, x, y, 0.1), attack(trained, x, y, 0.1))


# ---------------------------------------------------------------- the scale of the logits


def slopes(function, logits, y):
    """Of the sum in the logits."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(function(leaf, y).sum(), leaf)[0]


def cross_entropy(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


@given(seed=seeds, classes=st.integers(2, 12), scale=st.sampled_from([1e-3, 1.0, 3.0]))
def test_the_margin_points_where_the_loss_does(seed, classes, scale):
    """In float64: softplus of it is the cross-entropy of labels, of probabilities it is that."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(scale * rng.standard_normal((20, classes)))
    y = torch.tensor(rng.integers(0, classes, 20))
    torch.testing.assert_close(F.softplus(margin(logits, y)), cross_entropy(logits, y))
    unit, expected = (F.normalize(slopes(f, logits, y)) for f in (margin, cross_entropy))
    torch.testing.assert_close(unit, expected, rtol=0, atol=1e-12)
    q = torch.tensor(rng.dirichlet(np.ones(classes), 20))
    torch.testing.assert_close(margin(logits, q), cross_entropy(logits, q))
    found, expected = slopes(margin, logits, q), slopes(cross_entropy, logits, q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_sure_predictions_have_a_slope():
    """In float32 as in float64, where the cross-entropy's is 0."""
    logits = torch.tensor([[0.0, -30.0, -31.0], [1e4, 0.0, -1e4], [0.0, -120.0, -torch.inf]])
    y = torch.zeros(3, dtype=torch.int64)
    assert not slopes(cross_entropy, logits[:2], y[:2])[:, 0].any()
    found = slopes(margin, logits, y)
    exact = slopes(margin, logits.double(), y)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(found[:, 0], -torch.ones(3), rtol=1e-5, atol=0)
    sure = F.one_hot(y, 3).float()
    torch.testing.assert_close(slopes(margin, logits, sure), found)
    close = torch.tensor([[1 - 3e-9, 2e-9, 1e-9]] * 2)  # rounds to 1, 2e-9, 1e-9
    gaps = torch.tensor([[0.0, -20.0, -21.0], [0.0, -19.0, -25.0]])
    found, exact = (
        slopes(margin, v.to(t), close.to(t))
        for v, t in ((gaps, torch.float32), (gaps, torch.float64))
    )
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)
    assert (found[:, 1:] != 0).all() and (found.sum(1).abs() < 1e-15).all()


def test_logits_of_low_precision():
    """Their margin is taken in float32."""
    logits = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.bfloat16)
    found = margin(logits, torch.tensor([0]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, margin(logits.float(), torch.tensor([0])))


SCALES = (1, 3, 30, 1000)
SCALED = {
    "fgsm": lambda m, x, y: fgsm(m, x, y, 0.1),
    "fgsm_l2": lambda m, x, y: fgsm(m, x, y, 1.0, norm="l2"),
    "pgd": Attack("pgd", 0.1, steps=5, restarts=2),
    "wasserstein": lambda m, x, y: wasserstein_attack(
        m, x, y, graph_of(28, 28, 2).to(dtype=x.dtype), 3.0, steps=2
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_attacks_of_two_classes_do_not_know_the_scale_of_the_logits(trained, digits, name):
    """Signs are those, lengths to rounding."""
    x, y = digits[0], digits[1] % 2
    first, *others = (SCALED[name](lambda z, k=k: k * trained(z)[:, 3:5], x, y) for k in SCALES)
    for found in others:
        if name in ("fgsm", "pgd"):
            assert torch.equal(found, first)
        torch.testing.assert_close(found, first, rtol=0, atol=1e-4)
    assert not torch.equal(first, x)


@pytest.mark.parametrize("name", SCALED)
def test_attacks_of_ten_classes_are_those_in_float64(trained, digits, name):
    """At each scale, which sets the weights of the other classes; cross-entropy in float32 left
    the errors of the images as they are.
    """
    exact, x, y = in_float64(trained, digits)
    wrong = []
    for k in SCALES:
        found, expected = (
            SCALED[name](lambda z, m=m: k * m(z), images, y)
            for m, images in ((trained, digits[0]), (exact, x))
        )
        wrong.append(
            [int((m(z).argmax(1) != y).sum()) for m, z in ((trained, found), (exact, expected))]
        )
    clean = int((exact(x).argmax(1) != y).sum())
    assert all(abs(single - double) <= 1 for single, double in wrong)
    assert all(single > clean + 10 for single, _ in wrong)
    assert max(wrong)[0] - min(wrong)[0] <= 5


def test_restarts_are_compared_where_the_loss_is_zero():
    """In float32: gaps of 50 and 30 have none."""
    gaps = torch.tensor([50.0, 30.0, 40.0])

    def lookup(x):
        gap = gaps[(x[:, 0, 0, 0] * 2.999).long()]
        return torch.stack([gap, 0 * gap], 1) + 0 * x.sum((1, 2, 3))[:, None]

    x, y = torch.full((16, 1, 1, 2), 0.1), torch.zeros(16, dtype=torch.int64)
    assert not cross_entropy(lookup(x), y).any()
    found = pgd(lookup, x, y, 0.9, alpha=0.1, steps=1, restarts=30, generator=generator())
    assert (lookup(found)[:, 0] == 30).all()


# ---------------------------------------------------------------- one specification of an attack


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_is_its_function(trained, digits, norm):
    x, y = digits
    how = {"epsilon": 0.1, "norm": norm}
    steps = {**how, "alpha": 0.03, "steps": 3}
    assert torch.equal(Attack("fgsm", **how)(trained, x, y), fgsm(trained, x, y, **how))
    assert torch.equal(Attack("ifgsm", **steps)(trained, x, y), ifgsm(trained, x, y, **steps))
    found = Attack("pgd", **steps, restarts=2, seed=5)(trained, x, y)
    assert torch.equal(found, pgd(trained, x, y, **steps, restarts=2, generator=generator(5)))
    without = Attack("ifgsm", 0.1, steps=4, norm=norm)
    assert without.step == 2.5 * 0.1 / 4
    expected = ifgsm(trained, x, y, 0.1, alpha=without.step, steps=4, norm=norm)
    assert torch.equal(without(trained, x, y), expected)
    assert torch.equal(Attack("pgd", 0.0)(trained, x, y), x)


def test_starts_of_an_attack(trained, digits):
    """The same at each call, another for another seed; of a generator the next at each call."""
    x, y = digits[0][:8], digits[1][:8]
    attack, other = (Attack("pgd", 0.1, steps=1, seed=seed) for seed in (0, 1))
    first = attack(trained, x, y)
    assert torch.equal(attack(trained, x, y), first)
    assert not torch.equal(other(trained, x, y), first)
    draws = generator(0)
    assert torch.equal(attack(trained, x, y, draws), first)
    assert not torch.equal(attack(trained, x, y, draws), first)


def test_settings_are_what_the_method_depends_on():
    how = {"alpha": 0.03, "steps": 3, "restarts": 2, "norm": "l2", "seed": 7}
    fgsm, pgd = (Attack(method, 0.1, **how).settings for method in ("fgsm", "pgd"))
    assert fgsm == {"norm": "l2", "epsilon": 0.1} and pgd == {**how, "epsilon": 0.1}
    assert list(pgd) == ["norm", "epsilon", "alpha", "steps", "restarts", "seed"]
    settings = Attack("ifgsm", 0.1).settings
    assert settings == {"norm": "linf", "epsilon": 0.1, "alpha": 2.5 * 0.1 / 20, "steps": 20}


def test_attacks_are_values():
    assert Attack("fgsm", 0.1) == Attack("fgsm", 0.1) != Attack("fgsm", 0.2)
    assert len({Attack("pgd", 0.1), Attack("pgd", 0.1)}) == 1


def test_a_method_of_your_own(monkeypatch):
    """Named by a call or a decorator; it is given the options that it has."""
    for name in ("darker", "noise"):
        monkeypatch.setitem(attacks.METHODS, name, None)
        del attacks.METHODS[name]

    def darker(model, x, y, epsilon):
        return (x - epsilon).clamp(0, 1)

    @attacks.register("noise")
    def noise(model, x, y, epsilon, *, steps, generator):
        return (x + epsilon / steps * torch.randn(x.shape, generator=generator)).clamp(0, 1)

    assert attacks.register("darker", darker) is darker
    x, y = images(2, 1, 3, 4).float(), torch.tensor([0, 1])
    assert torch.equal(Attack("darker", 0.1)(linear, x, y), (x - 0.1).clamp(0, 1))
    attack = Attack("noise", 0.1, steps=2, seed=3)
    assert attack.settings == {"epsilon": 0.1, "steps": 2, "seed": 3}
    expected = (x + 0.05 * torch.randn(x.shape, generator=generator(3))).clamp(0, 1)
    assert torch.equal(attack(linear, x, y), expected)


# ---------------------------------------------------------------- bad input

GOOD = {"model": linear, "x": images(2, 2, 3, 4), "y": torch.tensor([0, 1]), "epsilon": 0.1}
CALLS = {
    "fgsm": (fgsm, GOOD),
    "ifgsm": (ifgsm, GOOD | {"alpha": 0.1, "steps": 2}),
    "pgd": (pgd, GOOD | {"alpha": 0.1, "steps": 2, "generator": generator()}),
    "wasserstein": (wasserstein_attack, GOOD | {"graph": graph_of(3, 4, 1)}),
    "ascend": (ascend, GOOD | {"start": GOOD["x"], "alpha": 0.1, "steps": 2, "norm": "linf"}),
    "gradient": (input_gradient, {name: GOOD[name] for name in ("model", "x", "y")}),
    "attack": (Attack, {"method": "pgd", "epsilon": 0.1}),
}
NAN = float("nan")
BAD = {
    "fgsm": [
        ({"x": 2 * GOOD["x"]}, ValueError, r"^x must be in \[0, 1\], got 0 to 1\."),
        ({"epsilon": 1e300, "norm": "l2"}, ValueError, r"^epsilon must be at most .*got 1e\+300"),
        ({"epsilon": NAN}, ValueError, "^epsilon must be non-negative and finite, got nan"),
        ({"norm": 3}, ValueError, "^norm must be one of 'linf', 'l2', got 3"),
    ],
    "ifgsm": [
        ({"alpha": 1e-320}, ValueError, r"^alpha must be at least 2\.2e-16 in .*, got 1e-320"),
        ({"epsilon": 1e-17}, ValueError, r"^epsilon must be at least 2\.2e-16 in .*, got 1e-17"),
        ({"y": GOOD["y"].int()}, TypeError, "^y must be an int64 tensor, got torch.int32"),
        ({"alpha": 1e300, "norm": "l2"}, ValueError, r"^alpha must be at most .* got 1e\+300"),
        ({"steps": NAN}, TypeError, "^steps must be a whole number, got nan"),
        ({"steps": 0}, ValueError, "^steps must be at least 1, got 0"),
    ],
    "gradient": [
        ({"x": GOOD["x"][0]}, ValueError, r"^x must be \(B, C, H, W\), got \(2, 3, 4\)"),
        ({"y": [0, 1]}, TypeError, "^y must be an int64 tensor, got list"),
        ({"y": torch.full((2, 3), 0.5)}, ValueError, "^y must be .* sum to 1, got a sum of 1.5"),
        ({"y": torch.full((2, 3), NAN)}, ValueError, "^y must be probabilities, got nan"),
    ],
    "ascend": [
        ({"y": -GOOD["y"]}, ValueError, "^y must be non-negative"),
        ({"epsilon": -0.1}, ValueError, "^epsilon must be non-negative and finite"),
        ({"start": GOOD["x"][:1]}, ValueError, r"^start must have the shape of x, \(2, 2, 3, 4\)"),
        ({"start": GOOD["x"].float()}, TypeError, "^start is torch.float32 but x is torch.float64"),
        ({"start": GOOD["x"] + 1}, ValueError, r"^start must be in \[0, 1\]"),
        ({"start": None}, TypeError, "^start must be a tensor, got NoneType"),
    ],
    "pgd": [
        ({"alpha": None}, TypeError, "^alpha must be a number"),
        ({"restarts": 0}, ValueError, "^restarts must be at least 1"),
        ({"restarts": 2, "generator": None}, ValueError, "^restarts must be 1 without a gen"),
        ({"generator": 0}, TypeError, "^generator must be a torch.Generator"),
        ({"y": torch.eye(2, 3)}, TypeError, "^y must be an int64 tensor, got torch.float32"),
    ],
    "wasserstein": [
        ({"graph": graph_of(4, 3, 1)}, ValueError, r"^x must be \(\.\.\., 4, 3\)"),
        ({"x": 2 * GOOD["x"]}, ValueError, r"^x must be in \[0, 1\]"),
        ({"steps": 0}, ValueError, "^steps must be at least 1"),
        ({"floor": 0}, ValueError, "^floor must be positive"),
        ({"epsilon": 1e-320}, ValueError, r"^epsilon must be at least 2\.2e-16 in .*, got 1e-320"),
        ({"floor": 2.0}, ValueError, "^floor must be from .* to 1 in torch.float64, got 2.0"),
        ({"graph": "euclidean"}, TypeError, "^graph must be a PixelGraph, got "),
        ({"epsilon": torch.tensor([1, 1])}, TypeError, "^epsilon must be a floating tensor"),
        ({"epsilon": GOOD["x"][0, 0, 0, :2].to("meta")}, ValueError, "^epsilon must hold values"),
        ({"epsilon": "1"}, TypeError, "^epsilon must be a number, got str"),
        ({"unit": "trace"}, ValueError, "^unit must be "),
        ({"epsilon": torch.tensor([0.1])}, ValueError, r"^epsilon must be one number or \(2,\)"),
        ({"epsilon": torch.tensor([0.1, -0.1])}, ValueError, "^epsilon must be non-negative"),
        ({"epsilon": torch.tensor([0.1, np.nan])}, ValueError, "^epsilon must be non-negative"),
    ],
    "attack": [
        ({"method": "cw"}, ValueError, "^method must be one of 'fgsm', 'ifgsm', 'pgd', got 'cw'"),
        ({"epsilon": "8/255"}, TypeError, "^epsilon must be a number"),
        ({"alpha": -1}, ValueError, "^alpha must be positive"),
        ({"steps": 0}, ValueError, "^steps must be at least 1"),
        ({"restarts": 0}, ValueError, "^restarts must be at least 1"),
        ({"seed": -1}, ValueError, "^seed must be at least 0"),
        ({"seed": 2**70}, ValueError, "^seed must be at most"),
        ({"method": None}, ValueError, "^method must be one of .* got None"),
        ({"restarts": 1.5}, TypeError, "^restarts must be a whole number, got 1.5"),
        ({"norm": 3}, ValueError, "^norm must be one of 'linf', 'l2', got 3"),
    ],
}


def broken(outputs):
    """A model that does something else with the right logits."""
    return lambda x: outputs(linear(x))


def as_array(x):
    return torch.as_tensor(linear(x.detach()).numpy())


BROKEN = {
    "no_function": (3, TypeError, "^model must be a function, got 3"),
    "none": (broken(lambda z: None), TypeError, "^model must return a tensor, .*got NoneType"),
    "dict": (broken(lambda z: {"logits": z}), TypeError, "^model must return .*got dict"),
    "tuple": (broken(lambda z: (z, z)), TypeError, "^model must return a tensor, .*got tuple"),
    "sparse": (broken(Tensor.to_sparse), TypeError, "^what model returns must be a dense tensor"),
    "batch": (broken(lambda z: z[:1]), ValueError, r"^model must return \(2, K\) .*\(1, 3\)"),
    "one_class": (broken(lambda z: z[:, :1]), ValueError, r"^model must .*two classes.*\(2, 1\)"),
    "few_classes": (broken(lambda z: z[:, :1].expand(2, 1)), ValueError, "^model must .*two cl"),
    "nan": (broken(lambda z: z * NAN), ValueError, "^model must have finite logits .*got nan"),
    "steep": (broken(lambda z: (0 * z).sqrt()), ValueError, "^model must have .*got (nan|inf)"),
    "detached": (broken(Tensor.detach), ValueError, "^model must be differentiable in x"),
    "no_grad": (torch.no_grad()(linear), ValueError, "^model must be differentiable in x"),
    "array": (as_array, ValueError, "^model must be differentiable in x"),
    "argmax": (broken(lambda z: F.one_hot(z.argmax(1))), ValueError, "^model must be differ"),
    "constant": (
        lambda x: torch.ones(2, 3, requires_grad=True), ValueError, "^model must be differentiable"
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bad", "error", "message"),
    [(name, *case) for name, some in BAD.items() for case in some],
)
def test_bad_input(name, bad, error, message):
    call, good = CALLS[name]
    with pytest.raises(error, match=message):
        call(**{**good, **bad})


ATTACKING = [name for name in CALLS if name != "attack"]


@pytest.mark.parametrize(("model", "error", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ATTACKING)
def test_bad_models(name, model, error, message):
    call, good = CALLS[name]
    with pytest.raises(error, match=message):
        call(**{**good, "model": model})


@pytest.mark.parametrize("name", ATTACKING)
def test_bad_labels_of_a_model(name):
    """Which its logits tell."""
    call, good = CALLS[name]
    with pytest.raises(ValueError, match="^y must be from 0 to 2, got 0 to 3"):
        call(**{**good, "y": torch.tensor([0, 3])})
    if name != "pgd":
        with pytest.raises(ValueError, match=r"^y must have the shape of the outputs, \(2, 3\)"):
            call(**{**good, "y": torch.full((2, 4), 0.25)})


@pytest.mark.parametrize("name", ATTACKING)
def test_inference_mode(name):
    """Explained as by the penalty."""
    call, good = CALLS[name]
    with torch.inference_mode():
        images_there = good["x"].clone()
        with pytest.raises(RuntimeError, match="^there are no gradients in inference mode: use to"):
            call(**good)
    with pytest.raises(ValueError, match="^x must be made outside of inference mode"):
        call(**{**good, "x": images_there})
    if good["y"].dim() == 1:
        with torch.inference_mode():
            labels_there = good["y"].clone()
        with pytest.raises(ValueError, match="^y must be made outside of inference mode"):
            call(**{**good, "y": labels_there})


def test_bad_calls_of_an_attack():
    attack, x, y = Attack("fgsm", 0.1), GOOD["x"], GOOD["y"]
    with pytest.raises(TypeError, match="^model must be a function, got 'resnet8'"):
        attack("resnet8", x, y)
    with pytest.raises(TypeError, match="^generator must be a torch.Generator, got int"):
        attack(linear, x, y, 0)
    with pytest.raises(ValueError, match="^seed must be at most 4294967295, got 4294967296$"):
        Attack("pgd", 0.1, seed=2**32)  # as torch's generator has it, seed 0
    with pytest.raises(ValueError, match=r"^epsilon must be at most 9.2e\+18 in torch.float32"):
        Attack("fgsm", 1e30)(linear, x.float(), y)


def test_names_are_given_once():
    """A second registration of the same function changes nothing."""
    assert attacks.register("fgsm", fgsm) is fgsm
    with pytest.raises(ValueError, match="^name must be free, got 'fgsm'"):
        attacks.register("fgsm", ifgsm)
    with pytest.raises(ValueError, match="^name must be free, got 'fgsm'"):
        attacks.register("fgsm")(lambda model, x, y, epsilon: x)
    with pytest.raises(TypeError, match="^name must be .*got 3"):
        attacks.register(3, fgsm)
    with pytest.raises(TypeError, match="^name must be .*got <function fgsm"):
        attacks.register(fgsm)
    with pytest.raises(TypeError, match="^method must be a function, got 'fgsm'"):
        attacks.register("another", "fgsm")
    assert attacks.METHODS["fgsm"] is fgsm and "another" not in attacks.METHODS


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (lambda model, x, y, epsilon, **more: x, r"which of epsilon, .* does \*\*more take\?"),
        (lambda model, x, y, eps: x, "missing a required argument: 'eps'|unexpected keyword"),
        (lambda model, x, y, epsilon, colour: x, "missing a required argument: 'colour'"),
        (int, "no signature found|too many positional|unexpected keyword"),
    ],
)
def test_a_method_of_another_form_is_not_registered(method, why):
    """Instead of an attack without the options that it was told, or an error when it is called."""
    with pytest.raises(TypeError, match=f"(?s)^method must take model, x, y and epsilon, .*{why}"):
        attacks.register("another", method)
    assert "another" not in attacks.METHODS


def test_where_an_ascent_starts_is_named():
    x, y = images(2, 1, 3, 4).float(), torch.tensor([0, 1])
    with torch.inference_mode():
        start = x.clone()
    with pytest.raises(ValueError, match="^start must be made outside of inference mode"):
        attacks.ascend(linear, x, y, start, 0.1, 0.1, 1, "linf")


def test_an_array_is_no_image():
    with pytest.raises(TypeError, match="^x must be a tensor, got ndarray"):
        Attack("pgd", 0.1)(linear, GOOD["x"].numpy(), GOOD["y"])


# ---------------------------------------------------------------- on a GPU


@gpu
def test_on_the_gpu():
    """The same images as on the CPU in float64, with a generator of the device."""
    torch.manual_seed(0)
    model = small_cnn().double()
    x, y = images(8, 1, 28, 28), torch.arange(8)
    graph = graph_of(28, 28, 2)
    attacks = [
        lambda m, x, y, g: fgsm(m, x, y, 0.1),
        lambda m, x, y, g: ifgsm(m, x, y, 1.0, alpha=0.5, steps=3, norm="l2"),
        lambda m, x, y, g: wasserstein_attack(m, x, y, g, 0.5, steps=2),
    ]
    expected = [attack(model, x, y, graph) for attack in attacks]
    model, x, y, graph = model.cuda(), x.cuda(), y.cuda(), graph.to("cuda")
    for attack, there in zip(attacks, expected, strict=True):
        torch.testing.assert_close(attack(model, x, y, graph).cpu(), there, rtol=0, atol=1e-6)
    start = torch.Generator("cuda").manual_seed(0)
    found = pgd(model, x, y, 0.1, alpha=0.05, steps=2, restarts=2, generator=start)
    assert found.is_cuda and float((found - x).abs().max()) <= 0.1 + 1e-12


@gpu
def test_on_the_gpu_attacks_are_captured():
    """In a CUDA graph: neither FGSM nor PGD waits for the device."""
    torch.manual_seed(0)
    model = small_cnn().cuda()
    x, y = images(8, 1, 28, 28).float().cuda(), torch.arange(8).cuda()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = ifgsm(model, x, y, 0.1, alpha=0.05, steps=3)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = ifgsm(model, x, y, 0.1, alpha=0.05, steps=3)
    captured.replay()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_model_sees_images_only(norm):
    """Intensities in [0, 1] on the way too: at the random start, and between the steps."""
    x = (torch.rand(16, 1, 6, 6, generator=generator()) > 0.5).float()
    y = torch.arange(16) % 3
    weight = torch.randn(36, 3, generator=generator(1))
    never_fooled = torch.tensor([1e3, 0.0, 0.0])  # where y is 0
    seen = []

    def model(image):
        seen.append(image.detach())
        return image.flatten(1) @ weight + never_fooled

    pgd(model, x, y, 0.3, alpha=0.2, steps=3, restarts=2, norm=norm, generator=generator())
    assert len(seen) > 6 and all(image.min() >= 0 and image.max() <= 1 for image in seen)


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "pgd"])
def test_images_of_another_type_than_the_network(name):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x = torch.rand(2, 1, 2, 2, dtype=torch.float64)
    says = "^x must be torch.float32, as the weights of model, got torch.float64$"
    with pytest.raises(TypeError, match=says):
        Attack(name, 0.1)(model, x, torch.tensor([0, 1]))
