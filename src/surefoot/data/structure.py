"""Cameras and points for photos that come alone: structure from motion by pycolmap, run in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from surefoot.data.posed_photos import picture_files
from surefoot.records.files import UnsafeFileError, write_folder

__all__ = ["Structure", "structure_from_motion"]

logger = logging.getLogger(__name__)
TAIL = 2000  # characters of a failed process's last words


@dataclass(frozen=True)
class Structure:
    """What structure from motion found: names of all photos and of those with a pose, points, mean reprojection error in pixels."""

    photos: tuple[str, ...]
    registered: tuple[str, ...]
    points: int
    error: float

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(n for n in self.photos if n not in set(self.registered))


def structure_from_motion(
    photos: Path, out: Path, camera: Literal["single", "auto"] = "auto", order: Literal["any", "sequence"] = "any",
    largest: int = 1600, threads: int = -1, seed: int = 0,
) -> Structure:  # fmt: skip
    """Pose the photos of a folder and write an undistorted capture to `out` (`images/`, `sparse/0/`), whole or not at all.

    Args:
        photos: a folder of overlapping pictures.
        out: the folder to make.
        camera: `single` where all photos come from one camera with one focal length.
        order: `sequence` matches neighbours only (a walk or a film, where all pairs would take too long).
        largest: longer side of the undistorted photos in pixels.
        threads: of the matching; -1 is all.
        seed: of the random choices in matching and mapping.

    Raises:
        UnsafeFileError: fewer than three photos; nothing could be posed.
        ImportError: pycolmap is not installed.
        RuntimeError: the process broke off; with its last words.
    """
    files = picture_files(photos)
    if len(files) < 3:
        raise UnsafeFileError(
            f"{photos} holds {len(files)} photos; structure from motion needs three or more that overlap"
        )
    if importlib.util.find_spec("pycolmap") is None:
        raise ImportError("photos without cameras need structure from motion: pip install 'surefoot[colmap]'")
    settings = {"camera": camera, "order": order, "largest": largest, "threads": threads, "seed": seed}
    logger.info("structure from motion of %d photos", len(files))
    found: dict[str, Structure] = {}

    def fill(folder: Path) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "surefoot.data.structure_worker", str(photos), str(folder), json.dumps(settings)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            raise RuntimeError(f"structure from motion ended with code {run.returncode}: {run.stderr[-TAIL:].strip()}")
        outcome = json.loads(run.stdout.strip().splitlines()[-1])
        if "failed" in outcome:
            raise UnsafeFileError(
                f"structure from motion of {photos.name}: {outcome['failed']}; expected photos that overlap by half and are sharp"
            )
        found["it"] = Structure(
            tuple(outcome["photos"]), tuple(outcome["registered"]), outcome["points"], outcome["error"]
        )

    write_folder(out, fill)
    structure = found["it"]
    if structure.missed:
        logger.warning(
            "%d of %d photos could not be posed: %s", len(structure.missed), len(files), ", ".join(structure.missed[:5])
        )
    return structure
