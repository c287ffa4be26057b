"""Data sets that are made here, with nothing but the installed packages."""

from paper_lib.data.generators import clevr, photos, shapestacks

__all__ = ["clevr", "photos", "shapestacks"]
