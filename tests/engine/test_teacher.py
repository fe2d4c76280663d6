"""Knowledge distillation: the formula, the gradients of a step however it is cut, and the teacher's own view."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

from mltrain.engine import distributed
from mltrain.engine.teacher import Teacher
from mltrain.losses.distillation import sigmoid_kl
from mltrain.models import create_classifier
from tests.engine.test_step import Loss, batch, data, make_step


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_equals_that_of_bernoulli_distributions(temperature):
    torch.manual_seed(0)
    student, teacher = 4 * torch.randn(6, 5, dtype=torch.float64), 4 * torch.randn(6, 5, dtype=torch.float64)
    p, q = (Bernoulli(logits=x / temperature) for x in (teacher, student))
    expected = temperature**2 * kl_divergence(p, q)
    torch.testing.assert_close(sigmoid_kl(student, teacher, temperature).double(), expected, rtol=1e-5, atol=1e-6)
    assert (sigmoid_kl(student, student, temperature) == 0).all()


def test_the_gradient_is_the_difference_of_the_probabilities():
    student = torch.tensor([[-120.0, 3.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[2.0, -95.0, 0.5]], requires_grad=True)
    sigmoid_kl(student, teacher, 2.0).sum().backward()
    expected = 2.0 * ((student / 2).sigmoid() - (teacher / 2).sigmoid())
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None


class Model(nn.Module):
    """A teacher of seven classes, whose backbone tells the size of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SimpleNamespace(image_size=4)
        self.fc = nn.Linear(48, 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1))


COLUMNS = torch.tensor([6, 0, 3, 2, 5])


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("cuts", [(12,), (5, 4, 3)])
def test_gradients_are_those_of_both_losses_over_the_whole_batch(reduction, cuts):
    images, targets = data()
    torch.manual_seed(3)
    teacher = Teacher(Model().eval().requires_grad_(False), COLUMNS, weight=0.7, temperature=2.0)
    with distributed.start("cpu") as dist:
        step = make_step(dist, Loss(reduction), teacher=teacher)
        model = copy.deepcopy(step.model)
        logits = model(images)
        divergence = sigmoid_kl(logits, teacher.model(images)[:, COLUMNS], 2.0)
        divergence = {"sum": divergence.sum(), "mean": divergence.mean(), "batchmean": divergence.sum() / 12}[reduction]
        whole = Loss(reduction)(logits, targets) + 0.7 * divergence
        whole.backward()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
        parts = zip(images.split(cuts), targets.split(cuts), strict=True)
        result = step(0, [batch(*part) for part in parts])
    assert result.loss == pytest.approx(whole.item(), rel=1e-5)
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)


def test_the_teacher_sees_images_in_its_own_size_and_normalisation():
    torch.manual_seed(0)
    options = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
    model = create_classifier(name="test_byobnet", num_classes=7, image_size=64, backbone_options=options).eval()
    teacher = Teacher(model, COLUMNS, weight=1.0, temperature=1.0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(teacher.logits(images), model(images)[:, COLUMNS])
    larger = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    resized = F.interpolate(larger.float(), (64, 64), mode="bilinear", antialias=True)
    assert torch.equal(teacher.logits(larger), model(resized)[:, COLUMNS])
    assert not teacher.logits(larger).requires_grad
