"""Pictures of slots: what is white, what is the image, and what colour stands around it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from paper_lib.paper import plots, styles
from paper_lib.paper.pictures import (
    BLACK,
    bordered,
    coloured,
    draw_decomposition,
    draw_predictions,
    draw_row,
    draw_scene,
    evenly_ahead,
    slot_tiles,
    with_large_objects,
    words,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape, dtype=np.uint8)


@pytest.fixture
def axes():
    fig, ax = plots.figure(2, 1)
    yield ax
    plt.close(fig)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_slot_shows_the_image_where_it_attends(kind):
    """Tokens in rows: with two by two of them on 8 x 8 pixels each is a quarter."""
    image, attn = noise(8, 8, 3), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], kind)
    tiles = slot_tiles(image, attn)
    assert tiles.shape == (3, 8, 8, 3) and tiles.dtype == np.uint8
    held = np.zeros((3, 8, 8), bool)
    held[0, :4, :4] = held[1, :4, 4:] = held[2, 4:, :4] = held[1, 4:, 4:] = True
    for tile, mask in zip(tiles, held):
        np.testing.assert_array_equal(tile[mask], image[mask])
        assert (tile[~mask] == 255).all() and mask.any() and not mask.all()


def test_in_between_it_is_paler():
    image, attn = noise(4, 4, 3), np.array([[0.25, 0.75]])
    tiles = slot_tiles(image, attn).astype(float)
    np.testing.assert_allclose(tiles[0], 0.25 * image + 0.75 * 255, atol=0.5)
    np.testing.assert_allclose(tiles[1], 0.75 * image + 0.25 * 255, atol=0.5)


def test_what_the_slots_share_out_is_the_image():
    """Masks sum to one over the slots, so that what the tiles take from white adds up to what the
    image does."""
    image, attn = noise(8, 8, 3), np.random.default_rng(1).dirichlet([1, 1, 1], 16)
    taken = (255 - slot_tiles(image, attn).astype(int)).sum(0)
    np.testing.assert_allclose(taken, 255 - image.astype(int), atol=1.5)


@pytest.mark.parametrize("side, width", [(8, 1), (32, 1), (64, 2), (96, 3)])
def test_a_frame_is_of_its_colour_and_leaves_the_picture_alone(side, width):
    tiles = noise(2, side, side, 3)
    framed = bordered(tiles, "#1f4e9c")
    assert framed.shape == (2, side + 2 * width, side + 2 * width, 3) and framed.dtype == np.uint8
    inner = np.zeros(framed.shape[1:3], bool)
    inner[width : width + side, width : width + side] = True
    for tile, picture in zip(framed, tiles):
        np.testing.assert_array_equal(tile[inner].reshape(side, side, 3), picture)
        assert (tile[~inner] == [0x1F, 0x4E, 0x9C]).all()


@pytest.mark.parametrize("count, shown", [(None, 5), (3, 3), (9, 5)])
def test_a_row_of_pictures(axes, count, shown):
    images = noise(5, 8, 8, 3)
    draw_row(axes[0], images, "its title", count)
    (drawn,) = axes[0].images
    strip = np.asarray(drawn.get_array()).reshape(8, shown, 9, 3).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(strip[:, :, :8], images[:shown])
    assert (strip[:, :, 8] == 255).all() and axes[0].get_ylabel() == "its title"
    draw_row(axes[1], None, "nothing")
    assert not axes[1].images and axes[1].get_ylabel() == "nothing"


# ---------------------------------------------------------------- a scene


def samples(seed, scenes=2, slots=3):
    """As `RunResult.samples`: each slot holds the whole of an image like no other picture."""
    attn = np.zeros((scenes, 4, slots), np.float16)
    attn[:, :, 0] = 1
    pictures = {"attn": attn}
    for k, kind in enumerate(("image", "dvae", "reconstruction")):
        pictures[kind] = noise(scenes, 8, 8, 3, seed=10 * seed + k)
    return pictures


def tiles_of(ax):
    """The pictures of a row, without their frames, and the colours of these.

    They stand side by side, a column of white after each.
    """
    (drawn,) = ax.images
    strip = np.asarray(drawn.get_array())
    assert strip.shape[0] == 10 and strip.shape[1] % 11 == 0
    framed = strip.reshape(10, -1, 11, 3).transpose(1, 0, 2, 3)[:, :, :10]
    return framed[:, 1:-1, 1:-1], [tuple(tile[0, 0]) for tile in framed]


def rgb(colour):
    return tuple(round(255 * c) for c in to_rgb(colour))


def test_a_scene(axes):
    pictures = {"IN, seed 1": samples(1), "vanilla": samples(2)}
    draw_scene(axes, pictures, 1, {"IN, seed 1": "implicit", "vanilla": "the other"})
    rows = [tiles_of(ax) for ax in axes]
    # scene, dVAE; reconstruction, slots
    assert [len(tiles) for tiles, _ in rows] == [2 + 1 + 3] * 2
    for (tiles, colours), (method, given) in zip(rows, pictures.items()):
        np.testing.assert_array_equal(tiles[2], given["reconstruction"][1])
        np.testing.assert_array_equal(tiles[3], given["image"][1])
        assert (tiles[4:] == 255).all(), "slots that hold nothing"
        assert set(colours[2:]) == {rgb(styles.colour(method.split(",")[0]))}
    for tiles, colours in rows:  # the scene and the dVAE are the same for all
        np.testing.assert_array_equal(tiles[0], pictures["IN, seed 1"]["image"][1])
        np.testing.assert_array_equal(tiles[1], pictures["IN, seed 1"]["dvae"][1])
        assert colours[:2] == [rgb(BLACK)] * 2
    words = [label.get_text() for label in axes[0].get_xticklabels()]
    assert words == ["scene", "dVAE", "from slots", "slot 1", "slot 2", "slot 3"]
    assert not len(axes[1].get_xticks()), "once is enough"
    assert [ax.get_ylabel() for ax in axes] == ["implicit", "the other"]


def test_a_run_without_pictures_leaves_its_row_empty(axes):
    draw_scene(
        axes, {"IN": samples(1), "vanilla": {}}, 0, {"IN": "implicit", "vanilla": "diverged"}
    )
    assert len(axes[0].images) == 1 and not axes[1].images and axes[1].get_ylabel() == "diverged"


@pytest.mark.parametrize("draw", [draw_scene, draw_decomposition])
def test_a_scene_of_which_no_picture_is_kept(axes, draw):
    kept = len(samples(1)["image"])
    said = f"scenes: a picture of scene {kept + 1} is asked for, and the run keeps {kept}; ask"
    with pytest.raises(ValueError, match=said):
        draw(axes, {"vanilla": {}, "IN": samples(1)}, kept, {"vanilla": "", "IN": ""})
    with pytest.raises(ValueError, match=said):
        draw_predictions(axes, samples(1), kept, "", BLACK)


def test_many_slots_are_all_shown(axes):
    draw_scene(axes[:1], {"BN": samples(1, slots=15)}, 0, {"BN": ""})
    assert len(tiles_of(axes[0])[0]) == 2 + 1 + 15


# ---------------------------------------------------------------- Locatello et al.'s models


def properties(size=0, material=0, shape=0, colour=0, confidence=1.0):
    row = np.zeros(19, np.float32)
    row[[3 + size, 5 + material, 7 + shape, 10 + colour]] = 1
    row[18] = confidence
    return row


def test_properties_in_words():
    assert words(properties()) == "large gray\nrubber cube"
    assert words(properties(1, 1, 2, 7)) == "small yellow\nmetal cylinder"
    assert words(0.2 + 0.5 * properties(1, 0, 1, 1)) == "small red\nrubber sphere", (
        "the most likely"
    )


def test_every_segment_has_a_colour_of_its_own():
    picture = coloured(np.array([[0, 1], [2, 7]]))
    assert picture.shape == (2, 2, 3) and picture.dtype == np.uint8
    assert len({tuple(pixel) for pixel in picture.reshape(-1, 3)}) == 4
    assert (picture[0, 0] == picture[0, 0, 0]).all(), "grey for the background"


def autoencoder_samples(n=2, slots=3, size=8):
    masks = np.zeros((n, slots, size, size), np.uint8)
    masks[:, 0], masks[:, 1, :4], masks[:, 0, :4] = 255, 255, 0
    pictures = {
        "image": noise(n, size, size, 3),
        "reconstruction": noise(n, size, size, 3, seed=1),
        "components": noise(n, slots, size, size, 3, seed=2),
    }
    return pictures | {"masks": masks, "true_masks": np.ones((n, size, size), np.uint8)}


def test_a_decomposition_shows_components_under_their_masks():
    samples = {"vanilla": {}, "IN": autoencoder_samples()}
    fig, axes = plt.subplots(2, 1)
    draw_decomposition(axes, samples, 1, {"vanilla": "v", "IN": "i"})
    assert not axes[0].images, "a run without pictures leaves its row empty"
    (row,) = axes[1].images
    tiles = np.split(row.get_array(), 7, axis=1)  # scene, true masks, reconstruction, masks, slots
    pictures = samples["IN"]
    np.testing.assert_array_equal(tiles[0][1:-1, 1:-2], pictures["image"][1])
    np.testing.assert_array_equal(tiles[1][1:-1, 1:-2], coloured(pictures["true_masks"][1]))
    np.testing.assert_array_equal(tiles[2][1:-1, 1:-2], pictures["reconstruction"][1])
    np.testing.assert_array_equal(tiles[4][5:-1, 1:-2], pictures["components"][1, 0, 4:])
    np.testing.assert_array_equal(tiles[5][1:5, 1:-2], pictures["components"][1, 1, :4])
    # white where a slot holds nothing
    assert (tiles[4][1:5, 1:-2] == 255).all()
    assert (tiles[6][1:-1, 1:-2] == 255).all()
    plt.close(fig)


def test_predictions_say_what_each_slot_sees():
    predictions = np.stack([properties(colour=1), properties(1, confidence=0.2)])[None]
    pictures = {
        "image": noise(1, 8, 8, 3),
        "predictions": predictions,
        "targets": np.stack([properties(colour=1), properties(confidence=0)])[None],
        "attn": np.full((1, 4, 2), 0.5, np.float16),
    }
    fig, axes = plt.subplots(2, 3)
    draw_predictions(axes[0], pictures, 0, "implicit", "#1f4e9c")
    draw_predictions(axes[1], {}, 0, "vanilla", "#d62728")
    assert [ax.get_title() for ax in axes[0]] == ["", "large red\nrubber cube", "nothing"]
    assert axes[0, 0].get_xlabel() == "large red rubber cube", "the objects that are present"
    # a run without pictures leaves its row empty
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 0, 0, 0]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["implicit", "vanilla"]
    plt.close(fig)


def test_scenes_with_most_large_objects_come_first():
    large, small, absent = properties(size=0), properties(size=1), properties(confidence=0)
    targets = np.stack([[small, large, absent], [large, large, absent], [small, small, large]])
    assert with_large_objects({"targets": targets}, 2) == [1, 0]
    assert with_large_objects({}, 2) == [0, 1]


def test_scenes_are_spread_evenly_by_how_far_one_model_is_ahead():
    ahead = np.array([0.1, -0.3, 0.4, 0.0, 0.2, -0.1, 0.5, 0.3])
    others = np.linspace(0, 1, 8)
    chosen = evenly_ahead(others + ahead, others, 4)
    assert [float(ahead[k]) for k in chosen] == [0.4, 0.2, 0.0, -0.3]
    assert evenly_ahead(others + ahead, others, 1) == [0]  # the median
    everything = evenly_ahead(others + ahead, others, 8)
    assert sorted(everything) == list(range(8)) and everything[0] == 6
    assert evenly_ahead((), (), 3) == [0, 1, 2]
