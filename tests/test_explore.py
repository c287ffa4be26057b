"""What a reader explores: trained models by name, the search step by step, the page's data."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from paper_lib.explore import page, scenes, trained
from paper_lib.explore.app import ADJOINTS, SOLVERS, Explorer
from paper_lib.explore.gradients import fidelity
from paper_lib.explore.swap import slot_of_largest_object
from paper_lib.explore.trajectory import applications_of, initial_noise, trajectory
from paper_lib.explore.views import picture_key, pictures_of
from paper_lib.fixed_point import Broyden, Implicit, Iteration, Unrolled
from paper_lib.paper import figures, parameters
from paper_lib.runs import ROOT, MissingRun, get, run_id

COMMITTED = ("clevr_mirror-implicit", "clevr_mirror-vanilla")


def trained_run(name, given):
    return get(trained.config_of(name, given), given)


def test_a_scene_that_is_not_there(smoke, elsewhere):
    """The smoke profile's test split has nine."""
    data = smoke.IN.config.data
    assert len(scenes.scenes(data, smoke.given, 9)[0]) == 9
    for _ in ("made", "kept"):
        with pytest.raises(ValueError, match="^10 test scenes are asked for, and there are 9 of"):
            scenes.scenes(data, smoke.given, 10)


# ---------------------------------------------------------------- trained models


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_model_gives_the_masks_and_pictures_of_its_run(committed, name):
    run, model = trained_run(name, committed), trained.load(name)
    images, masks = scenes.scenes(run.config.data, committed)
    assert (images[:12] == run.samples["image"]).all() and masks.max() <= 4
    solver = model.slot_attn.slot_attention.solver
    for k in range(3):
        noise = initial_noise(model, 0, model.config.num_slots, k)
        found = trajectory(model, images[k], noise, solver, applications_of(model))
        np.testing.assert_allclose(found.attn[-1], run.samples["attn"][k], atol=2e-3)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_model_scores_what_was_recorded(committed, name):
    """The squared error of its first test images, regenerated, as the run of Table 3 has it."""
    model = trained.load(name)
    method = trained.METHODS[name.split("-")[1]]
    scored = get(figures.flagship(committed)[method][0], committed)
    images, _ = scenes.scenes(scored.config.slate.data, committed)
    solver = model.slot_attn.slot_attention.solver
    for k in range(2):
        noise = initial_noise(model, 0, model.config.num_slots, k)
        found = trajectory(model, images[k], noise, solver, applications_of(model))
        with torch.no_grad():
            picture = model.decode_tokens(model.generate_tokens(found.slots[-1:]))[0]
        image = torch.from_numpy(images[k]).permute(2, 0, 1) / 255
        error = (image - picture).square().sum().item()
        assert error == pytest.approx(scored.metrics["mse"][k], rel=0.02)


def test_a_model_is_loaded_by_a_runs_id_too(committed):
    ours = trained.load(run_id(trained.config_of(COMMITTED[0], committed)))
    theirs = trained.load(COMMITTED[0])
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
        assert torch.equal(a, b)
    assert not ours.training


def test_an_unknown_model_is_refused_with_those_there_are(committed):
    with pytest.raises(ValueError, match="choose from clevr_mirror-implicit, clevr_mirror-vanilla"):
        trained.load("clevr")
    with pytest.raises(MissingRun, match="weights of this run are not committed"):
        trained.load("slate-IN-seed1-51b7923038")


def test_weights_that_ship_are_small():
    shipped = list((ROOT / "results/cpu/runs").glob("slate-*seed0*/weights.safetensors"))
    assert sum(path.stat().st_size for path in shipped[:4]) < 12e6


# ---------------------------------------------------------------- the search


