"""Floors and walls for ShapeStacks: small pictures that repeat without a seam, drawn with numpy.

The original's textures are photographs of chipboard, stone plates, mosaic, carpet, planks, parquet,
panels, plaster and brick; these have their colours and their patterns, with less fine detail: what
is smaller than a pixel would only be noise. Each is (SIZE, SIZE, 3), sRGB.
"""

from collections.abc import Callable

import numpy as np

SIZE = 256
_Y, _X = np.mgrid[:SIZE, :SIZE] / SIZE  # of each pixel, in [0, 1)


def picture(draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Return one of FLOORS or WALLS as 8 bits."""
    return np.rint(draw()).astype(np.uint8)


def noise(seed: int, across: int, down: int) -> np.ndarray:
    """Return smooth random values (SIZE, SIZE) in [0, 1]: a grid, interpolated and wrapped."""
    grid = np.random.default_rng(seed).random((down, across))
    x, y = _X * across, _Y * down
    i, j = x.astype(int), y.astype(int)
    u, v = x - i, y - j
    right, below = (i + 1) % across, (j + 1) % down
    upper = (1 - u) * grid[j, i] + u * grid[j, right]
    lower = (1 - u) * grid[below, i] + u * grid[below, right]
    return (1 - v) * upper + v * lower


def bricks(
    seed: int, across: int, down: int, shift: float, gap: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows of bricks, every second row moved by `shift` of a brick.

    Three arrays (SIZE, SIZE): each brick's random tone in [0, 1], its kind (0 to 3), and where the
    joints are; `gap` is the width of a joint, as a share of the picture.
    """
    row = (_Y * down).astype(int)
    along = _X * across + shift * (row % 2)
    column = along.astype(int) % across
    rng = np.random.default_rng(seed)
    tones, kinds = rng.random((down, across)), rng.integers(0, 4, (down, across))
    joint = (along % 1 < gap * across) | (_Y * down % 1 < gap * down)
    return tones[row, column], kinds[row, column], joint


def mix(a, b, share: np.ndarray) -> np.ndarray:
    """Return colours (SIZE, SIZE, 3): `a` (8 bits) where `share` is 0, `b` where it is 1."""
    return np.array(a) + (np.array(b, dtype=float) - a) * share[..., None]


def jointed(joint: np.ndarray, colour: tuple[int, int, int], inside: np.ndarray) -> np.ndarray:
    """Return colours (SIZE, SIZE, 3): `colour` in the joints, `inside` elsewhere."""
    return np.where(joint[..., None], colour, inside)


def chipboard() -> np.ndarray:
    return mix((92, 70, 48), (186, 156, 118), 0.5 * noise(1, 24, 24) + 0.5 * noise(2, 60, 60))


def plates() -> np.ndarray:
    tone, _, joint = bricks(3, 4, 4, 0.0, 0.008)
    stone = mix((112, 112, 112), (136, 136, 136), 0.5 * tone + 0.5 * noise(4, 40, 40))
    return jointed(joint, (172, 172, 172), stone)


def mosaic() -> np.ndarray:
    tone, kind, joint = bricks(5, 4, 4, 0.0, 0.016)
    speckled = mix((60, 58, 45), (205, 200, 165), np.clip(3 * noise(6, 48, 48) - 1, 0, 1))
    colours = np.array([(222, 222, 218), (30, 30, 33), (88, 132, 150), (0, 0, 0)])
    plain = colours[kind] * (0.85 + 0.15 * tone[..., None])
    tiles = np.where((kind == 3)[..., None], speckled, plain)
    return jointed(joint, (24, 24, 24), tiles)


def carpet() -> np.ndarray:
    return mix((98, 74, 68), (150, 122, 114), 0.6 * noise(7, 80, 80) + 0.4 * noise(8, 12, 12))


def planks() -> np.ndarray:
    tone, _, joint = bricks(9, 3, 8, 0.5, 0.006)
    wood = mix((168, 124, 76), (222, 182, 128), 0.6 * tone + 0.4 * noise(10, 6, 90))
    return jointed(joint, (104, 74, 44), wood)


def parquet() -> np.ndarray:
    """Return squares of four staves, lying and standing in turn."""
    lying = ((_X * 6).astype(int) + (_Y * 6).astype(int)) % 2 == 0
    tone, _, joint = bricks(11, 6, 24, 0.0, 0.006)
    tone, joint = np.where(lying, tone, tone.T), np.where(lying, joint, joint.T)
    return jointed(joint, (58, 34, 20), mix((128, 80, 46), (190, 130, 82), tone))


def brickwork() -> np.ndarray:
    tone, _, joint = bricks(12, 6, 16, 0.5, 0.012)
    clay = mix((70, 72, 72), (104, 104, 100), 0.7 * tone + 0.3 * noise(13, 40, 40))
    return jointed(joint, (34, 34, 34), clay)


def plaster() -> np.ndarray:
    return mix((128, 126, 122), (164, 162, 158), 0.6 * noise(14, 9, 9) + 0.4 * noise(15, 36, 36))


def panels() -> np.ndarray:
    tone, _, joint = bricks(16, 2, 4, 0.5, 0.02)
    board = mix((146, 136, 128), (176, 166, 156), 0.5 * tone + 0.5 * noise(17, 10, 10))
    return jointed(joint, (52, 52, 56), board)


FLOORS = (chipboard, plates, mosaic, carpet, planks, parquet)
WALLS = (chipboard, plates, mosaic, panels, plaster, brickwork)
