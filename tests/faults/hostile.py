"""Hostile files: made to execute code, to write elsewhere, or to fill the memory.

Whoever reads them is to refuse them: nothing is executed, nothing is written outside of the folders
that are meant for it, and the memory does not grow by more than `MOST_MEMORY`.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import test_data_files as trees
import torch

from faults.fault import HARMLESS, REFUSED, Fault
from faults.rot import Noise, replaced
from paper_lib.data.generators import recipe
from paper_lib.data.readers import clevr_with_masks
from paper_lib.fixed_point import Iteration, Unrolled
from paper_lib.runs import RunResult, checksums

MOST_MEMORY = 2**29  # bytes; the largest of these files claims 2**63


class Payload:
    """What a pickle would execute: it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def run_faults(run: RunResult, folder: Path) -> Iterator[Fault]:
    """Yield hostile files in place of those of a run without checksums, as a stranger's."""
    copy = folder / run.folder.name
    shutil.copytree(run.folder, copy)
    (copy / checksums.NAME).unlink()
    run = replace(run, folder=copy)
    executed = folder / "executed"
    pickled = pickle.dumps(Payload(executed))
    torch_file, objects = io.BytesIO(), io.BytesIO()
    torch.save({"model": Payload(executed)}, torch_file)
    np.savez(objects, image=np.array([Payload(executed)], dtype=object))
    contents = {
        "a pickle": pickled,
        "a pickle of torch": torch_file.getvalue(),
        "an archive of objects": objects.getvalue(),
        "an archive of gigantic arrays": zipped({"image.npy": npy_header((10**12,))}),
        "an archive that unpacks to 1.1 GB": zipped({"image.npy": npy_header((2**30,))}, 2**30),
        "an archive that leads elsewhere": zipped({f"../{'../' * 20}tmp/x.npy": npy_header((0,))}),
        "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
        "a header of 99 MB": struct.pack("<Q", 99_000_000) + b"{}",
        "a tensor of 2^60 numbers": safetensors({"w": ([2**60], [0, 2**62])}),
        "tensors that overlap": safetensors({"a": ([1], [0, 4]), "b": ([1], [0, 4])}),
        "JSON nested a million times": b"[" * 10**6,
        "objects nested 100,000 times": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
        "a number of a million digits": b'{"status": "finished", "final": 1' + b"0" * 10**6 + b"}",
        "another's file by its name": json.dumps({"../../../etc/passwd": "0" * 64}).encode(),
        "a line of 70 MB": b"step\n" + b"1" * (70 * 2**20) + b"\n",
    }
    for path in sorted(copy.iterdir()) + [copy / checksums.NAME]:
        for what, content in contents.items():

            def meet(path=path, content=content) -> str:
                def read() -> None:
                    found = RunResult.load(run.config, run.folder)
                    _ = found.metrics, found.samples, found.weights
                    found.cell(Iteration(3), Unrolled())

                return _meet(path, content, read, executed)

            yield Fault("hostile file of a run", f"{what} as {path.name}", meet)


def data_faults(folder: Path) -> Iterator[Fault]:
    """Yield hostile files in place of a data set's arrays."""
    made, executed = Noise(seed=0), folder / "executed"
    recipe.load(folder, made, "train", workers=1)
    objects = io.BytesIO()
    np.save(objects, np.array([Payload(executed)] * 20, dtype=object), allow_pickle=True)
    contents = {
        "an array of objects": objects.getvalue(),
        "a pickle": pickle.dumps(Payload(executed)),
        "an array of 10^12 rows": npy_header((10**12, 8, 8, 3)),
        "an array of 2^62 rows": npy_header((2**62,)),
        "a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b" " * 100,
        "a header that is a program": npy_header("__import__('os').system('true')"),
        "JSON nested a million times": b"[" * 10**6,
    }
    for path in sorted((folder / made.folder).iterdir()):
        for what, content in contents.items():

            def meet(path=path, content=content) -> str:
                read = lambda: recipe.load(folder, made, "train", workers=1)  # noqa: E731
                return _meet(path, content, read, executed)

            yield Fault("hostile file of a data set", f"{what} as {path.name}", meet)


def layout_faults(folder: Path) -> Iterator[Fault]:
    """Yield hostile files among the authors'."""
    executed = folder / "executed"
    secret = folder / "outside" / "rgb-w=1-cam_1-mono-0.png"
    trees.picture(secret)
    pictures = {
        "a picture of 10^9 pixels": png(31_623, 31_623),
        "a picture of 10^10 pixels": png(100_000, 100_000),
        "a picture of no pixels": png(0, 0),
        "a program for Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 32\n"
        + f"({executed}) (w) file closefile\n".encode(),
        "a pickle": pickle.dumps(Payload(executed)),
    }
    texts = {
        "JSON nested a million times": b"[" * 10**6,
        "objects nested 100,000 times": b'{"a":' * 10**5,
        "a pickle": pickle.dumps(Payload(executed)),
        "names that lead elsewhere": b"",  # replaced below, as each layout names files in its way
        "a number of a million digits": b'{"scenes": 1' + b"0" * 10**6 + b"}",
    }
    names = {
        "clevr": {"scenes": [{"image_filename": "../../../outside/x.png", **trees.scene(0)}]},
        "coco": {
            "images": [{"id": 1, "file_name": "../../outside/x.png", "width": 48, "height": 32}],
            "annotations": [],
        },
        "shapestacks": "../../outside\n",
        "clevr_mirror": {"image_filename": "../x.png", "objects": "../../x"},
    }
    places = {
        "clevr_mirror": ("images/CLEVR_new_3.png", "scenes/CLEVR_new_3.json"),
        "clevr": ("images/train/CLEVR_train_000001.png", "scenes/CLEVR_train_scenes.json"),
        "shapestacks": ("recordings/*h=2*train/*cam_1-*.*", "splits/default/train.txt"),
        "coco": ("train2017/000000000007.jpg", "annotations/instances_train2017.json"),
    }
    for name, (picture, text) in places.items():
        make, load, _ = trees.TREES[name]
        root = make(folder / name)
        named = names[name] if isinstance(names[name], str) else json.dumps(names[name])
        tried = [(path, pictures) for path in root.glob(picture) if "vseg" not in path.name]
        tried += [(root / text, texts | {"names that lead elsewhere": named.encode()})]
        if name == "coco":
            tried.append((root / text, {w: labels(root / text, s) for w, s in SHAPES.items()}))
        if name.startswith("clevr"):
            places_of = {w: placed(root / text, place) for w, place in POSITIONS.items()}
            tried.append((root / text, places_of))
        for path, contents in tried:
            for what, content in contents.items():

                def meet(path=path, content=content, root=root, load=load) -> str:
                    def read() -> None:
                        shutil.rmtree(folder / "cache", ignore_errors=True)
                        for split in ("train", "validation"):
                            load(root, split, 8, folder / "cache", workers=1)

                    return _meet(path, content, read, executed)

                yield Fault("hostile file of the authors'", f"{what} as {path.name}", meet)