def test_a_search_ends_where_the_model_does(smoke):
    model = trained.model_of(smoke.IN)
    image = smoke.IN.samples["image"][0]
    noise = initial_noise(model, 0, model.config.num_slots)
    n = applications_of(model)
    assert n == model.config.num_iterations + 1, "the added line"
    found = trajectory(model, image, noise, Iteration(n - 1), n)
    tokens = model.tokenize(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    with torch.no_grad():
        out = model.infer_slots(tokens, noise[None])
    torch.testing.assert_close(found.slots[-1:], out.slots)
    torch.testing.assert_close(found.attn[-1:], out.attn)
    assert applications_of(trained.model_of(smoke.vanilla)) == n - 1
    paths = found.paths()
    assert paths.shape == (n, 3, 2) and paths.min() == 0 and paths.max() == 1


def test_the_gradient_beside_the_exact_one(committed):
    """Where the search has arrived, a full implicit solve is the exact gradient."""
    run, model = trained_run(COMMITTED[1], committed), trained.load(COMMITTED[1])
    noise = initial_noise(model, 0, model.config.num_slots, 1)
    pairs = {"solved": (Iteration(300), Implicit(Broyden(60, 1e-10)))}
    compared, residual = fidelity(model, run.samples["image"][1], noise, pairs)
    cosine, length = compared["solved"]
    assert residual < 1e-6
    assert cosine == pytest.approx(1, abs=1e-3) and length == pytest.approx(1, abs=1e-3)


def test_a_picture_of_ones_own_is_cut_to_a_square():
    file = io.BytesIO()
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 200
    Image.fromarray(picture).save(file, "png")
    assert (scenes.own_image(file.getvalue(), 16) == 200).all()
    with pytest.raises(ValueError, match="not a picture"):
        scenes.own_image(b"no picture", 16)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_a_broken_picture_is_refused_and_nothing_else_is_raised(kind):
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(file, kind)
    whole, refused = file.getvalue(), 0
    for _ in range(100):
        broken = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, min(len(broken), 80), 4):
            broken[place] = rng.integers(256)
        try:
            assert scenes.own_image(bytes(broken), 16).shape == (16, 16, 3)
        except ValueError as error:
            assert "not a picture" in str(error)
            refused += 1
    assert refused > 50


def test_a_photograph_is_turned_as_its_camera_says():
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 200
    lying = Image.fromarray(np.rot90(upright))  # a quarter turn to the left
    exif = lying.getexif()
    exif[0x0112] = 6  # orientation: turn it to the right
    file = io.BytesIO()
    lying.save(file, "png", exif=exif)
    assert (scenes.own_image(file.getvalue(), 16) == upright).all()


# ---------------------------------------------------------------- the page


@pytest.fixture
def explorer(smoke):
    return Explorer(parameters.check("smoke"))


def test_the_first_view_is_complete(explorer):
    view = explorer.viewer.view
    assert [panel["applications"] for panel in view["panels"]] == [8, 7]
    for panel in view["panels"]:
        masks = np.frombuffer(base64.b64decode(panel["attn"]), np.uint8)
        masks = masks.reshape(panel["applications"], panel["slots"], view["side"] ** 2)
        assert abs(masks.astype(int).sum(1) - 255).max() <= 2, "slots share every token"
        last = picture_key(panel["applications"], [True] * panel["slots"])
        assert explorer.viewer.pictures[panel["key"]][last].startswith("data:image/webp")
    assert explorer.swapped.result.value.count("<img") == 2 * (3 + 3)
    assert "cosine" in explorer.gradient.value or "no fixed point" in explorer.gradient.value


def test_the_slot_of_the_largest_object():
    mask = np.zeros((8, 8), np.uint8)
    mask[:2, :2] = 1
    mask[4:, 4:] = 3  # the largest
    attn = np.zeros((16, 4))
    attn[:, 0] = 1  # a slot has the background,
    attn[0] = [0, 1, 0, 0]  # one the small object,
    attn[[10, 11, 14]] = [0, 0, 0, 1]  # one most of the large one,
    attn[15] = [0, 0, 1, 0]  # and one the rest
    assert slot_of_largest_object(mask, attn) == 3
    assert slot_of_largest_object(mask % 3, attn) == 1, "without the large one"
    assert slot_of_largest_object(0 * mask, attn) == 0


