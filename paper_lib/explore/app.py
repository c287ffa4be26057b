"""The page on which a reader explores slots: controls, the viewer, a swap, and the gradient."""

from __future__ import annotations

from functools import partial

import ipywidgets as w
import numpy as np
from torch import Tensor

from paper_lib.explore import swap, trained
from paper_lib.explore.gradients import CLOSE, fidelity
from paper_lib.explore.scenes import own_image, scenes
from paper_lib.explore.trajectory import Trajectory, applications_of, initial_noise, trajectory
from paper_lib.explore.views import Viewer, panel, picture_key, pictures_of, view
from paper_lib.fixed_point import (
    Anderson,
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Solver,
    Unrolled,
)
from paper_lib.models import SLATE
from paper_lib.paper import styles
from paper_lib.paper.parameters import Parameters
from paper_lib.runs import get

SOLVERS = {"iteration (the paper's)": Iteration, "Broyden": Broyden, "Anderson": Anderson}
ADJOINTS = {
    "one step (the paper's line)": lambda n: Neumann(),
    "Neumann, 4 terms": lambda n: Neumann(terms=4),
    "implicit, Broyden solves": lambda n: Implicit(Broyden(n)),
    "implicit, Anderson solves": lambda n: Implicit(Anderson(n)),
    "unrolled (vanilla's)": lambda n: Unrolled(),
}
WIDE = {"description_width": "110px"}


