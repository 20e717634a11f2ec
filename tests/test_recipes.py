"""The recipes run: every block of the page, and what each of them promises."""

import copy
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from wdtr_lite import attacks, data, evaluation, models, training
from wdtr_lite.regularizer import GradientPenalty

PAGE = (Path(__file__).parents[1] / "book" / "recipes.md").read_text()
START, *SECTIONS = re.split(r"^### ", PAGE, flags=re.MULTILINE)
RECIPES = {text.splitlines()[0]: text for text in SECTIONS}

pytestmark = [
    # of Lightning: how it reads its own trees, and what it advises
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


@pytest.fixture(autouse=True)
def registries(monkeypatch, tmp_path):
    """What a recipe registers is forgotten, what it writes is elsewhere."""
    monkeypatch.chdir(tmp_path)
    tables = (training.METHODS, training.SCHEDULES, data.SOURCES, models.MODELS)
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(*names, replace=("", "")):
    """The names that the first lines and some recipes leave behind."""
    torch.manual_seed(0)
    names_left = {}
    for text in (START, *(RECIPES[name] for name in names)):
        for block in blocks(text):
            exec(compile(block.replace(*replace), "recipes.md", "exec"), names_left)
    return SimpleNamespace(**{k: v for k, v in names_left.items() if k != "__builtins__"})


def trained(network):
    """It is finite, and a gradient reached it."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    weights = nn.utils.parameters_to_vector(network.parameters())
    return bool(weights.isfinite().all()) and any(bool(g.any()) for g in gradients)


def test_a_plain_loop(capsys):
    """Both forms are the same number. Its first step has no penalty, later ones have all of it, and
    a log without gradients the same."""
    left = run("A plain loop")
    assert trained(left.model) and left.ramp == 1.0
    _, loss, squared = left.penalty.terms(left.model, left.x, left.y)
    torch.testing.assert_close(left.loss, (loss + left.eta**2 * squared).mean())
    with torch.no_grad():
        logged = left.penalty(left.model, left.x, left.y)
    assert not logged.requires_grad
    torch.testing.assert_close(logged, squared.detach())
    start, network = run(), models.resnet8()
    with torch.no_grad():
        before = left.penalty.to("cpu")(network, *next(iter(start.loader))).mean()
    assert capsys.readouterr().out == f"penalty before training: {before:.3g}\n"


def test_ramped_gradients_add_up_over_parts():
    """Of a network whose images do not meet: four parts of a batch, as one."""
    left = run()
    x, y = left.images[:16], left.labels[:16]
    model = models.resnet8().eval()
    penalty = GradientPenalty(left.PixelGraph(32, 32, 8), scale=None)

    def gradient(size):
        model.zero_grad()
        for part in zip(x.split(size), y.split(size), strict=True):
            _, loss, squared = penalty.terms(model, *part)
            ((loss + 1e-4 * squared).mean() * size / 16).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient(4), gradient(16), rtol=1e-3, atol=1e-4)


def test_evaluate_yours(capsys):
    left = run("A plain loop", "Evaluate yours")
    wrong = (left.model.eval()(left.test_x).argmax(1) != left.test_y).double().mean()
    assert left.errors["as they are"] == pytest.approx(float(wrong))
    pgd = attacks.Attack("pgd", 8 / 255, steps=20)
    assert left.errors["PGD"] == evaluation.robust_error(left.model, left.test_x, left.test_y, pgd)
    assert left.errors["PGD"] >= left.errors["as they are"] and 0 <= left.changed <= 1
    assert f"PGD {left.errors['PGD']:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision(precision):
    """Outputs are in half precision, loss and penalty and gradients are finite."""
    left = run("A plain loop", "Mixed precision", replace=("torch.float16", f"torch.{precision}"))
    assert left.outputs.dtype == getattr(torch, precision) and left.loss.dtype == torch.float32
    assert trained(left.model)


def test_mixed_precision_leaves_a_difference_in_single():
    replace = ("radius=8))", 'radius=8), mode="finite_difference")')
    left = run("A plain loop", "Mixed precision", replace=replace)
    assert left.outputs.dtype == torch.float32 and trained(left.model)
    with (
        torch.autocast(left.device, torch.bfloat16),
        pytest.raises(RuntimeError, match="leave autocast"),
    ):
        left.penalty(left.model, left.x, left.y).mean().backward()


@pytest.mark.parametrize("precision", ['"64-true"', "32"])
def test_lightning(precision):
    """The graph follows the module to the precision, and the step is a plain loop's."""
    left = run("PyTorch Lightning", replace=('"64-true"', precision))
    dtype = torch.float64 if "64" in precision else torch.float32
    assert left.classifier.penalty.norm.graph.dtype == dtype
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32)
    model, penalty = models.resnet8().to(dtype), GradientPenalty(left.PixelGraph(32, 32, 8))
    penalty.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert torch.equal(images, left.images)
    for x, y in zip(images.to(dtype).split(16), left.labels.split(16), strict=True):
        terms = penalty.terms(model, x, y)
        optimizer.zero_grad()
        (terms.loss.mean() + left.eta**2 * terms.penalty.mean()).backward()
        optimizer.step()
    assert trained(model) and 0 <= left.trainer.callback_metrics["error"] <= 1
    for ours, theirs in zip(model.parameters(), left.classifier.network.parameters(), strict=True):
        torch.testing.assert_close(ours.to(theirs.dtype), theirs)


