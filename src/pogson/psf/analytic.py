r"""Gaussian, Moffat and Kolmogorov PSFs, whose parameters may vary over the detector.

The parameters describe the optical profile; drawing integrates it over the pixels. An elliptical
profile keeps its area: with :math:`e_1 + i e_2 = |e| e^{2i\phi}`, |e| = (a^2 - b^2)/(a^2 + b^2) and
phi the angle of the long axis counter-clockwise from +x, the width given is the geometric mean of
the axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields import Box, Field, field_from_dict
from pogson.psf.base import (
    MAX_HALF_SIZE,
    PSF,
    PsfNormalization,
    box_from_dict,
    normalization_from_dict,
    register,
)
from pogson.psf.profiles import gaussian_sigma, kolmogorov_table, moffat_alpha

__all__ = ["GaussianPSF", "KolmogorovPSF", "MoffatPSF"]

Parameter: TypeAlias = float | Field


class _AnalyticPSF(PSF):
    """A PSF whose profile is a formula of a few parameters, each a number or a `Field`."""

    __slots__ = ("_values",)
    _values: dict[str, Parameter]

    def _fill(
        self, values: dict[str, Any], box: Box | None, normalization: PsfNormalization | None
    ) -> None:
        clean: dict[str, Parameter] = {}
        for name, value in values.items():
            if isinstance(value, Field):
                clean[name] = value
                box = value.box if box is None else box.intersection(value.box)
                continue
            try:
                clean[name] = float(value)
            except (TypeError, ValueError):
                raise PogsonTypeError(
                    f"{type(self).__name__} {name}={value!r} must be a number or a Field."
                ) from None
        self._set(
            _values=clean,
            _box=box,
            _normalization=PsfNormalization() if normalization is None else normalization,
            _identifier="",
        )
        numbers = {k: np.array([v]) for k, v in clean.items() if not isinstance(v, Field)}
        self._check(numbers)

    @property
    def pixel_integrated(self) -> bool:
        """True: the parameters describe the optical profile, drawing integrates over the pixel."""
        return True

    def _check(self, values: Mapping[str, np.ndarray]) -> None:
        """Raise where evaluated parameters are not those of a profile."""
        limits = {"fwhm": (0.2, 200.0), "beta": (1.05, 1000.0)}
        for name, (low, high) in limits.items():
            if name not in values:
                continue
            wrong = ~((values[name] >= low) & (values[name] <= high))
            if wrong.any():
                unit = " pixels" if name == "fwhm" else ""
                why = "; at beta <= 1 the flux is infinite" if name == "beta" else ""
                raise PogsonValueError(
                    f"{type(self).__name__} {name}={values[name][wrong][0]:.6g} "
                    f"must be from {low} to {high}{unit}{why}."
                )
        e1 = values.get("e1", np.zeros(1))
        e2 = values.get("e2", np.zeros(1))
        size = np.sqrt(np.max(e1**2)) if e2.size != e1.size else np.sqrt(np.max(e1**2 + e2**2))
        if not size <= 0.95:
            raise PogsonValueError(
                f"{type(self).__name__} ellipticity |e|={size:.6g} must be at most 0.95."
            )

    def _at(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return the parameters at positions, checked."""
        values = {}
        for name, value in self._values.items():
            if isinstance(value, Field):
                values[name] = np.ascontiguousarray(value(x=x, y=y), np.float64)
            else:
                values[name] = np.full(x.shape, value)
        if x.size:
            self._check(values)
        return values

    def parameter(self, name: str, *, x: Any, y: Any) -> Any:
        """Return a parameter of the profile at positions.

        Parameters
        ----------
        name : str
            "fwhm" (pixels), "beta", "e1" or "e2".
        x, y : array_like
            Positions in pixels (0-based, centres on integers).

        Raises
        ------
        PogsonValueError
            If the profile has no such parameter.
        BoundsError
            If a position is outside the box of the PSF.
        """
        if name not in self._values:
            raise PogsonValueError(
                f"{type(self).__name__} has no parameter {name!r}; it has "
                f"{', '.join(self._values)}."
            )
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        xs, ys = self._positions(x, y)
        value = self._at(xs, ys)[name]
        return float(value[0]) if shape == () else value.reshape(shape)

    def fwhm(self, *, x: Any, y: Any) -> Any:
        """Full width at half maximum of the optical profile in pixels (geometric mean of axes).

        Parameters
        ----------
        x, y : array_like
            Positions in pixels (0-based, centres on integers).
        """
        return self.parameter("fwhm", x=x, y=y)

    def default_half_size(self, *, x: Any, y: Any) -> int:
        """Half-size in pixels that holds 99.9 % of the light (Gaussian: all but 1e-8).

        Parameters
        ----------
        x, y : array_like
            Positions in pixels; the largest half-size wanted by any is returned.
        """
        xs, ys = self._positions(x, y)
        values = self._at(xs, ys)
        e = np.hypot(values["e1"], values["e2"])
        stretch = ((1 + e) / (1 - e)) ** 0.25
        reach = float(np.max(self._reach(values) * stretch))
        return min(int(np.ceil(reach)) + 1, MAX_HALF_SIZE)

    def _reach(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the radius in pixels to draw a round profile to."""
        raise NotImplementedError

    def _parameters(self) -> dict[str, Any]:
        return {
            name: value.to_dict() if isinstance(value, Field) else value
            for name, value in self._values.items()
        }

    def __repr__(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self._values.items() if value != 0.0]
        if self._box is not None:
            parts.append(f"box={self._box!r}")
        if self._normalization != PsfNormalization():
            parts.append(f"normalization={self._normalization!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


class GaussianPSF(_AnalyticPSF):
    r"""A Gaussian profile.

    Parameters
    ----------
    fwhm : float or Field
        Full width at half maximum in pixels, before the pixel; geometric mean of the axes.
    e1, e2 : float or Field, optional
        Ellipticity (see Notes).
    box : Box, optional
        Pixels for which the PSF is valid; by default that of the fields, or everywhere.
    normalization : PsfNormalization, optional
        Meaning of unit flux; total by default.

    Raises
    ------
    PogsonValueError
        If the width is not from 0.2 to 200 pixels or the ellipticity above 0.95.

    Notes
    -----
    :math:`|e| = (a^2-b^2)/(a^2+b^2)`, :math:`e_1 + i e_2 = |e| e^{2i\phi}`. Pixel integrals use the
    error function, exactly for axes along the pixels.

    Examples
    --------
    >>> psf = GaussianPSF(fwhm=3.0)
    >>> stamp = psf.draw(x=100.25, y=50.0)
    >>> round(float(stamp.image.sum()), 6)
    1.0
    >>> stamp.box.contains(x=100, y=50)
    np.True_
    """

    __slots__ = ()
    kind = "gaussian"

    def __init__(
        self,
        fwhm: Parameter,
        e1: Parameter = 0.0,
        e2: Parameter = 0.0,
        *,
        box: Box | None = None,
        normalization: PsfNormalization | None = None,
    ) -> None:
        self._fill({"fwhm": fwhm, "e1": e1, "e2": e2}, box, normalization)

    def _reach(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return 6.1 * gaussian_sigma(values["fwhm"])

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        from pogson.psf import _draw_kernels as kernels

        v = self._at(x, y)
        kernels.draw_gaussian(
            x, y, x_min, y_min, gaussian_sigma(v["fwhm"]), v["e1"], v["e2"], np.ones(x.size), out
        )


class MoffatPSF(_AnalyticPSF):
    r"""A Moffat profile, :math:`P \propto (1 + r^2/\alpha^2)^{-\beta}`.

    Parameters
    ----------
    fwhm : float or Field
        Full width at half maximum in pixels, before the pixel; geometric mean of the axes.
    beta : float or Field
        Exponent, above 1 (2.5 to 4.765 for seeing).
    e1, e2 : float or Field, optional
        Ellipticity (see Notes).
    box : Box, optional
        Pixels for which the PSF is valid; by default that of the fields, or everywhere.
    normalization : PsfNormalization, optional
        Meaning of unit flux; total by default.

    Raises
    ------
    PogsonValueError
        If beta is below 1.05, the width not from 0.2 to 200 pixels or the ellipticity above 0.95.

    Notes
    -----
    Moffat 1969, A&A 3, 455. :math:`\alpha = \mathrm{FWHM}/(2\sqrt{2^{1/\beta}-1})`;
    :math:`|e| = (a^2-b^2)/(a^2+b^2)`, :math:`e_1 + i e_2 = |e| e^{2i\phi}`. Pixel integrals
    are good to 1e-6 of the peak for FWHM of 1 pixel and more.

    Examples
    --------
    >>> psf = MoffatPSF(fwhm=4.0, beta=3.0)
    >>> psf.draw(x=0.0, y=0.0, half_size=12).image.shape
    (25, 25)
    >>> psf == MoffatPSF(4.0, 3.0)
    True
    """

    __slots__ = ()
    kind = "moffat"

    def __init__(
        self,
        fwhm: Parameter,
        beta: Parameter,
        e1: Parameter = 0.0,
        e2: Parameter = 0.0,
        *,
        box: Box | None = None,
        normalization: PsfNormalization | None = None,
    ) -> None:
        self._fill({"fwhm": fwhm, "beta": beta, "e1": e1, "e2": e2}, box, normalization)

    def _reach(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        alpha = moffat_alpha(values["fwhm"], values["beta"])
        return alpha * np.sqrt(1e-3 ** (1.0 / (1.0 - values["beta"])) - 1.0)

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        from pogson.psf import _draw_kernels as kernels

        v = self._at(x, y)
        alpha = moffat_alpha(v["fwhm"], v["beta"])
        kernels.draw_moffat(
            x, y, x_min, y_min, alpha, v["beta"], v["e1"], v["e2"], np.ones(x.size), out
        )


class KolmogorovPSF(_AnalyticPSF):
    r"""Long-exposure seeing of Kolmogorov turbulence.

    Parameters
    ----------
    fwhm : float or Field
        Full width at half maximum in pixels, before the pixel; geometric mean of the axes.
    e1, e2 : float or Field, optional
        Ellipticity, as for `MoffatPSF`.
    box : Box, optional
        Pixels for which the PSF is valid; by default that of the fields, or everywhere.
    normalization : PsfNormalization, optional
        Meaning of unit flux; total by default.

    Raises
    ------
    PogsonValueError
        If the width is not from 0.2 to 200 pixels or the ellipticity above 0.95.

    Notes
    -----
    The transfer function is :math:`\exp[-(k/k_0)^{5/3}]` (Fried 1966, J. Opt. Soc. Am. 56, 1372).
    The wings fall as r^(-11/3): 1.6 % of the light lies beyond three FWHM.

    Examples
    --------
    >>> psf = KolmogorovPSF(fwhm=4.0)
    >>> round(float(psf.enclosed_energy(12.0, x=0.0, y=0.0)), 3)
    0.984
    """

    __slots__ = ()
    kind = "kolmogorov"

    def __init__(
        self,
        fwhm: Parameter,
        e1: Parameter = 0.0,
        e2: Parameter = 0.0,
        *,
        box: Box | None = None,
        normalization: PsfNormalization | None = None,
    ) -> None:
        self._fill({"fwhm": fwhm, "e1": e1, "e2": e2}, box, normalization)

    def _reach(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        # EE = 99.9 % lies at 15.5 FWHM
        return 15.5 * values["fwhm"]

    def _draw(
        self, x: np.ndarray, y: np.ndarray, x_min: np.ndarray, y_min: np.ndarray, out: np.ndarray
    ) -> None:
        from pogson.psf import _draw_kernels as kernels

        v = self._at(x, y)
        t = kolmogorov_table()
        kernels.draw_table(
            x, y, x_min, y_min, v["fwhm"] / t.fwhm, v["e1"], v["e2"], np.ones(x.size),
            t.table, t.step, t.tail, out,
        )  # fmt: skip


def _build(cls: type, names: tuple[str, ...], description: Mapping[str, Any]) -> PSF:
    values = {
        name: field_from_dict(description[name])
        if isinstance(description[name], Mapping)
        else description[name]
        for name in names
    }
    return cls(
        **values,
        box=box_from_dict(description),
        normalization=normalization_from_dict(description),
    )


register("gaussian", lambda d: _build(GaussianPSF, ("fwhm", "e1", "e2"), d))
register("moffat", lambda d: _build(MoffatPSF, ("fwhm", "beta", "e1", "e2"), d))
register("kolmogorov", lambda d: _build(KolmogorovPSF, ("fwhm", "e1", "e2"), d))
