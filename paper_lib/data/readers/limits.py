"""Limits on the number of objects in a scene."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How many objects the scenes have that are kept; None for no limit."""

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
        """The limits that are given."""
        return {name: limit for name, limit in vars(self).items() if limit is not None}

    @property
    def folder(self) -> str:
        """What a cache's folder is called beside those of other limits, such as -0to6objects."""
        return f"-{self._range('to', 'any')}objects" if self.settings else ""

    def __str__(self) -> str:
        return f" with {self._range(' to ', 'any number of')} objects" if self.settings else ""

    def _range(self, to: str, no_limit: str) -> str:
        least = 0 if self.min_objects is None else self.min_objects
        most = no_limit if self.max_objects is None else self.max_objects
        return f"{least}{to}{most}"
