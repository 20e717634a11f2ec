"""Errors, attacked and not, translated and varied images, label flips, against loops; bad input."""

import threading
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracles import gpu, images, seeds
from torchvision.transforms import v2

from wdtr_lite import data
from wdtr_lite.attacks import Attack, fgsm
from wdtr_lite.evaluation import (
    error,
    label_flips,
    misclassified,
    predictions,
    robust_error,
    translated_labels,
    translation_sequence,
    variations,
)
from wdtr_lite.models import resnet8

PADDINGS = ("zeros", "edge", "reflect", "circular")


def network():
    torch.manual_seed(0)
    return resnet8(channels=1, mean=0.1307, std=0.3081, width=4)


@pytest.fixture(scope="module")
def digits():
    part = data.load("mnist5k").part("test")
    return part[0][::40], part[1][::40]  # uint8 (25, 28, 28)


def brightest(x):
    """Class: which quarter of the first channel is brightest; no network, no rounding."""
    h, w = x.shape[-2] // 2, x.shape[-1] // 2
    return torch.stack(
        [
            x[:, 0, a, b].sum((1, 2))
            for a in (slice(h), slice(h, None))
            for b in (slice(w), slice(w, None))
        ],
        1,
    )


def class_of(image):
    """`brightest` for one image, a NumPy array (C, H, W)."""
    h, w = image.shape[1] // 2, image.shape[2] // 2
    one = image[0]
    return int(
        np.argmax([one[:h, :w].sum(), one[:h, w:].sum(), one[h:, :w].sum(), one[h:, w:].sum()])
    )


def moved(image, axis, shift, padding):
    """An image (C, H, W) moved pixel by pixel."""
    result = np.zeros_like(image)
    for c, r, k in np.ndindex(*image.shape):
        side = image.shape[2] if axis == "horizontal" else image.shape[1]
        source = (k if axis == "horizontal" else r) - shift
        if padding == "circular":
            source %= side
        elif padding == "edge":
            source = min(max(source, 0), side - 1)
        elif padding == "reflect":
            source = -source if source < 0 else source
            source = 2 * (side - 1) - source if source >= side else source
        elif not 0 <= source < side:
            continue
        result[c, r, k] = image[c, r, source] if axis == "horizontal" else image[c, source, k]
    return result


# ---------------------------------------------------------------- predictions and errors


def test_predictions_by_hand():
    x = images(17, 2, 5, 6)
    expected = [class_of(image) for image in x.numpy()]
    assert len(set(expected)) == 4
    found = predictions(brightest, x, batch_size=5)
    assert found.dtype == torch.int64 and found.tolist() == expected
    labels = torch.tensor(expected)
    labels[[2, 3, 16]] = (labels[[2, 3, 16]] + 1) % 4
    wrong = misclassified(brightest, x, labels)
    assert wrong.dtype == torch.bool and wrong.nonzero().flatten().tolist() == [2, 3, 16]
    assert error(brightest, x, labels, batch_size=3) == 3 / 17


def test_ties_are_the_first():
    assert predictions(lambda x: torch.zeros(len(x), 3), images(2, 1, 3, 3)).tolist() == [0, 0]


