"""Changing a config by dotted names: {"training.steps": 500, "model.num_slots": 5}."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

from paper_lib import fixed_point
from paper_lib.fixed_point import Adjoint, Solver


def override(config, changes: dict):
    """Return a copy of a config with the fields that are named by dotted path changed.

    A solver or an adjoint can be given as an object, or as what JSON and YAML can say:
    {"model.solver": {"type": "Broyden", "max_steps": 30}}. Raises ValueError for a name that does
    not exist.
    """
    tree: dict = {}
    for path, value in changes.items():
        *parents, name = path.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, _Branch())
            if not isinstance(branch, _Branch):
                raise ValueError(f"override {path!r}: {parent!r} is given as a whole, too")
        branch[name] = value
    return _with(config, tree, "")


class _Branch(dict):
    """Changes below a name, in contrast to a dict that is a value."""


def dotted(changes: dict) -> dict:
    """Turn keyword arguments into dotted paths: model__num_slots=5 -> {"model.num_slots": 5}."""
    return {name.replace("__", "."): value for name, value in changes.items()}


def _with(config, changes: dict, prefix: str):
    """Return a copy of a config with all changes made at once, since one alone may make no sense,
    such as a solver without the adjoint that goes with it."""
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    values = {}
    for name, value in changes.items():
        path = prefix + name
        if name not in known:
            raise ValueError(
                f"override {_whole(path, value)!r}: {type(config).__name__} has no field {name!r}; "
                f"it has {', '.join(known) or 'none'}"
            )
        if isinstance(value, _Branch):
            value = _with(getattr(config, name), value, f"{path}.")
        elif isinstance(value, dict):
            value = _rule(value, path)
        else:
            value = _typed(value, get_type_hints(type(config))[name], path)
        values[name] = value
    return replace(config, **values)


def _typed(value, hint, path: str):
    """Return a value as a field of this type holds it. Raises ValueError for another type.

    A whole number will do where a number is asked for, and a list where a tuple is, as YAML has no
    tuples.
    """
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for kind in kinds:
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(_typed(part, get_args(kind)[0], path) for part in value)
        if kind is float and type(value) in (int, float):
            return value
        if kind in (int, bool, str) and type(value) is kind:
            return value
        if kind in (Solver, Adjoint) and (hasattr(value, "solve") or hasattr(value, "check")):
            return value  # whether the two go together is for the model to say
        if (is_dataclass(kind) or kind is NoneType) and isinstance(value, kind):
            return value
    wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
    raise ValueError(f"override {path!r} must be of type {wanted}, and {value!r} is none")


def _whole(path: str, value) -> str:
    """Return the path that somebody wrote, of which `path` is the part up to an unknown name."""
    while isinstance(value, _Branch):
        name, value = next(iter(value.items()))
        path = f"{path}.{name}"
    return path


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
    except (TypeError, ValueError) as error:
        raise ValueError(f"override {path!r}: {error}") from error
