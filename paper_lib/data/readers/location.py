"""Where the authors' files are."""

import os
import tomllib
from pathlib import Path

from paper_lib.data.readers import clevr, clevr_with_masks, coco, shapestacks

CONFIG = Path(__file__).resolve().parents[3] / "data.toml"
EXPECTED = 'Mend or delete it: a table [files] has lines such as coco = "/data/coco"'
LAYOUTS = {  # how each data set's files should lie
    "clevr_mirror": clevr.MIRROR_LAYOUT,
    "clevr": clevr.CLEVR_LAYOUT,
    "clevr_with_masks": clevr_with_masks.LAYOUT,
    "shapestacks": shapestacks.LAYOUT,
    "coco": coco.LAYOUT,
}


def find(name: str, argument: str | os.PathLike | None = None) -> Path | None:
    """Return the folder of a data set's files, or None where no setting names one. The first of:

    1. `argument`, the data set's own folder
    2. the environment variable PAPER_FILES, a folder of data sets: PAPER_FILES/<name>, if it exists
    3. data.toml in the repository root, with a table `[files]` of lines such as
       coco = "/data/coco"; relative to the repository

    Raises ValueError where a setting names a folder that does not exist.
    """
    if argument is not None:
        return _existing(Path(argument).expanduser(), "the argument", name)
    if collection := os.environ.get("PAPER_FILES"):
        setting = "the environment variable PAPER_FILES"
        folder = _existing(Path(collection).expanduser(), setting, name) / name
        if folder.is_dir():
            return folder
    configured = _config().get(name)
    if configured is None:
        return None
    folder = CONFIG.parent / Path(configured).expanduser()
    return _existing(folder, f"[files] {name} in {CONFIG}", name)


def _existing(folder: Path, setting: str, name: str) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{setting} names {folder}, which is not a folder.\n{LAYOUTS[name]}")
    return folder


def _config() -> dict[str, str]:
    """Return the table `[files]` of data.toml: data set -> folder."""
    if not CONFIG.exists():
        return {}
    try:
        table = tomllib.loads(CONFIG.read_bytes().decode()).get("files", {})
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{CONFIG} is not TOML: {error}. {EXPECTED}") from None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise ValueError(f"{CONFIG}: [files] is {table!r}. {EXPECTED}")
    if unknown := sorted(set(table) - set(LAYOUTS)):
        raise ValueError(
            f"{CONFIG}: [files] knows {', '.join(LAYOUTS)}, not {', '.join(unknown)}. {EXPECTED}"
        )
    return table