def test_no_images():
    x, y = torch.zeros(0, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert (
        predictions(brightest, x).shape == (0,) and predictions(brightest, x).dtype == torch.int64
    )
    assert misclassified(brightest, x, y).dtype == torch.bool
    assert label_flips(brightest, x, "vertical", [1], "zeros").consecutive.shape == (0,)
    assert translated_labels(brightest, x, "vertical", [1, 2], "zeros").shape == (2, 0)


@pytest.mark.parametrize("batch_size", [1, 4, 25])
def test_batch_size_does_not_matter(digits, batch_size):
    """Nor does it that batch normalisation has seen nothing: it is in evaluation mode."""
    model, x = network(), digits[0]
    y, attack = predictions(model, x), Attack("fgsm", 0.01)
    assert 0 < robust_error(model, x, y, attack) < 1
    for call in (
        lambda size: predictions(model, x, batch_size=size),
        lambda size: misclassified(model, x, y, batch_size=size),
        lambda size: misclassified(model, x, y, attack, batch_size=size),
        lambda size: torch.stack(
            label_flips(model, x, "vertical", [-3, 0, 2], "edge", batch_size=size)
        ),
        lambda size: translated_labels(model, x, "vertical", [-3, 0, 2], "edge", batch_size=size),
    ):
        assert torch.equal(call(batch_size), call(500))
    assert len(set(predictions(model, x).tolist())) > 1


def test_the_model_never_sees_more_than_a_batch(digits):
    seen = []

    def watch(x):
        seen.append(tuple(x.shape))
        return brightest(x)

    x, y = digits
    predictions(watch, x, batch_size=10)
    misclassified(watch, x, y % 4, lambda m, x, y: x, batch_size=20)
    label_flips(watch, x, "vertical", [1, 2], "edge", batch_size=20)
    sizes = [10, 10, 5, 20, 5, 20, 20, 20, 5, 5, 5]
    assert seen == [(size, 1, 28, 28) for size in sizes]


def test_bytes_and_floats_are_the_same(digits):
    """uint8 (N, H, W) and (N, 1, H, W), and floats of both shapes: the model sees the same."""
    model, (x, y) = brightest, (digits[0], digits[1] % 4)
    forms = [x, x[:, None], x.float() / 255, x[:, None].float() / 255]
    attack = Attack("fgsm", 0.05)
    for call in (
        lambda x: predictions(model, x),
        lambda x: misclassified(model, x, y, attack),
        lambda x: torch.stack(label_flips(model, x, "horizontal", [-3, 2], "reflect")),
        lambda x: translated_labels(model, x, "horizontal", [-3, 2], "reflect"),
    ):
        first, *others = (call(form) for form in forms)
        assert len(first.unique()) > 1 and all(torch.equal(first, other) for other in others)


def test_errors_are_of_the_attacked_images(digits):
    """By hand: the attack's own images through the model in evaluation mode."""
    model, (x, y) = network(), digits
    attack = Attack("fgsm", 0.1)
    wrong = misclassified(model, x, y, attack, batch_size=7)
    rate, clean = robust_error(model, x, y, attack), error(model, x, y)
    model.eval()
    images = x[:, None].float() / 255
    with torch.no_grad():
        expected = model(attack(model, images, y)).argmax(1) != y
        expected_clean = (model(images).argmax(1) != y).sum().item() / 25
    assert torch.equal(wrong, expected) and rate == expected.sum().item() / 25
    assert clean == expected_clean and rate >= clean


def test_an_error_that_the_attack_mends_is_none(digits):
    x, y = digits
    right = torch.zeros(25, 1, 28, 28)
    corner = [
        (slice(14), slice(14)),
        (slice(14), slice(14, 28)),
        (slice(14, 28), slice(14)),
        (slice(14, 28), slice(14, 28)),
    ]
    y = y % 4
    for k, label in enumerate(y.tolist()):
        right[(k, 0, *corner[label])] = 1.0
    assert error(brightest, x, y) > 0
    assert robust_error(brightest, x, y, lambda m, x, y: right) == 0


def test_images_are_left_alone(digits):
    """Also by a model and an attack that write into what they are given."""
    x, y = digits
    kept = x.clone()
    model = torch.nn.Sequential(torch.nn.Threshold(0.5, 0.0, inplace=True), network())
    first = predictions(model, x)
    misclassified(model, x, y, lambda model, x, y: x.mul_(0.5))
    translated_labels(model, x, "vertical", [1], "zeros")
    assert torch.equal(x, kept) and torch.equal(predictions(model, x), first)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_modes_are_restored(digits, mode):
    """Of each module, even where attack or model fails; the running statistics are untouched."""
    model, (x, y) = network().train(mode), digits
    model.stages[0].bn1.train(not mode)
    modes = [m.training for m in model.modules()]
    buffers = [b.clone() for b in model.buffers()]
    seen = []

    def attack(m, x, y):
        seen.extend(module.training for module in m.modules())
        return fgsm(m, x, y, 0.1)

    def broken(m, x, y):
        raise KeyError("attack")

    predictions(model, x)
    misclassified(model, x, y, attack)
    label_flips(model, x, "vertical", [1], "zeros")
    translated_labels(model, x, "vertical", [1], "zeros")
    with pytest.raises(KeyError):
        misclassified(model, x, y, broken)
    with pytest.raises(RuntimeError):
        predictions(model, images(2, 3, 8, 8).float())
    assert [m.training for m in model.modules()] == modes
    assert not any(seen) and seen
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), buffers, strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_no_gradients_are_kept():
    """The model is evaluated without a graph, the attack as the caller has it."""
    enabled = []

    def model(x):
        enabled.append(torch.is_grad_enabled())
        return brightest(x)

    def attack(m, x, y):
        enabled.append(torch.is_grad_enabled())
        return x

    x, y = images(2, 1, 4, 4), torch.tensor([0, 1])
    predictions(model, x)
    misclassified(model, x, y, attack)
    with torch.no_grad():
        misclassified(model, x, y, attack)
    assert enabled == [False, True, False, False, False]