def test_the_slots_of_the_largest_objects_are_swapped_first(explorer):
    def largest():
        found = []
        for scene in explorer.swapped.scenes:
            search = explorer.search(explorer.swapped.model.value, scene.value)
            _, mask = explorer.image(scene.value)
            found.append(slot_of_largest_object(mask, search.attn[-1].numpy()))
        return found

    def chosen():
        return [slot.value for slot in explorer.swapped.slots]

    assert chosen() == largest()
    explorer.swapped.scenes[0].value = 5
    assert chosen() == largest()
    other = (chosen()[0] + 1) % 3
    explorer.swapped.slots[0].value = other
    explorer.swapped.button.click()
    assert chosen()[0] == other, "what the reader chose stays"
    assert f"slot {other + 1} (swapped)" in explorer.swapped.result.value


def test_what_is_chosen_is_shown(explorer):
    before = explorer.viewer.view
    explorer.scene.value = 2
    assert explorer.viewer.view["image"] != before["image"]
    explorer.slots.value = 5
    assert {panel["slots"] for panel in explorer.viewer.view["panels"]} == {5}
    assert len(explorer.swapped.slots[0].options) == 5
    explorer.steps.value = 2
    explorer.shown.value = "vanilla"
    (panel,) = explorer.viewer.view["panels"]
    assert panel["applications"] == 2
    explorer.solver.value = "Broyden"
    explorer.adjoint.value = "unrolled (vanilla's)"
    assert "differentiates through plain iteration" in explorer.gradient.value


def test_a_slot_switched_off_is_left_out_of_the_picture(explorer):
    name = explorer.names()[0]
    on = [True, False, True]
    explorer.viewer.state = {"n": 3, "on": {name: on}}
    made = explorer.viewer.pictures[name][picture_key(3, on)]
    expected = pictures_of(explorer.models[name], explorer.found[name], [(3, on)])
    assert made == expected[picture_key(3, on)]
    explorer.viewer.state = {"n": 3, "on": {name: [False] * 3}}  # nothing to draw
    explorer.viewer.state = {"n": 3, "on": {"gone": [True]}}  # of a view that is gone


def test_every_solver_and_adjoint_can_be_chosen(explorer):
    for solver in SOLVERS:
        explorer.solver.value = solver
        for adjoint, make in ADJOINTS.items():
            if solver.startswith("iteration") or make(1) != Unrolled():
                explorer.adjoint.value = adjoint
                assert "cosine" in explorer.gradient.value or "no fixed" in explorer.gradient.value


def test_what_is_no_picture_is_said_and_changes_nothing(explorer):
    before = explorer.viewer.view
    explorer._take_own({"new": [{"content": memoryview(b"no picture")}]})
    assert "not a picture" in explorer.message.value and explorer.viewer.view == before


def test_the_static_page_stands_alone(smoke):
    text = page.page(parameters.check("smoke"), count=2)
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w+:", text)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    views = json.loads(data.group(1).replace("<\\/", "</"))
    assert list(views) == ["CLEVR-Mirror 1", "CLEVR-Mirror 2"]
    for view in views.values():
        for panel in view["panels"]:  # after every step; each slot alone, and all but each
            assert len(panel["pictures"]) == panel["applications"] + 2 * panel["slots"]
        assert {panel["name"] for panel in view["panels"]} == {"implicit", "vanilla"}
    ahead = {name: np.subtract(*(p["score"] for p in v["panels"])) for name, v in views.items()}
    opened = re.search(r'<option value="([^"]+)" selected>', text).group(1)
    assert ahead[opened] == max(ahead.values()), "the upper median of two"
    swaps = re.search(r'<script type="application/json" id="swaps">(.*?)</script>', text, re.S)
    swaps = json.loads(swaps.group(1).replace("<\\/", "</"))
    assert list(swaps) == list(views)
    first, second = swaps.values()
    assert first["scenes"] == second["scenes"][::-1], "the last scene's next is the first"
    for pictures in first["methods"].values():
        assert len(pictures) == 4 and pictures[0] != pictures[2] and pictures[1] != pictures[3]


def test_the_stored_page_has_todays_viewer():
    """Else: `python -m paper_lib.explore.page`."""
    stored = (ROOT / "docs/explore.html").read_text()
    assert (ROOT / "paper_lib/explore/static/viewer.css").read_text() in stored
    viewer = (ROOT / "paper_lib/explore/static/viewer.js").read_text()
    assert viewer.replace("</", "<\\/") in stored
