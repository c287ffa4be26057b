"""A pinhole camera for square images."""

import functools
from dataclasses import dataclass, replace

import numpy as np

VIEWS = ("wide", "close")  # close: larger objects, which small pictures need


def check_view(view: str) -> None:
    """Raise ValueError for a name that is not in VIEWS."""
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; known: {', '.join(VIEWS)}")


@dataclass(frozen=True)
class Camera:
    """A camera stands at `origin` and looks at `target`, with +z upwards.

    origin, target  points in world units; the target is seen in the middle of the image's width
    field_of_view   angle that the whole width spans, in degrees
    principal_y     how far down the target is seen, from 0 at the top of the image to 1
    """

    origin: tuple[float, float, float]
    target: tuple[float, float, float]
    field_of_view: float
    principal_y: float = 0.5

    def cropped(self, height: int, top: int, side: int) -> "Camera":
        """Return the camera that sees a square of this one's picture, in the middle of its width.

        The picture is `height` pixels high; the square begins at row `top` and has this `side`.
        """
        half_width = np.tan(np.radians(self.field_of_view) / 2) * side / height
        return replace(
            self,
            field_of_view=float(2 * np.degrees(np.arctan(half_width))),
            principal_y=(self.principal_y * height - top) / side,
        )

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where world points (..., 3) are seen, (..., 2), and their depth (...).

        Image points go right and down, from (0, 0) to (1, 1); depth is along the view.
        """
        x, y, depth = np.moveaxis((np.asarray(points) - self.origin) @ self.axes.T, -1, 0)
        offset = np.stack([x, y], axis=-1) / depth[..., None] * self.focal_length
        return (0.5, self.principal_y) + offset, depth

    @functools.cached_property
    def axes(self) -> np.ndarray:
        """Return unit vectors (3, 3): right, down and forward."""
        forward = np.array(self.target) - np.array(self.origin)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return np.stack([right, -np.cross(right, forward), forward])

    @property
    def focal_length(self) -> float:
        """Return the focal length, in image widths."""
        return 0.5 / np.tan(np.radians(self.field_of_view) / 2)
