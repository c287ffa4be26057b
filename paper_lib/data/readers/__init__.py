"""The authors' files, in the layouts in which they are distributed."""

from paper_lib.data.readers import clevr, clevr_with_masks, coco, shapestacks

__all__ = ["clevr", "clevr_with_masks", "coco", "shapestacks"]
