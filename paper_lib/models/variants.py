"""Table 2: how slot attention's fixed point is found, and how its gradient is estimated.

These are two independent choices, a solver and an adjoint of `paper_lib.fixed_point`. A variant is
a shorthand for a pair of them; a model's config names a variant, and may replace either half of it.
"""

from __future__ import annotations

from paper_lib.fixed_point import (
    Adjoint,
    Anderson,
    Broyden,
    Implicit,
    Iteration,
    Neumann,
    Solver,
    Unrolled,
    check_pair,
)

# n bounds the steps of every solver in the pair. Names as in the paper; the A's are ours.
VARIANTS = {
    "vanilla": lambda n: (Iteration(n), Unrolled()),
    "IB": lambda n: (Iteration(n), Implicit(Broyden(n))),
    "BB": lambda n: (Broyden(n), Implicit(Broyden(n))),
    "IN": lambda n: (Iteration(n), Neumann()),
    "BN": lambda n: (Broyden(n), Neumann()),
    "AA": lambda n: (Anderson(n), Implicit(Anderson(n))),
    "AN": lambda n: (Anderson(n), Neumann()),
}


def variant(name: str, num_iterations: int) -> tuple[Solver, Adjoint]:
    """Return the pair of a row of Table 2. ValueError for an unknown name lists the rows."""
    if not isinstance(name, str) or name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")
    return VARIANTS[name](num_iterations)


def solver_and_adjoint(config) -> tuple[Solver, Adjoint]:
    """Return the pair that a model's config asks for.

    config   has `solver` and `adjoint`, and where one of them is None, `variant` and
             `num_iterations` say what it is

    Raises ValueError for an unknown variant and, with the reason, for a pair that makes no sense;
    TypeError for an object that is no solver or no adjoint.
    """
    solver, adjoint = variant(config.variant, config.num_iterations)
    if config.solver is not None:
        solver = config.solver
    if config.adjoint is not None:
        adjoint = config.adjoint
    check_pair(solver, adjoint)
    return solver, adjoint


def pair_name(config) -> str:
    """Return what people call the pair of a model's config: letters, digits, - and _ alone.

    It is the variant's name, such as "IN"; where the config has a solver or an adjoint of its own,
    it is the names of both, such as "Broyden-Neumann" or "Iteration-Implicit_Anderson".
    """
    if config.solver is None and config.adjoint is None:
        return config.variant
    solver, adjoint = solver_and_adjoint(config)
    name = f"{type(solver).__name__}-{type(adjoint).__name__}"
    if isinstance(adjoint, Implicit):
        name += f"_{type(adjoint.solver).__name__}"
    return name