def test_one_compiled_step():
    """The trace's gradients are those of a plain loop. What torch's compiler makes of it takes
    minutes."""
    compiled, traced = "torch.compile(make_fx(derivatives)", "(make_fx(derivatives)"
    left = run("A plain loop", "One compiled step", replace=(compiled, traced))
    assert trained(left.model)
    with torch.no_grad():
        loss, gradients = left.step(left.weights, left.strength, left.x, left.y)
    left.model.zero_grad()
    _, losses, squared = left.penalty.terms(left.model, left.x, left.y)
    expected = (losses + left.eta**2 * squared).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for gradient, parameter in zip(gradients, left.model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_timm_model():
    """Predictions are unchanged, and normalised images are what the penalty refuses."""
    left = run("A timm model")
    assert trained(left.network)
    inside, outside = left.model.eval(), left.network.eval()
    mean, std = (torch.tensor(left.config[k]).view(-1, 1, 1) for k in ("mean", "std"))
    normalised = (left.images - mean) / std
    torch.testing.assert_close(inside(left.images), outside(normalised))
    with pytest.raises(ValueError, match="x must be non-negative"):
        left.penalty(outside, normalised, left.labels)


class StandInTrainer:
    """Stands in for ``transformers.Trainer``, which is large: it steps along ``compute_loss`` of
    batches that are dictionaries, and evaluates without gradients, as that one does."""

    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.args = SimpleNamespace(device=torch.device("cpu"))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        raise NotImplementedError

    def train(self):
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        for inputs in self.loader:
            loss = self.compute_loss(self.model, inputs, num_items_in_batch=len(inputs["labels"]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def evaluate(self):
        with torch.no_grad():
            parts = [self.compute_loss(self.model, batch, True) for batch in self.loader]
        return torch.cat([outputs["logits"] for _, outputs in parts])


class StandInModel(nn.Module):
    """Stands in for a model of the library: pixel values to an object with ``.logits``."""

    def __init__(self):
        super().__init__()
        self.network = models.small_cnn(width=4, channels=3)

    def forward(self, pixel_values, labels=None):
        resized = nn.functional.interpolate(pixel_values, (28, 28))
        return SimpleNamespace(loss=None, logits=self.network(resized))


def test_hugging_faces_trainer(monkeypatch):
    library = ModuleType("transformers")
    library.Trainer = StandInTrainer
    monkeypatch.setitem(sys.modules, "transformers", library)
    left = run("Hugging Face's Trainer")
    batches = [{"pixel_values": x, "labels": y} for x, y in left.loader]
    trainer = left.PenalisedTrainer(StandInModel(), batches)
    trainer.train()
    assert trained(trainer.model)
    expected = trainer.model(trainer.normalize(left.images)).logits
    torch.testing.assert_close(trainer.evaluate(), expected.detach())


def test_the_critic_of_a_gan():
    left = run("The critic of a GAN")
    assert trained(left.critic) and left.length.shape == (16,)


def test_your_network_your_data():
    left = run("Your network, your data")
    assert left.run.config.data == "mine" and left.run.config.model == "Sequential"
    assert len(left.run.history) == 2 and left.run.history[-1]["penalty"] > 0


def test_a_data_set_by_name():
    left = run("Your network, your data", "A data set by name")
    assert left.run.config.data == "stripes" and "stripes" in data.names()
    assert data.load("stripes").classes == tuple("0123456789")


def test_a_method():
    """It is the package's own, under another name."""
    left = run("Your network, your data", "A method")
    assert left.run.config.method == "sign" and left.run.history[0]["penalty"] > 0
    own = [
        training.fit(
            training.Config(method=method, eta=0.01, epochs=1, batch_size=16),
            model=copy.deepcopy(left.network),
            dataset=left.mine,
            progress=False,
        ).model.state_dict()
        for method in ("sign", "l1")
    ]
    for a, b in zip(own[0].values(), own[1].values(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_penalty_of_your_own():
    left = run("The critic of a GAN", "A gradient penalty of your own")
    leaf = left.real.clone().requires_grad_()
    (expected,) = torch.autograd.grad(left.critic(leaf).sum(), leaf)
    torch.testing.assert_close(left.gradient, expected)
    assert left.gradient.requires_grad and trained(left.critic)


def test_optimiser_schedule_augmentation():
    left = run("Your network, your data", "Optimiser, schedule, augmentation")
    assert left.run.config.schedule == "warmup" and len(left.run.history) == 1


def test_every_recipe_has_a_test():
    names = {re.sub(r"\W+", "_", name).lower() for name in RECIPES}
    names = {"lightning" if name == "pytorch_lightning" else name for name in names}
    names = {name.replace("face_s", "faces") for name in names}
    assert {f"test_{name}" for name in names} <= globals().keys()