def test_outputs_that_hold_logits(digits):
    """As of Hugging Face's models."""
    model, (x, y) = network().eval(), digits

    def wrapped(image):
        return SimpleNamespace(logits=model(image), loss=None)

    assert torch.equal(predictions(wrapped, x), predictions(model, x))
    attack = Attack("pgd", 0.05, steps=2)
    assert torch.equal(misclassified(wrapped, x, y, attack), misclassified(model, x, y, attack))
    flips = [label_flips(m, x, "vertical", [-2, 1], "edge") for m in (wrapped, model)]
    assert all(torch.equal(a, b) for a, b in zip(*flips, strict=True))


# ---------------------------------------------------------------- translations


@given(
    seed=seeds,
    padding=st.sampled_from(PADDINGS),
    axis=st.sampled_from(["horizontal", "vertical"]),
    size=st.sampled_from([(3, 4), (4, 3), (1, 5), (5, 1), (2, 2)]),
)
def test_translations_are_the_loops(seed, padding, axis, size):
    """Every allowed shift, twice and out of order, exactly; the limit is the docstring's."""
    side = size[axis == "horizontal"]
    limit = side - 1 if padding == "reflect" else side
    shifts = [*range(limit, -limit - 1, -1), 0, -limit]
    x = images(2, *size, seed=seed)
    found = translation_sequence(x, axis, shifts, padding)
    expected = np.stack([moved(x.numpy(), axis, shift, padding) for shift in shifts])
    assert found.shape == (len(shifts), 2, *size) and found.dtype == x.dtype
    np.testing.assert_array_equal(found.numpy(), expected)
    for shift in (limit + 1, -limit - 1):
        with pytest.raises(ValueError, match="^shifts must be at (most|least)"):
            translation_sequence(x, axis, [shift], padding)


@pytest.mark.parametrize("padding", PADDINGS)
def test_translation_is_numpys_padding(padding):
    """Of numpy.pad, cut out again."""
    x = images(1, 4, 6).numpy()
    mode = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}[padding]
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3)), mode=mode)
    for shift in range(-3, 4):
        across, down = (
            translation_sequence(torch.tensor(x), axis, [shift], padding)[0]
            for axis in ("horizontal", "vertical")
        )
        np.testing.assert_array_equal(across, padded[:, 3:7, 3 - shift : 9 - shift])
        np.testing.assert_array_equal(down, padded[:, 3 - shift : 7 - shift, 3:9])


def test_positive_is_right_and_down():
    x = torch.zeros(1, 5, 5)
    x[0, 2, 2] = 1
    assert translation_sequence(x, "horizontal", [1], "zeros")[0, 0].nonzero().tolist() == [[2, 3]]
    assert translation_sequence(x, "vertical", [1], "zeros")[0, 0].nonzero().tolist() == [[3, 2]]


