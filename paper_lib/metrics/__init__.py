"""Measures of reconstructions, masks and predicted properties. They know no model."""

from paper_lib.metrics.frechet import frechet_distance
from paper_lib.metrics.segmentation import (
    adjusted_rand_index,
    foreground_ari,
    grid_segments,
    ignorant_scores,
    largest_share,
    mask_scores,
    mean_iou,
    random_segments,
    segments,
)
from paper_lib.metrics.set_matching import (
    average_precision,
    hungarian_huber_loss,
    matched_attributes,
)

__all__ = [
    "adjusted_rand_index",
    "average_precision",
    "foreground_ari",
    "frechet_distance",
    "grid_segments",
    "hungarian_huber_loss",
    "ignorant_scores",
    "largest_share",
    "mask_scores",
    "matched_attributes",
    "mean_iou",
    "random_segments",
    "segments",
]
