"""Limits on the number of objects in a scene."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Scenes with fewer or more objects are left out; None sets no limit."""

    min_objects: int | None = None
    max_objects: int | None = None

    def __post_init__(self):
        if None not in (self.min_objects, self.max_objects) and self.min_objects > self.max_objects:
            raise ValueError(
                f"need min_objects <= max_objects, got {self.min_objects} and {self.max_objects}"
            )

    def keep(self, counts):
        """Return whether a scene with so many objects is kept; bools for an array of counts."""
        least = 0 if self.min_objects is None else self.min_objects
        most = float("inf") if self.max_objects is None else self.max_objects
        return (counts >= least) & (counts <= most)

    @property
    def settings(self) -> dict[str, int]:
        """Return the limits that are given."""
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    @property
    def folder(self) -> str:
        """Return what a cache's folder has in its name for them, such as -0to6objects."""
        return f"-{self._range('to', 'any')}objects" if self.settings else ""

    def __str__(self) -> str:
        return f" with {self._range(' to ', 'any number of')} objects" if self.settings else ""

    def _range(self, to: str, no_limit: str) -> str:
        least = 0 if self.min_objects is None else self.min_objects
        most = no_limit if self.max_objects is None else self.max_objects
        return f"{least}{to}{most}"