def test_sequences_of_many_images():
    """Leading dimensions are kept behind the shifts; each image moves on its own."""
    x, shifts = images(2, 3, 2, 4, 5), (np.int64(-2), 0, 3)
    found = translation_sequence(x, "vertical", shifts, "reflect")
    assert found.shape == (3, 2, 3, 2, 4, 5) and torch.equal(found[1], x)
    for i, j in np.ndindex(2, 3):
        assert torch.equal(
            found[:, i, j], translation_sequence(x[i, j], "vertical", shifts, "reflect")
        )


# ---------------------------------------------------------------- label flips


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
@pytest.mark.parametrize("shifts", [[-2, -1, 0, 1, 2], [3, 1, -3], [2], range(-3, 4)], ids=str)
def test_flips_are_counted(padding, axis, shifts):
    """Image by image and shift by shift, with a classifier made by hand."""
    x = images(12, 2, 6, 5, seed=4)
    found = label_flips(brightest, x, axis, shifts, padding, batch_size=5)
    for k, image in enumerate(x.numpy()):
        labels = [class_of(moved(image, axis, shift, padding)) for shift in shifts]
        assert found.consecutive[k] == sum(a != b for a, b in pairwise(labels))
        assert found.from_unshifted[k] == sum(label != class_of(image) for label in labels)
    assert found.consecutive.dtype == found.from_unshifted.dtype == torch.int64
    assert found.consecutive.shape == found.from_unshifted.shape == (12,)
    assert bool((found.from_unshifted > 0).any())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_translated_labels_are_those_of_the_moved_images(padding, axis):
    """A row for each shift in the order given, a column for each image."""
    x, shifts = images(12, 2, 6, 5, seed=4), [0, 3, -2, 3]
    found = translated_labels(brightest, x, axis, shifts, padding, batch_size=5)
    expected = [
        [class_of(moved(image, axis, shift, padding)) for image in x.numpy()] for shift in shifts
    ]
    assert found.dtype == torch.int64 and found.tolist() == expected
    assert expected[0] != expected[1] == expected[3]
    assert torch.equal(found[0], predictions(brightest, x))


def test_both_counts_differ():
    """A bright pixel crosses the middle once and stays: one flip, two labels not the first."""
    x = torch.zeros(1, 1, 1, 6)
    x[..., 1] = 1

    def left_or_right(z):
        return torch.stack([z[..., :3].sum((1, 2, 3)), z[..., 3:].sum((1, 2, 3))], 1)

    flips = label_flips(left_or_right, x, "horizontal", [0, 1, 2, 3], "zeros")
    assert flips.consecutive.tolist() == [1] and flips.from_unshifted.tolist() == [2]
    assert label_flips(left_or_right, x, "horizontal", [2, 3], "zeros") == (0, 2)


def test_an_invariant_classifier_never_flips():
    x = images(5, 1, 6, 6)

    def mean(z):
        return torch.stack([z.sum((1, 2, 3)), torch.full((len(z),), 15.0)], 1)

    flips = label_flips(mean, x, "vertical", range(-6, 7), "circular")
    assert int(torch.stack(flips).sum()) == 0
    assert len(predictions(mean, x).unique()) == 2


# ---------------------------------------------------------------- natural variations


