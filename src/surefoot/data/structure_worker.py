"""Structure from motion in a process of its own: photos in, an undistorted COLMAP capture out.

    python -m surefoot.data.structure_worker PHOTOS OUT SETTINGS

PHOTOS is a folder, OUT a fresh folder that gets `images/` and `sparse/0/`, SETTINGS a JSON object with `camera` (single or auto),
`order` (any or sequence), `largest` (pixels of the longer side of the undistorted photos) and `threads`. The last line of the
standard output is a JSON object: `registered` and `photos` by name, `points`, `error` in pixels; or `failed`, the reason. pycolmap
lives here alone: it and the picture library must not share a process.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(photos: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Features, matches, poses and points, and undistorted photos; what came of it."""
    import pycolmap

    from surefoot.data.posed_photos import picture_files

    pycolmap.set_random_seed(int(settings.get("seed", 0)))
    names = [p.relative_to(photos).as_posix() for p in picture_files(photos)]
    threads = int(settings.get("threads", -1))
    mode = pycolmap.CameraMode.SINGLE if settings["camera"] == "single" else pycolmap.CameraMode.AUTO
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False)
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        database, models = Path(work) / "database.db", Path(work) / "models"
        models.mkdir()
        reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL")
        pycolmap.extract_features(
            database, photos, names, camera_mode=mode, reader_options=reader, extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )  # fmt: skip
        match = pycolmap.match_sequential if settings["order"] == "sequence" else pycolmap.match_exhaustive
        match(database, matching_options=matching, device=pycolmap.Device.cpu)
        found = pycolmap.incremental_mapping(
            database, photos, models, options=pycolmap.IncrementalPipelineOptions(num_threads=threads)
        )
        if not found:
            return {"failed": "no two photos could be matched", "photos": names}
        best = max(found.values(), key=lambda r: r.num_reg_images())
        best.write(models)
        undistort = pycolmap.UndistortCameraOptions(max_image_size=int(settings["largest"]))
        pycolmap.undistort_images(Path(work) / "capture", models, photos, undistort_options=undistort)
        shutil.move(Path(work) / "capture" / "images", out / "images")
        (out / "sparse").mkdir()
        shutil.move(Path(work) / "capture" / "sparse", out / "sparse" / "0")
        registered = sorted(best.image(i).name for i in best.reg_image_ids())
        return {
            "photos": names, "registered": registered, "points": int(best.num_points3D()),
            "error": float(best.compute_mean_reprojection_error()), "models": len(found),
        }  # fmt: skip


if __name__ == "__main__":
    outcome = main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    sys.stdout.write("\n" + json.dumps(outcome) + "\n")
