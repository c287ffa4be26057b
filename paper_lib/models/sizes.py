"""What the sizes of a model must be."""

from __future__ import annotations

from dataclasses import fields


def check_sizes(config) -> None:
    """Raise ValueError, with the name, for a size in a model's config that is none.

    Every whole number there counts something that there must be one of; a dropout is a share.
    """
    for f in fields(config):
        value = getattr(config, f.name)
        if f.type == "int" and not (type(value) is int and value >= 1):
            raise ValueError(f"{f.name} must be a whole number of at least 1, not {value!r}")
        if f.type == "tuple[int, ...]" and not all(type(v) is int and v >= 1 for v in value):
            raise ValueError(f"{f.name} must be whole numbers of at least 1, not {value!r}")
        if f.name == "dropout" and not 0 <= value < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {value!r}")