def test_variations_move_turn_and_bend():
    spot = torch.zeros(40, 1, 28, 28)
    spot[:, :, 13, 18] = 1
    before = torch.random.get_rng_state()
    varied = variations(spot, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    again, other = variations(spot, seed=0), variations(spot, seed=1)
    for name, found in varied.items():
        assert found.shape == spot.shape and found.min() >= 0 and found.max() <= 1, name
        assert torch.equal(found, again[name])
        assert torch.equal(found, other[name]) == (name == "blur")
    moves = varied["translation"].flatten(1).argmax(1)
    rows, columns = moves // 28 - 13, moves % 28 - 18
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    centre = torch.arange(28.0) - 13.5
    image = varied["rotation"][:, 0]
    x, y = ((image * axis).sum((1, 2)) / image.sum((1, 2)) for axis in (centre, centre[:, None]))
    assert torch.allclose((x**2 + y**2).sqrt(), torch.tensor(4.5**2 + 0.5**2).sqrt(), atol=0.5)
    turned = torch.rad2deg(torch.atan2(y, x)).abs()
    assert 15 < turned.max() < 38
    away = varied["elastic"][:, 0] > 0
    assert not away[:, 13, 18].all() and away.flatten(1).sum(1).max() < 30


@pytest.fixture(scope="module")
def textured():
    """Random images, smoothed: no two crops of one are the same."""
    return F.avg_pool2d(images(60, 2, 26, 22, seed=5).float(), 3, 1)


@pytest.mark.parametrize("margin, padding", [(8, "reflect"), (0, "constant")])
def test_a_translated_variation_is_a_crop(textured, margin, padding):
    """Of the image continued by reflection, or by black: exactly, at one of the 9 x 9 shifts."""
    found = variations(textured, 3, shift=4, margin=margin)["translation"]
    wide = F.pad(textured, (4, 4, 4, 4), mode=padding)
    crops = {
        (r, c): wide[..., 4 - r : 28 - r, 4 - c : 24 - c]
        for r in range(-4, 5)
        for c in range(-4, 5)
    }
    same = {shift: (crop == found).flatten(1).all(1) for shift, crop in crops.items()}
    assert (torch.stack(list(same.values())).sum(0) == 1).all()
    shifts = torch.tensor([shift for k in range(60) for shift, fits in same.items() if fits[k]])
    assert {*shifts[:, 0].tolist()} == {*shifts[:, 1].tolist()} == set(range(-4, 5))
    assert (
        abs(float(torch.corrcoef(shifts.T.double())[0, 1])) < 4 / 60**0.5
    )  # rows and columns apart


@pytest.mark.parametrize("degrees", [5, 15])
def test_a_rotated_variation_is_turned_by_no_more_than_the_degrees(degrees):
    """To either side; the angle from where the light goes, of a spot 10 pixels off the centre."""
    spot = torch.zeros(50, 1, 33, 33)
    spot[:, :, 15:18, 25:28] = 1
    image = variations(spot, 0, degrees=degrees, margin=8)["rotation"][:, 0]
    centre = torch.arange(33.0) - 16
    x, y = ((image * axis).sum((1, 2)) / image.sum((1, 2)) for axis in (centre, centre[:, None]))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert (
        angles.abs().max() < degrees + 0.5
        and angles.min() < -0.8 * degrees
        and angles.max() > 0.8 * degrees
    )
    assert ((x**2 + y**2).sqrt() - 10).abs().max() < 0.2


def test_blur_is_the_gaussian_kernel(textured):
    """Five by five pixels, standard deviation 1, reflected at the border; whatever seed, margin."""
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    expected = F.conv2d(
        F.pad(textured, (2, 2, 2, 2), mode="reflect").reshape(120, 1, 28, 24), kernel[None, None]
    )
    for seed, margin in ((0, 0), (1, 0), (0, 8)):
        found = variations(textured, seed, margin=margin)["blur"]
        torch.testing.assert_close(found, expected.view_as(textured), rtol=0, atol=1e-6)


def test_a_margin_keeps_the_black_out():
    """White images stay white where a margin comes in; without it all but the blur have borders."""
    white = torch.ones(20, 3, 32, 32)
    within = variations(white, 0, shift=4, degrees=15, margin=8)
    without = variations(white, 0, shift=4, degrees=15)
    for name in within:
        torch.testing.assert_close(within[name], white, rtol=0, atol=1e-5)
        assert bool((without[name] < 0.5).any()) == (name != "blur")


def test_each_image_is_varied_by_its_own_draw(textured):
    """But for the blur, the same image comes out in two ways; torch's generator stays as it is."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    varied = variations(textured[[0, 0]], 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, (first, second) in varied.items() if torch.equal(first, second)] == [
        "blur"
    ]


def test_variations_are_those_of_torchs_generator_which_others_may_use(textured):
    transform, seed = v2.RandomRotation([-30, 30], v2.InterpolationMode.BILINEAR), 5
    height, width = textured.shape[-2:]
    shifted = v2.RandomAffine([0, 0], translate=(2 / width, 2 / height))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        moved = [shifted(image) for image in textured]
        turned = torch.stack([transform(image) for image in textured])
    stop = threading.Event()

    def draws():
        while not stop.is_set():
            torch.rand(1)

    other = threading.Thread(target=draws)
    other.start()
    try:
        varied = variations(textured, seed)
    finally:
        stop.set()
        other.join()
    assert torch.equal(varied["translation"], torch.stack(moved).clamp(0, 1))
    assert torch.equal(varied["rotation"], turned.clamp(0, 1))


def test_variations_are_the_same_whatever_the_default_type_is(textured):
    varied = [variations(images, 5) for images in (textured, textured.double())]
    torch.set_default_dtype(torch.float64)
    try:
        again = [variations(images, 5) for images in (textured, textured.double())]
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(varied, again, strict=True):
        for name in one:
            assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variations_are_the_same_within_autocast(textured, dtype):
    varied = variations(textured.to(dtype), 5)
    with torch.autocast("cpu", torch.bfloat16):
        within = variations(textured.to(dtype), 5)
    for name, each in varied.items():
        assert within[name].dtype == dtype and torch.equal(within[name], each)


# ---------------------------------------------------------------- bad input

X, Y = images(3, 1, 4, 5).float(), torch.tensor([0, 1, 2])
NAN = X.clone()
NAN[0, 0, 0, 0] = float("nan")

ON_IMAGES = {
    "predictions": lambda x: predictions(brightest, x),
    "misclassified": lambda x: misclassified(brightest, x, Y),
    "error": lambda x: error(brightest, x, Y),
    "robust_error": lambda x: robust_error(brightest, x, Y, lambda m, x, y: x),
    "label_flips": lambda x: label_flips(brightest, x, "vertical", [1], "zeros"),
    "translated_labels": lambda x: translated_labels(brightest, x, "vertical", [1], "zeros"),
}


@pytest.mark.parametrize("label", [-1, -100, 5, 99])
@pytest.mark.parametrize("call", [misclassified, error])
def test_labels_that_the_model_does_not_have(call, label):
    """They counted as errors, whatever the model said; that they are none shows with the logits."""
    y = Y.clone()
    y[2] = label
    with pytest.raises(ValueError, match=f"^labels must be from 0 to 3, got .*{label}"):
        call(brightest, X, y)
    with pytest.raises(ValueError, match="^labels must be from 0 to 3"):
        robust_error(brightest, X, y, lambda m, x, y: x, batch_size=1)


def test_numpy_images_are_told_what_to_do():
    with pytest.raises(TypeError, match=r"got ndarray: torch\.from_numpy\(images\)$"):
        predictions(brightest, (255 * X).byte().numpy())


def test_votes_are_logits():
    """Whole numbers can be compared; booleans and complex numbers are refused."""
    votes = torch.tensor([[1, 3, 2], [5, 0, 0], [0, 0, 1]])
    assert predictions(lambda x: votes, X).tolist() == [1, 0, 2]
    for wrong in (votes > 1, votes * 1j):
        with pytest.raises(TypeError, match=f"^model must return real numbers, got {wrong.dtype}"):
            predictions(lambda x, wrong=wrong: wrong, X)


@pytest.mark.parametrize("call", ON_IMAGES.values(), ids=ON_IMAGES)
def test_every_function_looks_at_its_images(call):
    with pytest.raises(ValueError, match=r"^images must be in \[0, 1\], got 0\.5 to "):
        call((X + 0.5).clamp(0.5))


def misclassified_by(attack):
    return lambda: misclassified(brightest, X, Y, attack)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: misclassified(brightest, X, Y.int()),
            TypeError,
            "^labels must be an int64 tensor, got torch.int32",
        ),
        (
            lambda: error(brightest, X[:0], Y[:0]),
            ValueError,
            "^images must hold at least one image",
        ),
        (
            lambda: predictions(brightest, X, batch_size=0),
            ValueError,
            "^batch_size must be at least 1",
        ),
        (
            lambda: misclassified(brightest, X, Y, batch_size=2.5),
            TypeError,
            "^batch_size must be a whole number",
        ),
        (
            lambda: variations(torch.rand(1, 1, 17, 17), 2**32),
            ValueError,
            "^seed must be at most 4294967295, got 42949",
        ),
        (
            lambda: label_flips(brightest, X, "vertical", [1], "edge", batch_size=0),
            ValueError,
            "^batch_size must be",
        ),
        (
            lambda: predictions(lambda x: x, X),
            ValueError,
            r"^model must return \(3, K\) logits, got \(3, 1, 4, 5\)",
        ),
        (lambda: robust_error(brightest, X, Y, None), TypeError, "^attack must be a function"),
        (
            misclassified_by(lambda m, x, y: x - 1),
            ValueError,
            r"^what attack returns must be in \[0, 1\]",
        ),
        (
            misclassified_by(lambda m, x, y: NAN),
            ValueError,
            r"^what attack returns must be in \[0, 1\]",
        ),
        (
            misclassified_by(lambda m, x, y: x[:1]),
            ValueError,
            r"^attack must return images like x, .* \(3, 1, 4, 5\) on cpu, got .* \(1, 1, 4, 5\)",
        ),
        (
            misclassified_by(lambda m, x, y: x.double()),
            ValueError,
            "^attack must return images like x",
        ),
        (
            misclassified_by(lambda m, x, y: None),
            ValueError,
            "^attack must return .*got None",
        ),
    ],
)
def test_bad_evaluations(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (
            {"axis": "diagonal"},
            ValueError,
            "^axis must be one of 'horizontal', 'vertical', got 'diagonal'",
        ),
        ({"padding": "mirror"}, ValueError, "^padding must be one of .*got 'mirror'"),
        ({"shifts": []}, ValueError, "^shifts must hold at least one shift"),
        ({"shifts": [0, 0.5]}, TypeError, "^shifts must be a whole number, got 0.5"),
        ({"shifts": [5]}, ValueError, "^shifts must be at most 4 with 'edge' and 4 pixels, got 5"),
        (
            {"shifts": [-5]},
            ValueError,
            "^shifts must be at most 4 with .edge. and 4 pixels, got -5",
        ),
        (
            {"shifts": [4], "padding": "reflect"},
            ValueError,
            "^shifts must be at most 3 with 'reflect'",
        ),
    ],
)
def test_bad_translations(how, kind, message):
    with pytest.raises(kind, match=message):
        translation_sequence(X, **{"axis": "vertical", "shifts": [0, 1], "padding": "edge", **how})


@pytest.mark.parametrize("call", [label_flips, translated_labels])
def test_no_shifts(call):
    with pytest.raises(ValueError, match="^shifts must hold at least one shift"):
        call(brightest, X, "vertical", [], "edge")


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (X[0, 0], ValueError, r"^image must be \(\.\.\., C, H, W\), got \(4, 5\)"),
        (X.long(), TypeError, "^image must be a floating tensor"),
    ],
)
def test_bad_image_to_translate(image, kind, message):
    with pytest.raises(kind, match=message):
        translation_sequence(image, "vertical", [1], "edge")


@gpu
def test_on_the_gpu(digits):
    """Images and labels on the device, as on the CPU with a classifier without rounding."""
    x, y = digits
    x, y, there = x.double() / 255, y % 4, (x.double() / 255).cuda()
    assert torch.equal(predictions(brightest, there).cpu(), predictions(brightest, x))
    wrong = misclassified(brightest, there, y.cuda(), Attack("fgsm", 0.05))
    assert wrong.is_cuda and torch.equal(
        wrong.cpu(), misclassified(brightest, x, y, Attack("fgsm", 0.05))
    )
    for padding in PADDINGS:
        flips, expected = (
            label_flips(brightest, z, "vertical", [-2, 3], padding) for z in (there, x)
        )
        assert all(torch.equal(a.cpu(), b) for a, b in zip(flips, expected, strict=True))


def test_a_logit_that_is_no_number_is_no_answer():
    """NaN is never right, not even where the label is 0."""

    def broken(x):
        return torch.full((len(x), 3), float("nan"), dtype=x.dtype)

    images = torch.rand(4, 1, 2, 2)
    assert predictions(broken, images).tolist() == [-1] * 4
    assert error(broken, images, torch.tensor([0, 0, 1, 2])) == 1.0


WIDE = images(2, 1, 8, 8).double() / 2


@pytest.mark.parametrize(
    "call",
    [
        lambda m: predictions(m, WIDE),
        lambda m: error(m, WIDE, Y[:2]),
        lambda m: label_flips(m, WIDE, "horizontal", [1], "zeros"),
        lambda m: robust_error(m, WIDE, Y[:2], Attack("fgsm", 0.1)),
    ],
)
def test_images_of_another_type_than_the_weights(call):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    message = "^images must be torch.float32, as the weights of model, got torch.float64"
    with pytest.raises(TypeError, match=message):
        call(model)
    call(model.double())


def test_bytes_are_of_the_type_of_the_weights(digits):
    """Where these are float32, whatever the default type is."""
    model, bytes_ = network(), torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    before = predictions(model, bytes_)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(predictions(model, bytes_), before)
        predictions(network().double(), bytes_)
    finally:
        torch.set_default_dtype(torch.float32)


def in_two(x):
    raise ValueError("of two words")


@pytest.mark.parametrize(
    ("model", "error_", "says"),
    [
        (lambda: 0, TypeError, "<lambda>.* takes 0 positional arguments but 1 was given"),
        (int, ValueError, "only one element tensors can be converted to Python scalars"),
        (torch.nn.Linear(1, 1), RuntimeError, "mat1 and mat2 shapes cannot be multiplied"),
        (in_two, ValueError, "of two words"),
    ],
)
def test_a_model_that_fails_is_named(model, error_, says):
    """By an error of the same type, which the model's caused; one of a class of its own is kept."""
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    for call in (
        lambda: predictions(model, x),
        lambda: label_flips(model, x, "horizontal", [1], "zeros"),
        lambda: robust_error(model, x, y, Attack("fgsm", 0.1)),
        lambda: Attack("fgsm", 0.1)(model, x, y),
    ):
        with pytest.raises(
            error_, match=rf"^model failed on (images|x) \(2, 1, 3, 3\): .*{says}"
        ) as told:
            call()
        assert type(told.value) is error_ and type(told.value.__cause__) is error_


def test_a_models_own_error_is_its_word():
    class Refusal(ValueError):
        pass

    def refusing(x):
        raise Refusal("not these")

    with pytest.raises(Refusal, match="^not these$"):
        predictions(refusing, torch.rand(2, 1, 3, 3))


@pytest.mark.parametrize(
    ("attack", "error_", "says"),
    [
        (lambda: 0, TypeError, "<lambda>.* takes 0 positional arguments but 3 were given"),
        (int, TypeError, "int.* takes at most 2 arguments"),
        (torch.nn.Linear(1, 1), TypeError, "Linear.forward.* takes 2 positional arguments but 4"),
        (Attack("fgsm", 1e-9), ValueError, "epsilon must be at least 1.2e-07 in torch.float32"),
    ],
)
def test_an_attack_that_fails_is_named(attack, error_, says):
    x, y = torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    with pytest.raises(error_, match=rf"^attack failed on (images|x) \(2, 1, 3, 3\): .*{says}"):
        robust_error(lambda x: x.flatten(1)[:, :3], x, y, attack)


def test_variations_are_drawn_on_the_cpu(textured):
    """Whatever torch's default device is."""
    expected = variations(textured[:1], 0)
    with torch.device("meta"):
        found = variations(textured[:1], 0)
    assert all(torch.equal(found[name], each) for name, each in expected.items())
