"""The three splits of a data set, and the fixed random orders that they are drawn in.

Rows of a split are in a random order, so that the first so many of them are a fair sample of it.
"""

import numpy as np

SPLITS = ("train", "validation", "test")
VALIDATION_BEGINS, TEST_BEGINS = 0.7, 0.85  # shares of all items: 70, 15 and 15 per cent
HELD_OUT = 5_000  # pictures of a training set, where its authors' validation set serves as test
ORDER_SEED = 0


def check_split(split: str) -> None:
    """Raise ValueError for a name that is not in SPLITS."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


def split_rows(count: int) -> dict[str, range]:
    """Return which of `count` rows each split has: the first 70 per cent, and twice 15."""
    validation, test = round(VALIDATION_BEGINS * count), round(TEST_BEGINS * count)
    return {
        "train": range(validation),
        "validation": range(validation, test),
        "test": range(test, count),
    }


def random_order(count: int) -> np.ndarray:
    """Return a permutation (count,) of the items, which is always the same one."""
    return np.random.default_rng(ORDER_SEED).permutation(count)


def hold_out(count: int, split: str) -> np.ndarray:
    """Return the indices of a training set's `count` pictures that are ours for a split.

    "validation" gets HELD_OUT of them, or a fifth if that is less; "train" gets the others.
    """
    held_out = min(HELD_OUT, count // 5)
    order = random_order(count)
    return order[:held_out] if split == "validation" else order[held_out:]
