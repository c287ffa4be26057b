"""What the viewer draws, as plain data: a scene, and a panel for each model that looked at it.

The viewer is static/viewer.js, in a notebook (`Viewer`) as on the static page (`page.py`).
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import seaborn as sns
import torch
import traitlets
from PIL import Image
from torch import Tensor

from paper_lib.explore.trajectory import Trajectory
from paper_lib.models import SLATE
from paper_lib.training.task import to_uint8

STATIC = Path(__file__).parent / "static"


class Viewer(anywidget.AnyWidget):
    """The viewer as a widget.

    view      what is drawn: see `view`; a new one starts anew
    pictures  pictures that came later: panel's key -> picture's key -> image (see `picture_key`)
    state     what the reader chose: n, the application shown, and on, the slots that are, by panel
    """

    _esm = STATIC / "viewer.js"
    _css = STATIC / "viewer.css"
    view = traitlets.Dict().tag(sync=True)
    pictures = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)


def view(image: np.ndarray, mask: np.ndarray | None, panels: list[dict]) -> dict:
    """Return a view of one scene.

    image (H, W, 3) and true mask (H, W) are uint8; without a mask there is no FG-ARI. `panels` are
    `panel`'s, all with masks on the same grid of tokens.
    """
    slots = max(panel["slots"] for panel in panels)
    return {
        "size": len(image),
        "side": panels[0]["side"],
        "colours": sns.color_palette("husl" if slots > 10 else "tab10", max(slots, 10)).as_hex(),
        "image": image_url(image, "png"),
        "truth": "" if mask is None else _base64(mask.astype(np.uint8).tobytes()),
        "panels": panels,
    }


def panel(
    key: str, name: str, colour: str, found: Trajectory, pictures: dict[str, str] | None = None
) -> dict:
    """Return what one model makes of a scene.

    key       names the panel
    name      the words above it
    colour    such as "#1f4e9c"
    pictures  picture's key -> image, as far as there are any (see `picture_key`)
    """
    applications, tokens, slots = found.attn.shape
    masks = (255 * found.attn.mT).round().byte().numpy()  # (applications, slots, tokens)
    return {
        "key": key,
        "name": name,
        "colour": colour,
        "applications": applications,
        "slots": slots,
        "side": round(tokens**0.5),
        "attn": _base64(masks.tobytes()),
        "residuals": [float(f"{value:.3g}") for value in found.residuals.tolist()],
        "paths": found.paths().round(3).tolist(),
        "pictures": pictures or {},
    }


def picture_key(n: int, on: list[bool]) -> str:
    """Return the name of the picture from the slots that are `on` after application n (from 1)."""
    return f"{n}/{''.join('1' if slot else '0' for slot in on)}"


def pictures_of(
    model: SLATE, found: Trajectory, wanted: list[tuple[int, list[bool]]], progress=None
) -> dict[str, str]:
    """Generate pictures from slots, token by token.

    wanted    pairs of n, the application after which the slots are taken, and which of them are on
    progress  takes what is iterated over, the positions of the tokens, and yields it
    """
    slots = [found.slots[n - 1][torch.tensor(on)] for n, on in wanted]
    urls = {}
    for count in sorted({len(kept) for kept in slots}):
        if not count:
            continue  # without slots there is nothing to tell
        chosen = [i for i, kept in enumerate(slots) if len(kept) == count]
        stacked = torch.stack([slots[i] for i in chosen])
        pictures = [generate(model, some, progress) for some in stacked.split(64)]
        for i, picture in zip(chosen, np.concatenate(pictures)):
            urls[picture_key(*wanted[i])] = image_url(picture)
    return urls


@torch.no_grad()
def generate(model: SLATE, slots: Tensor, progress=None) -> np.ndarray:
    """slots (B, K, D) -> pictures (B, H, W, 3) uint8; `progress` as in `pictures_of`."""
    return to_uint8(model.decode_tokens(model.generate_tokens(slots, progress)))


def image_url(image: np.ndarray, format: str = "webp") -> str:
    """Return an image (H, W, 3) uint8 as a data URL; all formats but png lose a little."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, quality=88)
    return f"data:image/{format};base64,{_base64(file.getvalue())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
