"""Arguments of command lines, checked where they are parsed."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Return a whole number of at least 1. Raises what argparse says with the option's name."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:10]) < 2**31 and len(text) <= 10):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
