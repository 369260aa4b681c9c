r"""Extended wings joined to a PSF, with the energy accounted for.

Models of a PSF end where the stars they were fitted on sank into the noise; real light goes on,
roughly as a power law (King 1971, PASP 83, 199; Sandin 2014, A&A 567, A97). `WingModel.join` makes
a PSF that is the given one inside a radius and the wing outside, and of which the *whole* is 1:

.. math:: P = \frac{(1 - t(r))\,P_\mathrm{core} + t(r)\,A\,w(r)}{F}, \qquad
          w(r) = \left(\frac{r^2 + a^2}{R^2 + a^2}\right)^{-\gamma/2}

with t a smooth step about the join radius R, A the mean of the core over the join so that the
profile is continuous, and F the light of the sum over the whole plane: the core's pixels are added
up where the star is, the wing is integrated to its end. So adding wings takes light from the core,
and an aperture that held 99 % of the old total holds less of the new; `PSF.enclosed_energy` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.psf import PSF, PsfNormalization, psf_from_dict
from pogson.psf.base import MAX_HALF_SIZE, normalization_from_dict, register

__all__ = ["WingModel", "WingedPSF"]

_PIXELS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class WingModel:
    r"""A wing to be joined to PSFs.

    Parameters
    ----------
    radius : float
        Join radius R in pixels, 3 to 300.
    slope : float, optional
        Exponent :math:`\gamma` of the fall with radius, above 0; above 2 without `outer_radius`.
        3 for a reflector's aureole, 11/3 for Kolmogorov turbulence, 2 beta for a Moffat wing.
    core_width : float, optional
        Width a in pixels of the wing's own core: 0 for a power law, alpha for a Moffat wing.
    outer_radius : float, optional
        Where the wing ends, in pixels; it fades over the last tenth. None: never.
    blend : float, optional
        Half-width in pixels of the smooth step from core to wing; by default a quarter of R, at
        least 1.5.

    Raises
    ------
    PogsonValueError
        If a parameter is out of range, or the wing would hold infinite light.

    Notes
    -----
    The step is :math:`t = s^3(10 - 15 s + 6 s^2)`, s rising from 0 to 1 over the blend: value,
    slope and curvature are continuous. An elliptical core joins a round wing.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> psf = WingModel(radius=15.0, slope=2.5).join(MoffatPSF(fwhm=3.5, beta=4.765))
    >>> psf.enclosed_energy([12.0, 100.0], x=50.0, y=50.0).round(4)
    array([0.9985, 0.9995])
    """

    radius: float
    slope: float = 3.0
    core_width: float = 0.0
    outer_radius: float | None = None
    blend: float | None = None

    def __post_init__(self) -> None:
        for name in ("radius", "slope", "core_width", "outer_radius", "blend"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                object.__setattr__(self, name, float(value))
            except (TypeError, ValueError):
                raise PogsonTypeError(f"WingModel {name}={value!r} must be a number.") from None
        if not 3.0 <= self.radius <= 300.0:
            raise PogsonValueError(f"WingModel radius={self.radius!r} must be 3 to 300 pixels.")
        if self.blend is None:
            object.__setattr__(self, "blend", max(1.5, 0.25 * self.radius))
        if not 0.5 <= self.half_blend < self.radius:
            raise PogsonValueError(
                f"WingModel blend={self.blend!r} must be from 0.5 to the radius of {self.radius:g}."
            )
        if not 0.0 < self.slope <= 20.0 or not 0.0 <= self.core_width <= 1000.0:
            raise PogsonValueError(
                f"WingModel slope={self.slope!r} must be above 0 and at most 20, core_width="
                f"{self.core_width!r} from 0 to 1000 pixels."
            )
        if self.outer_radius is None:
            if self.slope <= 2.0:
                raise PogsonValueError(
                    f"A wing of slope={self.slope:g} holds infinite light: give outer_radius, or a "
                    "slope above 2."
                )
        elif not 1.2 * (self.radius + self.half_blend) <= self.outer_radius <= 1e6:
            raise PogsonValueError(
                f"WingModel outer_radius={self.outer_radius!r} must be at least 1.2 times the end "
                f"of the join at {self.radius + self.half_blend:g} pixels."
            )

    @property
    def half_blend(self) -> float:
        """Half-width of the smooth step in pixels."""
        return 0.0 if self.blend is None else self.blend

    def join(self, psf: PSF) -> WingedPSF:
        """Return a PSF with this wing.

        Parameters
        ----------
        psf : PSF
            The core.
        """
        return WingedPSF(psf, self)

    def step(self, radius: np.ndarray) -> np.ndarray:
        """Return the share of the wing at radii in pixels, from 0 to 1."""
        return _smooth_step((radius - (self.radius - self.half_blend)) / (2.0 * self.half_blend))

    def profile(self, radius_squared: np.ndarray) -> np.ndarray:
        """Return the wing, 1 at the join, as the mean over a pixel, at squared radii in pixels."""
        q = np.maximum(radius_squared, 1.0) + self.core_width**2
        b = 0.5 * self.slope
        value = (q / (self.radius**2 + self.core_width**2)) ** -b
        # the pixel mean is P + laplacian/24, enough outside any core
        r2_over_q = np.maximum(radius_squared, 1.0) / q
        value *= 1.0 + 4.0 * b * ((b + 1.0) * r2_over_q - 1.0) / q / 24.0
        if self.outer_radius is not None:
            r = np.sqrt(radius_squared)
            value *= 1.0 - _smooth_step((r / self.outer_radius - 0.9) / 0.1)
        return value

    def light(self) -> float:
        """Return the integral over the plane of the wing, 1 at the join, times its step."""
        inner, outer = self.radius - self.half_blend, self.radius + self.half_blend
        edges = [inner, outer]
        if self.outer_radius is not None:
            edges += [*np.geomspace(outer, 0.9 * self.outer_radius, 12)[1:], self.outer_radius]
        total = sum(self._light_between(a, b) for a, b in pairwise(edges))
        if self.outer_radius is None:
            total += self._light_beyond(outer)
        return float(2.0 * np.pi * total)

    def _light_between(self, inner: float, outer: float) -> float:
        node, weight = np.polynomial.legendre.leggauss(40)
        r = 0.5 * (inner + outer) + 0.5 * (outer - inner) * node
        return float(0.5 * (outer - inner) * np.sum(weight * r * self.step(r) * self.profile(r**2)))

    def _light_beyond(self, radius: float) -> float:
        """Return the integral of r times the wing from a radius to infinity."""
        # of q^-b: q^(1-b) / (2 (b-1)); of its Laplacian: minus r times the slope
        b = 0.5 * self.slope
        scale = (self.radius**2 + self.core_width**2) ** b
        q = radius**2 + self.core_width**2
        return scale * (
            q ** (1.0 - b) / (2.0 * (b - 1.0)) + 2.0 * b * radius**2 * q ** (-b - 1) / 24
        )


def _smooth_step(s: np.ndarray) -> np.ndarray:
    """Return 0 below 0, 1 above 1, with two continuous derivatives."""
    s = np.clip(s, 0.0, 1.0)
    return s**3 * (10.0 - s * (15.0 - 6.0 * s))


class WingedPSF(PSF):
    """A PSF with extended wings; made by `WingModel.join`.

    Parameters
    ----------
    core : PSF
        The PSF inside the join.
    wing : WingModel
        The wing outside.
    normalization : PsfNormalization, optional
        Meaning of unit flux; total, wings included, by default.

    Raises
    ------
    PogsonTypeError
        If the core is not a PSF or the wing not a WingModel.

    Examples
    --------
    >>> from pogson.psf import GaussianPSF
    >>> psf = WingedPSF(GaussianPSF(fwhm=4.0), WingModel(radius=6.0, slope=3.5))
    >>> round(psf.wing_fraction(x=0.0, y=0.0), 3)
    0.025
    """

    __slots__ = ("_core", "_light", "_wing")
    kind = "winged"
    _core: PSF
    _wing: WingModel
    _light: float

    def __init__(
        self, core: PSF, wing: WingModel, *, normalization: PsfNormalization | None = None
    ) -> None:
        if not isinstance(core, PSF) or not isinstance(wing, WingModel):
            raise PogsonTypeError(
                f"Wings join a PSF and a WingModel, not {type(core).__name__} and "
                f"{type(wing).__name__}."
            )
        self._set(
            _core=core,
            _wing=wing,
            _light=wing.light(),
            _box=core.box,
            _normalization=PsfNormalization() if normalization is None else normalization,
            _identifier="",
        )

    @property
    def pixel_integrated(self) -> bool:
        """As for the core; the wing is always averaged over the pixel."""
        return self._core.pixel_integrated

    @property
    def core(self) -> PSF:
        """The PSF inside the join."""
        return self._core

    @property
    def wing(self) -> WingModel:
        """The wing outside the join."""
        return self._wing

    def fwhm(self, *, x: Any, y: Any) -> Any:
        """Full width at half maximum of the core, in pixels.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        return self._core.fwhm(x=x, y=y)

    def default_half_size(self, *, x: Any, y: Any) -> int:
        """Half-size in pixels that holds the core's stamp and the wing to five join radii.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels; the largest half-size wanted by any is returned.
        """
        reach = 5.0 * self._wing.radius
        if self._wing.outer_radius is not None:
            reach = min(reach, self._wing.outer_radius)
        wanted = max(int(np.ceil(reach)), self._core.default_half_size(x=x, y=y))
        return min(wanted, MAX_HALF_SIZE)

    def wing_fraction(self, *, x: Any, y: Any) -> Any:
        """Return the share of all light that the wing holds.

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        core, amplitude = self._balance(*self._positions(x, y))
        share = amplitude * self._light / (core + amplitude * self._light)
        return float(share[0]) if shape == () else share.reshape(shape)

    def _balance(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the light of the core inside the join, and the level of the wing at the join."""
        wing = self._wing
        half = int(np.ceil(wing.radius + wing.half_blend)) + 1
        core, amplitude = np.empty(x.size), np.empty(x.size)
        step = max(1, _PIXELS_AT_ONCE // (2 * half + 1) ** 2)
        for start in range(0, x.size, step):
            part = slice(start, start + step)
            stamps, x_min, y_min = self._core.draw_many(x=x[part], y=y[part], half_size=half)
            for k, stamp in enumerate(stamps, start):
                r2 = _squared_radius(x_min[k - start] - x[k], y_min[k - start] - y[k], 2 * half + 1)
                t = wing.step(np.sqrt(r2))
                core[k] = np.sum((1.0 - t) * stamp)
                weight = t * (1.0 - t)
                amplitude[k] = np.sum(weight * stamp) / np.sum(weight * wing.profile(r2))
        wrong = ~((amplitude > 0) & (core > 0))
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise PogsonValueError(
                f"The PSF at x={x[i]:.6g}, y={y[i]:.6g} has a mean of {amplitude[i]:.3g} at the "
                f"join radius of {wing.radius:g} pixels; join where it still has light."
            )
        return core, amplitude

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        wing = self._wing
        core, amplitude = self._balance(x, y)
        side = out.shape[1]
        inner = int(np.ceil(wing.radius + wing.half_blend)) + 1
        half = min(side // 2, inner)
        margin = side // 2 - half
        middle = slice(margin, margin + 2 * half + 1)
        for k in range(x.size):
            r2 = _squared_radius(x_min[k] - x[k], y_min[k] - y[k], side)
            t = wing.step(np.sqrt(r2))
            total = core[k] + amplitude[k] * self._light
            out[k] = (amplitude[k] / total) * t * wing.profile(r2)
            stamp = self._core.draw_many(x=x[k : k + 1], y=y[k : k + 1], half_size=half)[0][0]
            out[k, middle, middle] += (1.0 - t[middle, middle]) * stamp / total

    def _parameters(self) -> dict[str, Any]:
        return {"core": self._core.to_dict(), "wing": asdict(self._wing)}

    def __repr__(self) -> str:
        return f"WingedPSF({self._core!r}, {self._wing!r})"


def _squared_radius(u0: float, v0: float, side: int) -> np.ndarray:
    """Return squared distances (side, side) from the star, for the offset of the first pixel."""
    u, v = u0 + np.arange(side), v0 + np.arange(side)
    return np.asarray(v[:, None] ** 2 + u[None, :] ** 2)


def _from_dict(description: Mapping[str, Any]) -> PSF:
    return WingedPSF(
        psf_from_dict(description["core"]),
        WingModel(**description["wing"]),
        normalization=normalization_from_dict(description),
    )


register("winged", _from_dict)
