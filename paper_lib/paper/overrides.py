"""Changing a config by dotted names: {"training.steps": 500, "model.num_slots": 5}."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from paper_lib import fixed_point


def override(config, changes: dict):
    """Return a copy of a config with the fields that are named by dotted path changed.

    A solver or an adjoint can be given as an object, or as what JSON and YAML can say:
    {"model.solver": {"type": "Broyden", "max_steps": 30}}. Raises ValueError for a name that does
    not exist.
    """
    for path, value in changes.items():
        config = _with(config, path.split("."), value, path)
    return config


def dotted(changes: dict) -> dict:
    """Turn keyword arguments into dotted paths: model__num_slots=5 -> {"model.num_slots": 5}."""
    return {name.replace("__", "."): value for name, value in changes.items()}


def _with(config, names: list[str], value, path: str):
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if names[0] not in known:
        raise ValueError(
            f"override {path!r}: {type(config).__name__} has no field {names[0]!r}; it has "
            f"{', '.join(known) or 'none'}"
        )
    if len(names) > 1:
        value = _with(getattr(config, names[0]), names[1:], value, path)
    elif isinstance(value, dict):
        value = _rule(value, path)
    return replace(config, **{names[0]: value})


def _rule(description: dict, path: str):
    """Build a solver or an adjoint from a dict of its type and its settings."""
    settings = dict(description)
    kind = settings.pop("type", None)
    known = [name for name in fixed_point.__all__ if name[0].isupper()]
    if kind not in known:
        raise ValueError(
            f"override {path!r}: a solver or an adjoint needs a type, one of {', '.join(known)}; "
            f"got {description!r}"
        )
    inner = {k: _rule(v, path) if isinstance(v, dict) else v for k, v in settings.items()}
    try:
        return getattr(fixed_point, kind)(**inner)
    except TypeError as error:
        raise ValueError(f"override {path!r}: {error}") from error
