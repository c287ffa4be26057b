"""What a run is: the identity of a config, and the run id that is made of it.

The run id ends in a hash of what the config says beyond the defaults, and of the data's version.
Figures that ask for the same run share it, and a new field with a default leaves finished runs
where they are. (So a default, once there are results, is for ever: a new value is a new field or an
explicit setting.)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any


def identity(config) -> dict[str, Any]:
    """Return what of a config differs from the defaults: what its hash is taken of.

    The kind of a run and the version of its data are always part of it. A solver or an adjoint is
    named by its type. A field marked "beside" (the learning rate) is hashed one level up, so that
    ids from before it moved stay, and left out where it is what a run of this kind has by default.

    Raises TypeError for a solver or an adjoint that is no dataclass, and so cannot be told apart
    from another.
    """
    content = {"kind": config.kind} if hasattr(config, "kind") else {}
    if hasattr(config, "version"):
        content["version"] = config.version
    for f in fields(config):
        value, default = getattr(config, f.name), _default(f)
        if f.metadata.get("identified") == "beside":
            continue
        if _is_rule(value):
            content[f.name] = _rule(value)
        elif value and isinstance(value, tuple) and all(map(_is_rule, value)):
            content[f.name] = [_rule(one) for one in value]
        elif is_dataclass(value):
            inner = identity(value)
            if inner or default is None:
                content[f.name] = inner
            content |= _beside(value, default)
        elif value != default:
            content[f.name] = value
    return content


def run_id(config) -> str:
    """Return an id such as slate-IN-seed0-1f2e3d4c5b: words for people, a hash to be unique."""
    text = json.dumps(identity(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    words = [config.kind, config.method, f"seed{config.seed}", digest]
    return "-".join(word for word in words if word)


def described(config) -> Any:
    """Return a config as what JSON can hold, whole, for people to read."""
    if _is_rule(config):
        return _rule(config)
    if is_dataclass(config):
        return {f.name: described(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, tuple):
        return [described(one) for one in config]
    return config


def _default(f: Field) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _beside(value, default) -> dict[str, Any]:
    """Return the fields of an inner config that are identified beside it."""
    marked = [f.name for f in fields(value) if f.metadata.get("identified") == "beside"]
    differ = [name for name in marked if getattr(value, name) != getattr(default, name)]
    return {name: getattr(value, name) for name in differ}


def _is_rule(value) -> bool:
    """Whether a value is a solver or an adjoint: a choice by type, not only by its numbers."""
    return any(hasattr(value, method) for method in ("solve", "check", "solve_linear"))


def _rule(value) -> dict[str, Any]:
    if not is_dataclass(value):
        raise TypeError(
            f"{type(value).__name__} is no dataclass: a run is told apart by what its config says, "
            "so make the solver or adjoint a frozen dataclass"
        )
    settings = {f.name: getattr(value, f.name) for f in fields(value)}
    inner = {name: _rule(v) if _is_rule(v) else v for name, v in settings.items()}
    return {"type": type(value).__name__, **inner}
