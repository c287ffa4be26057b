"""The settings that a trained model is scored in, beside those that it was trained in."""

from dataclasses import dataclass, replace

import pytest
import torch

from paper_lib.fixed_point import Anderson, Broyden, Iteration, Neumann
from paper_lib.models import SetPredictionConfig, SetPredictor, SlotEncoder
from paper_lib.training.slots import at_test_time


def encoder(solver):
    return SlotEncoder(6, 8, 8, 3, solver, Neumann())


def test_other_slots_and_other_iterations_one_at_a_time():
    settings = at_test_time(encoder(Iteration(3)), (3, 5), (1, 7))
    assert settings == {
        "": {},
        "_slots_3": {"num_slots": 3},
        "_slots_5": {"num_slots": 5},
        "_iterations_1": {"solver": Iteration(1)},
        "_iterations_7": {"solver": Iteration(7)},
    }


@pytest.mark.parametrize("solver", [Broyden(3, tol=1e-3), Anderson(3, tol=1e-3)])
def test_a_solver_keeps_its_other_settings(solver):
    settings = at_test_time(encoder(solver), (), (9,))
    assert settings["_iterations_9"]["solver"] == replace(solver, max_steps=9)
    assert settings["_iterations_9"]["solver"].tol == 1e-3


@dataclass(frozen=True)
class Patient:
    """Iterates without a number of steps that could be another."""

    def solve(self, f, z0):
        return Iteration(4).solve(f, z0)


def test_a_solver_without_a_number_of_steps_iterates_as_it_was_trained_to():
    assert at_test_time(encoder(Patient()), (5,), (1, 7)) == {"": {}, "_slots_5": {"num_slots": 5}}


def test_a_setting_is_what_a_model_is_given():
    """The model trained to seven steps, scored at two, is the model trained to two."""
    config = SetPredictionConfig(
        image_size=16, channels=6, strides=(1, 2), slot_size=8, mlp_hidden_size=8, num_slots=3
    )
    torch.manual_seed(0)
    model = SetPredictor(replace(config, solver=Broyden(7)))
    torch.manual_seed(0)
    shorter = SetPredictor(replace(config, solver=Broyden(2)))
    setting = at_test_time(model.slot_attn, (), (2,))["_iterations_2"]
    image, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 8)
    with torch.no_grad():
        found = model(image, noise, **setting).predictions
        torch.testing.assert_close(found, shorter(image, noise).predictions)
        assert not torch.allclose(found, model(image, noise).predictions, atol=1e-4)
