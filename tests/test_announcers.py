"""What may announce a failure of training, against dense Jacobians and gradients by hand."""

import pytest
import torch

from paper_lib.fixed_point import Iteration, Neumann, jacobian
from paper_lib.models import SlotEncoder
from paper_lib.training.announcers import gradient_spread, path_norm


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return SlotEncoder(6, 8, 8, 3, Iteration(4), Neumann()).double()


@pytest.mark.parametrize("steps", [1, 4])
def test_the_path_norm_is_that_of_the_product_of_jacobians(encoder, steps):
    embedded, noise = torch.randn(2, 5, 6).double(), torch.randn(2, 3, 8).double()
    cell = encoder.cell(embedded)
    slots = encoder.initial_slots(noise).detach()
    product = torch.eye(24).double()
    for _ in range(steps):
        product = jacobian(lambda z: cell(z)[0], slots) @ product
        slots = cell(slots)[0].detach()
    expected = torch.linalg.matrix_norm(product, 2)
    torch.testing.assert_close(
        path_norm(encoder, embedded, noise, steps), expected, rtol=1e-5, atol=0
    )


def test_the_spread_of_gradients():
    """Gradients (1, 0), (3, 0), (2, 3): their mean is (2, 1), their variances 1 and 3."""
    w = torch.zeros(2, requires_grad=True)
    losses = [(w * torch.tensor(g)).sum() for g in ([1.0, 0.0], [3.0, 0.0], [2.0, 3.0])]
    assert gradient_spread(losses, [w]) == pytest.approx((4 / 5) ** 0.5)


def test_batches_that_agree_have_no_spread():
    w, v = torch.ones(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    losses = [w.square().sum() + v.sum() for _ in range(4)]
    assert gradient_spread(losses, [w, v]) == 0