class Explorer:
    """Everything that can be chosen, and what is shown of it. `widget` is the whole page.

    given    a notebook's parameters: whose models and scenes
    models   name -> a trained SLATE of your own, beside those that are offered
    scene    the test scene to begin with, from 1
    """

    def __init__(self, given: Parameters, models: dict[str, SLATE] | None = None, scene: int = 1):
        self.given = given
        configs = trained.slates(given)
        self.models = {name: trained.model_of(get(run, given)) for name, run in configs.items()}
        self.models |= models or {}
        self.data = {config.data.name: config.data for config in configs.values()}
        self.found: dict[str, Trajectory] = {}
        self.viewer = Viewer()
        self.progress = w.IntProgress(layout=w.Layout(width="160px", visibility="hidden"))
        self.message = w.HTML()
        self._build_controls(scene)
        self._refresh()
        self.viewer.observe(self._regenerate, "state")
        self.swapped = swap.Swap(self)
        self.widget = w.VBox(
            [
                w.HBox([self.data_set, self.scene, self.upload], layout=_ROW),
                w.HBox([self.shown, self.solver, self.steps], layout=_ROW),
                w.HBox([self.slots, self.seed, self.progress], layout=_ROW),
                self.message,
                self.viewer,
                w.HTML("<h3>The gradient</h3>"),
                w.HBox([self.adjoint, self.gradient], layout=_ROW),
                w.HTML("<h3>Swap a slot between two scenes</h3>"),
                self.swapped.widget,
            ]
        )

    # ---- what is chosen ----

    def image(self, index: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a test scene and its true mask, or the reader's own picture, which has none."""
        images, masks = scenes(self.data[self.data_set.value], self.given)
        if index is None and self.own is not None:
            return self.own, None
        k = (self.scene.value if index is None else index) - 1
        return images[k], masks[k]

    def names(self) -> list[str]:
        """Return the models that look at the scene: those of the data set, and the reader's."""
        configs = trained.slates(self.given)
        mine = [name for name in self.models if name not in configs]
        of_data = [name for name in configs if configs[name].data.name == self.data_set.value]
        return [
            name for name in of_data if self.shown.value in ("both", name.split("-")[-1])
        ] + mine

    def noise(self, model: SLATE, index: int | None = None) -> Tensor:
        """Return the noise for a scene's initial slots, by the chosen seed and number of slots."""
        turn = (self.scene.value if index is None else index) - 1
        return initial_noise(model, self.seed.value, self.slots.value, turn)

    def chosen_solver(self) -> Solver:
        return SOLVERS[self.solver.value](self.steps.value)

    def search(self, name: str, index: int | None = None) -> Trajectory:
        """Return the search for the slots of a scene by a model, under the chosen solver."""
        model = self.models[name]
        added = applications_of(model) - model.slot_attn.slot_attention.solver.max_steps
        image, _ = self.image(index)
        noise = self.noise(model, index)
        return trajectory(model, image, noise, self.chosen_solver(), self.steps.value + added)

    # ---- what is shown ----

    def _refresh(self, change=None) -> None:
        """Search anew with every model, and show that with the pictures of all its slots."""
        if change is not None and change["owner"] is self.scene:
            self.own = None
        self.message.value = ""
        image, mask = self.image()
        self.found = {name: self.search(name) for name in self.names()}
        panels = [
            panel(name, self._title(name), self._colour(name), found)
            for name, found in self.found.items()
        ]
        # the masks are there at once; what takes longer comes after them
        self.viewer.pictures = {}
        self.viewer.view = view(image, mask, panels)
        self._show_gradient()
        for name, found in self.found.items():
            every = [True] * found.slots.shape[1]
            self._add_pictures(name, [(n, every) for n in range(1, len(found.slots) + 1)])

    def _regenerate(self, change=None) -> None:
        """Generate the pictures that the viewer lacks: of the slots that are on, at its step."""
        state = self.viewer.state
        for name, on in state.get("on", {}).items():
            found = self.found.get(name)
            if found is None or len(on) != found.slots.shape[1]:
                continue  # said of a view that is gone
            wanted = min(state["n"], len(found.slots)), on
            if any(on) and picture_key(*wanted) not in self.viewer.pictures.get(name, {}):
                self._add_pictures(name, [wanted])

    def _add_pictures(self, name: str, wanted: list[tuple[int, list[bool]]]) -> None:
        """Generate pictures from a model's slots, with a bar, and hand them to the viewer."""
        self.progress.layout.visibility = "visible"
        try:
            made = pictures_of(self.models[name], self.found[name], wanted, self._positions)
        finally:
            self.progress.layout.visibility = "hidden"
        known = self.viewer.pictures
        self.viewer.pictures = known | {name: known.get(name, {}) | made}

    def _show_gradient(self, change=None) -> None:
        pair = self.chosen_solver(), ADJOINTS[self.adjoint.value](self.steps.value)
        said = []
        try:
            for name in self.names():
                model = self.models[name]
                compared, residual = fidelity(
                    model, self.image()[0], self.noise(model), {"chosen": pair}
                )
                said.append(f"{self._title(name)}: {_words(*compared['chosen'], residual)}")
        except ValueError as error:  # a pair that makes no sense says why
            said = [str(error)]
        self.gradient.value = "<br>".join(said)

    def _colour(self, name: str) -> str:
        offered = trained.slates(self.given)
        return styles.colour(offered[name].method if name in offered else name)

    def _title(self, name: str) -> str:
        return name.replace("-", ", ")

    def _positions(self, positions):
        self.progress.max = len(positions)
        for position in positions:
            if position % 32 == 0:  # a message to the page takes longer than a token
                self.progress.value = position
            yield position

    # ---- the controls ----

    def _build_controls(self, scene: int) -> None:
        model = next(iter(self.models.values()))
        steps = model.slot_attn.slot_attention.solver.max_steps
        self.own: np.ndarray | None = None
        control = partial(dict, style=WIDE, continuous_update=False)
        count = len(scenes(next(iter(self.data.values())), self.given)[0])
        self.data_set = w.Dropdown(options=list(self.data), description="data set", style=WIDE)
        self.scene = w.IntSlider(scene, 1, count, description="test scene", **control())
        self.upload = w.FileUpload(accept="image/*", description="a picture of your own")
        self.shown = w.Dropdown(
            options=["both", *trained.METHODS], description="trained by", style=WIDE
        )
        self.solver = w.Dropdown(options=list(SOLVERS), description="solver", style=WIDE)
        self.steps = w.IntSlider(steps, 1, max(20, steps), description="steps", **control())
        self.slots = w.IntSlider(model.config.num_slots, 2, 12, description="slots", **control())
        self.seed = w.BoundedIntText(0, 0, 9_999, description="initial slots", style=WIDE)
        self.adjoint = w.Dropdown(options=list(ADJOINTS), description="adjoint", style=WIDE)
        self.gradient = w.HTML()
        for changing in (
            self.data_set,
            self.scene,
            self.shown,
            self.solver,
            self.steps,
            self.slots,
            self.seed,
        ):
            changing.observe(self._refresh, "value")
        self.adjoint.observe(self._show_gradient, "value")
        self.upload.observe(self._take_own, "value")

    def _take_own(self, change) -> None:
        if not change["new"]:
            return
        try:
            size = self.data[self.data_set.value].size
            self.own = own_image(bytes(change["new"][0]["content"]), size)
        except ValueError as error:
            self.message.value = f"<b>{error}</b>"
            return
        self._refresh()


_ROW = w.Layout(flex_flow="row wrap", align_items="center")


def _words(cosine: float, length: float, residual: float) -> str:
    if residual > CLOSE:
        return f"no fixed point is reached (residual {residual:.1g}): there is no exact gradient"
    return f"cosine with the exact implicit gradient {cosine:.2f}, length {length:.2f} of its"
