"""A scene in the browser: points, meshes and cameras by viser, and the card's own renderer behind them, from any view."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import numpy as np

from surefoot.data.scene3d import Scene3D, SceneCamera

__all__ = ["Viewer", "camera_of"]

logger = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[Any]]
SHOWS = ("render", "hulls", "points")
COARSE = 160  # pixels of the longer side while the camera moves
REST = 0.25  # seconds without a movement before the whole size is rendered
WAIT = 0.03  # seconds between two looks at the cameras


def camera_of(
    wxyz: Array, position: Array, fov: float, aspect: float, longest: int
) -> tuple[Array, Array, tuple[int, int]]:
    """View (4, 4), K (3, 3) and size of a browser's camera: unit quaternion of camera to world, place, vertical angle, width / height."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = wxyz
    turn = Rotation.from_quat([x, y, z, w]).as_matrix()
    view = np.eye(4)
    view[:3, :3] = turn.T
    view[:3, 3] = -turn.T @ np.asarray(position, dtype=float)
    width, height = (
        (longest, max(1, round(longest / aspect))) if aspect >= 1 else (max(1, round(longest * aspect)), longest)
    )
    focal = 0.5 * height / math.tan(0.5 * fov)
    return view, np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]), (width, height)


class Viewer:
    """Serves a scene until `close`; one browser window or several, each with its own camera.

    Args:
        scene: what to show.
        host, port: where; port 0 takes a free one. Only this machine can reach the default host.
        largest: pixels of the longer side of a rendered view at rest.

    Raises:
        ImportError: viser is not installed.
    """

    def __init__(self, scene: Scene3D, host: str = "127.0.0.1", port: int = 8080, largest: int = 640) -> None:
        try:
            import viser
        except ImportError as error:
            raise ImportError("the viewer needs viser: pip install 'surefoot[splatting]'") from error
        self.scene, self.largest = scene, largest
        self.server = viser.ViserServer(host=host, port=port, label=scene.title, verbose=False)
        self.url = f"http://{host}:{self.server.get_port()}"
        self._clients: dict[int, Any] = {}
        self._dirty: dict[int, tuple[float, bool]] = {}  # time of the last movement, whether the coarse view was drawn
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._draw()
        self._controls()
        self.server.on_client_connect(self._joined)
        self.server.on_client_disconnect(self._left)
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def close(self) -> None:
        """End the service."""
        self._stop.set()
        self._worker.join(timeout=10)
        self.server.stop()

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        try:
            while not self._stop.wait(0.5):
                pass
        except KeyboardInterrupt:
            logger.info("viewer closed")
        finally:
            self.close()

    # ---- the scene ------------------------------------------------------------------------------------------
    def _draw(self) -> None:
        scene, world = self.scene, self.server.scene
        world.set_up_direction(scene.up)
        size = self._extent()
        self._parts: dict[str, Any] = {}
        if len(scene.points):
            self._parts["points"] = world.add_point_cloud(
                "points", scene.points.astype(np.float32), scene.colors, point_size=size / 400
            )
        if scene.mesh is not None and len(scene.mesh.faces):
            import trimesh

            mesh = trimesh.Trimesh(
                scene.mesh.vertices, scene.mesh.faces, vertex_colors=scene.mesh.colors, process=False
            )
            self._parts["hulls"] = world.add_mesh_trimesh("hulls", mesh)
        self._frusta = [self._frustum(camera, size) for camera in scene.cameras]
        if scene.cameras:
            first = scene.cameras[0]
            start = self.server.initial_camera
            _, place = _pose(first)
            ahead = np.asarray(first.view, dtype=float)[2, :3]
            away = float(np.median((self.scene.points - place) @ ahead)) if len(self.scene.points) else size
            start.position, start.look_at = place, place + max(away, 1e-3 * size) * ahead
            start.up, start.fov = -np.asarray(first.view, dtype=float)[1, :3], _angle(first)

    def _extent(self) -> float:
        places = np.stack([_pose(c)[1] for c in self.scene.cameras]) if self.scene.cameras else self.scene.points
        if len(places) < 2:
            places = self.scene.points
        return float(np.ptp(places, axis=0).max()) or 1.0 if len(places) else 1.0

    def _frustum(self, camera: SceneCamera, size: float) -> Any:
        wxyz, position = _pose(camera)
        drawn = self.server.scene.add_camera_frustum(
            f"{camera.group}/{camera.name}", fov=_angle(camera), aspect=camera.size[0] / camera.size[1], scale=size / 20,
            image=camera.picture, wxyz=wxyz, position=position, color=(32, 92, 140) if camera.group == "train" else (200, 90, 40),
        )  # fmt: skip
        drawn.on_click(lambda event: self._jump(event.client, camera))
        return drawn

    def _jump(self, client: Any, camera: SceneCamera) -> None:
        wxyz, position = _pose(camera)
        with client.atomic():
            client.camera.wxyz, client.camera.position, client.camera.fov = wxyz, position, _angle(camera)

    # ---- the panel ------------------------------------------------------------------------------------------
    def _controls(self) -> None:
        gui = self.server.gui
        shows = [s for s in SHOWS if s in self._parts or (s == "render" and self.scene.render is not None)]
        gui.add_markdown(f"**{self.scene.title}**")
        self._show = gui.add_dropdown("show", shows or ["cameras"])
        self._size = gui.add_slider("pixels", 64, 1600, 16, self.largest) if "render" in shows else None
        self._with_cameras = gui.add_checkbox("cameras", "render" not in shows)  # their pictures would hide the render
        self._goto = gui.add_dropdown("go to", [c.name for c in self.scene.cameras]) if self.scene.cameras else None
        self._told = gui.add_markdown("")
        self._show.on_update(lambda _: self._shown())
        self._with_cameras.on_update(lambda _: self._shown())
        if self._size is not None:
            self._size.on_update(lambda _: self._touch_all())
        if self._goto is not None:
            known = {c.name: c for c in self.scene.cameras}
            chosen = self._goto

            @chosen.on_update
            def _(event: Any) -> None:
                for client in self._asking(event):
                    self._jump(client, known[chosen.value])

        self._shown()

    def _asking(self, event: Any) -> list[Any]:
        return [event.client] if event.client is not None else list(self._clients.values())

    def _shown(self) -> None:
        for name, part in self._parts.items():
            part.visible = self._show.value == name
        for drawn in self._frusta:
            drawn.visible = self._with_cameras.value
        if self._show.value != "render":
            self._told.content = ""
            for client in list(self._clients.values()):
                client.scene.set_background_image(None)
        self._touch_all()

    # ---- rendering ------------------------------------------------------------------------------------------
    def _joined(self, client: Any) -> None:
        with self._lock:
            self._clients[client.client_id] = client
        client.camera.on_update(lambda _: self._touch(client.client_id))
        self._touch(client.client_id)

    def _left(self, client: Any) -> None:
        with self._lock:
            self._clients.pop(client.client_id, None)
            self._dirty.pop(client.client_id, None)

    def _touch(self, number: int) -> None:
        with self._lock:
            self._dirty[number] = (time.monotonic(), False)

    def _touch_all(self) -> None:
        for number in list(self._clients):
            self._touch(number)

    def _work(self) -> None:
        while not self._stop.wait(WAIT):
            with self._lock:
                jobs = [(n, self._clients[n], *job) for n, job in self._dirty.items() if n in self._clients]
            for number, client, moved, coarse_done in jobs:
                if self.scene.render is None or self._show.value != "render":
                    with self._lock:
                        self._dirty.pop(number, None)
                    continue
                resting = time.monotonic() - moved > REST
                if not coarse_done or resting:
                    self._one(number, client, moved, resting)

    def _one(self, number: int, client: Any, moved: float, whole: bool) -> None:
        assert self.scene.render is not None
        largest = int(self._size.value) if self._size is not None else self.largest
        try:
            camera = client.camera
            view, matrix, size = camera_of(
                camera.wxyz, camera.position, camera.fov, camera.aspect, largest if whole else min(COARSE, largest)
            )
            begin = time.perf_counter()
            image = self.scene.render(view, matrix, size)
            client.scene.set_background_image(image, format="jpeg", jpeg_quality=90)
            self._told.content = f"{size[0]} x {size[1]}, {1e3 * (time.perf_counter() - begin):.0f} ms"
        except Exception:  # a window that closed while it was drawn; anything else is told, and the service goes on
            logger.exception("a view could not be rendered")
            whole = True
        with self._lock:
            if self._dirty.get(number, (moved, False))[0] == moved:  # no movement since
                if whole:
                    self._dirty.pop(number, None)
                else:
                    self._dirty[number] = (moved, True)


def _pose(camera: SceneCamera) -> tuple[Array, Array]:
    """Unit quaternion (w, x, y, z) of camera to world, and the camera's place."""
    from scipy.spatial.transform import Rotation

    turn = np.asarray(camera.view, dtype=float)[:3, :3].T
    x, y, z, w = Rotation.from_matrix(turn).as_quat(canonical=True)
    return np.array([w, x, y, z]), -turn @ np.asarray(camera.view, dtype=float)[:3, 3]


def _angle(camera: SceneCamera) -> float:
    return 2.0 * math.atan(0.5 * camera.size[1] / float(camera.matrix[1, 1]))