SHAPES = {  # of an instance, hostile to who draws it
    "a polygon beyond all bounds": [[0, 0, 1e9, 0, 1e9, 1e9]],
    "a polygon that is not a number": [[0, 0, float("nan"), 0, 9, 9]],
    "a polygon of one point": [[1, 1]],
    "no polygon": [],
    "run lengths of 10^10 pixels": {"counts": "PPP", "size": [100_000, 100_000]},
    "run lengths beyond the picture": {"counts": [0, 10**9], "size": [32, 48]},
    "negative run lengths": {"counts": [-5, 10], "size": [32, 48]},
    "compressed run lengths of noise": {"counts": "\x7f~}zzz" * 1_000, "size": [32, 48]},
}


POSITIONS = {  # of an object
    "a position that is not a number": [float("nan"), 0, 0],
    "an infinite position": [0, float("-inf"), 0],
    "a position of one number": [1],
    "a position of words": ["here", "and", "there"],
}


def placed(path: Path, position: list) -> bytes:
    """Return CLEVR's scenes, or one of them, with an object's position exchanged."""
    content = json.loads(path.read_bytes())
    scene = content["scenes"][0] if "scenes" in content else content
    scene["objects"][0]["3d_coords"] = position
    return json.dumps(content).encode()


def labels(path: Path, shape) -> bytes:
    """Return COCO's annotations with one shape exchanged."""
    content = json.loads(path.read_bytes())
    content["annotations"][0]["segmentation"] = shape
    return json.dumps(content).encode()


def record_faults(folder: Path) -> Iterator[Fault]:
    """Yield hostile TFRecord files."""
    length = lambda n: struct.pack("<Q", n) + bytes(4)  # noqa: E731
    contents = {
        "a record of 2^63 bytes": gzip.compress(length(2**63) + b"x" * 100),
        "a record of 16 MB that is not there": gzip.compress(length(2**24) + b"x" * 100),
        "a gigabyte of zeros": gzip.compress(bytes(2**26)) * 16,
        "a field of 2^60 bytes": gzip.compress(framed(b"\x0a" + b"\xff" * 8 + b"\x7f")),
        "a number without end": gzip.compress(framed(b"\x0a" + b"\xff" * 10**6)),
        "nested fields": gzip.compress(framed(b"\x0a\x7f" * 5_000)),
        "a pickle": pickle.dumps(Payload(folder / "executed")),
    }
    path = folder / "tree" / clevr_with_masks.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    for what, content in contents.items():

        def meet(content=content) -> str:
            def read() -> None:
                shutil.rmtree(folder / "cache", ignore_errors=True)
                clevr_with_masks.load(path.parent, "train", 8, folder / "cache", workers=1)

            return _meet(path, content, read, folder / "executed")

        yield Fault("hostile TFRecord", what, meet)


def _meet(path: Path, content: bytes, read: Callable, executed: Path) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outside = _around(path)
    outcome = REFUSED
    with replaced(path, content):
        try:
            read()
            outcome = HARMLESS
        except (ValueError, FileNotFoundError) as error:
            assert path.name in str(error) or path.parent.name in str(error), f"unnamed: {error}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_MEMORY, f"the memory grew by {grown:,} bytes"
    assert not executed.exists(), "it was executed"
    assert _around(path) == outside, "something was written beside the folder"
    return outcome


def _around(path: Path) -> set[str]:
    """Return what lies in the folders above a file."""
    above = (path.parent.parent, path.parent.parent.parent)
    return {str(found) for folder in above for found in folder.iterdir() if found.name != "cache"}


MAKERS = (data_faults, layout_faults, record_faults)


# ---- files, made by hand ----


def npy_header(shape) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(members: dict[str, bytes], zeros: int = 0) -> bytes:
    """Return a zip archive of these members, each followed by so many zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(zeros // 2**24):
                    member.write(bytes(2**24))
    return file.getvalue()


def safetensors(tensors: dict) -> bytes:
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": at}
        for name, (shape, at) in tensors.items()
    }
    text = json.dumps(header | {"__metadata__": {"info": "{}"}}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


def png(width: int, height: int) -> bytes:
    """Return a PNG of any size in a few bytes; most of its rows are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def framed(record: bytes) -> bytes:
    return struct.pack("<Q", len(record)) + bytes(4) + record + bytes(4)
