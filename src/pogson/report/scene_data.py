"""What the page of a scene job shows, as plain data: no files, no science types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ScenePanels", "SceneReportData", "SceneTargetRecord"]


@dataclass(frozen=True, eq=False)
class ScenePanels:
    """The pixels of one exposure of one target, in nJy; NaN where a pixel was not used.

    Parameters
    ----------
    exposure_id : str
        Name of the exposure.
    data, sigma : numpy.ndarray, shape (ny, nx)
        Pixels and their errors.
    scene, source : numpy.ndarray, shape (ny, nx)
        Parts of the model: the static scene with the sky, and the point sources.
    level : float
        The sky.
    positions : sequence of (float, float)
        Sources (x, y) in pixels of this array (0-based, centres on integers).
    detection : bool
        Whether the source was fitted in this exposure.
    label : str
        What to write beside it.

    Examples
    --------
    >>> zero = np.zeros((3, 3))
    >>> panels = ScenePanels("a", zero + 2, zero + 1, zero + 0.5, zero + 1)
    >>> float(panels.residual[0, 0])
    0.5
    """

    exposure_id: str
    data: np.ndarray
    sigma: np.ndarray
    scene: np.ndarray
    source: np.ndarray
    level: float = 0.0
    positions: tuple[tuple[float, float], ...] = ()
    detection: bool = False
    label: str = ""

    @property
    def used(self) -> np.ndarray:
        """Pixels that took part."""
        with np.errstate(invalid="ignore"):
            return np.isfinite(self.sigma) & (self.sigma > 0) & np.isfinite(self.data)

    @property
    def model(self) -> np.ndarray:
        """Scene, sky and sources."""
        return np.asarray(self.scene + self.source)

    @property
    def scene_subtracted(self) -> np.ndarray:
        """Data less scene and sky: the sources alone."""
        return np.asarray(self.data - self.scene)

    @property
    def source_subtracted(self) -> np.ndarray:
        """Data less the sources: scene and sky."""
        return np.asarray(self.data - self.source)

    @property
    def residual(self) -> np.ndarray:
        """Data less the whole model."""
        return np.asarray(self.data - self.model)


@dataclass(frozen=True)
class SceneTargetRecord:
    """What was found of one target, as ``scene.json`` holds it.

    Parameters
    ----------
    key, name, band, kind : str
        What it is; the kind is "detection", "light_curve" or "binary".
    status, reason : str
        "done" or "failed", and why.
    values : mapping
        Everything else of the target's entry in ``scene.json``.

    Examples
    --------
    >>> record = SceneTargetRecord("a", "a", "r", "detection", "failed", "no PSF")
    >>> record.number("chi2")
    nan
    """

    key: str
    name: str
    band: str
    kind: str
    status: str
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """Return a number, NaN where it is not known."""
        value = self.values.get(name)
        return float("nan") if value is None else float(value)

    @property
    def fluxes(self) -> list[Mapping[str, Any]]:
        """The measured fluxes: one entry a source and epoch."""
        return list(self.values.get("fluxes", ()))

    @property
    def exposures(self) -> list[Mapping[str, Any]]:
        """The exposures that were fitted, each with its chi2."""
        return list(self.values.get("exposures", ()))


@dataclass(frozen=True)
class SceneReportData:
    """Everything that the page of a scene job shows.

    Parameters
    ----------
    title : str
        Of the page.
    targets : tuple of SceneTargetRecord
        All of them.
    images : mapping of str to tuple of ScenePanels
        Pictures, by key of the target.
    headlines : tuple of str
        The result in a few sentences.
    facts : mapping of str to str
        Settings worth saying.
    config_text : str
        The configuration.
    truth : mapping of str to float
        Known fluxes (nJy) by key of the target, for simulated data.
    """

    title: str
    targets: tuple[SceneTargetRecord, ...] = ()
    images: Mapping[str, tuple[ScenePanels, ...]] = field(default_factory=dict)
    headlines: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    config_text: str = ""
    truth: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> list[SceneTargetRecord]:
        """Targets that were measured."""
        return [t for t in self.targets if t.status == "done"]
