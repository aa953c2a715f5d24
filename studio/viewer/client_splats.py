"""Gaussians that the browser sorts and draws by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import viser

from studio.cameras.poses import quaternion_to_matrix
from studio.export.gaussians import GaussianCloud

if TYPE_CHECKING:
    from studio.viewer.stage import Stage

_NAME = "/gaussians"


class ClientSplats:
    """The switch, and the Gaussians on the page while it is on.

    The page draws the constant colour of each Gaussian; what depends on the direction is left out.
    """

    def __init__(self, gui: viser.GuiApi, scene: viser.SceneApi, stage: Stage) -> None:
        self._scene = scene
        self._stage = stage
        self._handle: viser.GaussianSplatHandle | None = None
        self._shown: tuple[object, object] | None = None
        self._switch = gui.add_checkbox(
            "Draw in the browser",
            False,
            hint="The browser sorts and draws the Gaussians: at once, in plain colours",
        )
        self._switch.on_update(lambda event: self._switched())

    @property
    def on(self) -> bool:
        return bool(self._switch.value)

    def look_changed(self) -> None:
        """The crop box or the number of Gaussians may be another."""
        if self.on:
            self._send()

    def _switched(self) -> None:
        if self.on:
            self._send()
        elif self._handle is not None:
            self._handle.visible = False
        self._stage.set_client_side(self.on)

    def _send(self) -> None:
        look = self._stage.look
        drawer = self._stage.drawer
        assert drawer is not None
        state = (look.crop, look.max_gaussians)
        if self._handle is not None and self._shown == state:
            self._handle.visible = True
            return
        cloud = drawer.turns.run(lambda: drawer.selection(look))
        self._handle = self._scene.add_gaussian_splats(
            _NAME,
            centers=cloud.means.numpy(),
            covariances=covariances(cloud).numpy(),
            rgbs=cloud.base_colors.numpy(),
            opacities=cloud.logit_opacities.sigmoid()[:, None].numpy(),
        )
        self._shown = state


def covariances(cloud: GaussianCloud) -> torch.Tensor:
    """``R S S^T R^T`` of every Gaussian, (n, 3, 3)."""
    quats = torch.nn.functional.normalize(cloud.quats, dim=-1)
    stretched = quaternion_to_matrix(quats) * cloud.log_scales.exp()[:, None, :]
    return stretched @ stretched.transpose(1, 2)
