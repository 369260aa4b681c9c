"""What a flux is the flux *of*: the whole source, an aperture, or a PSF model.

A number in nJy says nothing about how much of the star it holds. A `FluxReference` says it, and
`FluxReference.convert` is the only door from one reference to another. Pixel convention: 0-based,
pixel centres on integers.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    MissingDataError,
    PogsonValueError,
    PogsonWarning,
    ReferenceMismatchError,
    choices,
)

if TYPE_CHECKING:
    from pogson.psf import PSF, ApertureOperator, PsfNormalization
    from pogson.sky import SkyMap

__all__ = ["FluxReference", "ReferenceKind", "require_same"]

_FRAMES = ("pixel", "sky")
_POSITIONS = ("source", "mean")


class ReferenceKind(StrEnum):
    """The three kinds of flux reference.

    Examples
    --------
    >>> FluxReference.aperture(3.0).kind is ReferenceKind.APERTURE, ReferenceKind("psf").value
    (True, 'psf')
    """

    TOTAL = "total"
    APERTURE = "aperture"
    PSF = "psf"


@dataclass(frozen=True, slots=True)
class FluxReference:
    """What part of a point source's light a flux counts; immutable and hashable.

    Use the constructors `total`, `aperture` and `psf`.

    Parameters
    ----------
    kind : {"total", "aperture", "psf"}
        Kind of reference.
    radius : float, optional
        Radius of a circular aperture, in pixels (``frame="pixel"``) or arcsec (``frame="sky"``).
    frame : {"pixel", "sky"}, optional
        Frame in which the aperture is a circle.
    operator : ApertureOperator, optional
        How pixels that the edge cuts are summed.
    position : {"source", "mean"}
        Position policy: aperture sums and enclosed energies are evaluated for a star at its own
        sub-pixel position ("source"), or averaged over the sub-pixel phase ("mean").
    normalization : PsfNormalization, optional
        What "all the light" means, when it was derived from a PSF model: a model normalised to 1
        within its stamp does not know the light beyond. None: not stated.

    Examples
    --------
    >>> reference = FluxReference.aperture(3.0, frame="sky")
    >>> reference.label, reference.slug
    ('aperture 3" exact', 'aperture_3arcsec_exact')
    >>> FluxReference.from_dict(reference.to_dict()) == reference
    True
    """

    kind: ReferenceKind
    radius: float | None = None
    frame: str | None = None
    operator: ApertureOperator | None = None
    position: str = "source"
    normalization: PsfNormalization | None = None

    def __post_init__(self) -> None:
        try:
            kind = ReferenceKind(self.kind)
        except ValueError:
            raise PogsonValueError(
                f"Unknown kind of flux reference {self.kind!r}; allowed: "
                f"{choices(k.value for k in ReferenceKind)}."
            ) from None
        object.__setattr__(self, "kind", kind)
        if self.position not in _POSITIONS:
            raise PogsonValueError(
                f"Unknown position policy {self.position!r}; allowed: {choices(_POSITIONS)}."
            )
        if kind is ReferenceKind.APERTURE:
            self._check_aperture()
        elif not (self.radius is None and self.frame is None and self.operator is None):
            raise PogsonValueError(
                f"A {kind.value!r} flux reference has no radius, frame or operator; "
                "use FluxReference.aperture(radius) for an aperture."
            )

    def _check_aperture(self) -> None:
        if self.radius is None or not np.isfinite(self.radius) or self.radius <= 0:
            raise PogsonValueError(
                f"Aperture radius {self.radius!r} must be a positive number of pixels "
                "(frame='pixel') or arcsec (frame='sky')."
            )
        if self.frame not in _FRAMES:
            raise PogsonValueError(
                f"Unknown aperture frame {self.frame!r}; allowed: {choices(_FRAMES)}."
            )
        object.__setattr__(self, "radius", float(self.radius))
        from pogson.psf import ApertureOperator

        operator = "exact" if self.operator is None else self.operator
        object.__setattr__(self, "operator", ApertureOperator.parse(operator))

    # -- constructors -----------------------------------------------------------------------
    @classmethod
    def total(cls, *, normalization: PsfNormalization | None = None) -> FluxReference:
        """All the light of a point source.

        Parameters
        ----------
        normalization : PsfNormalization, optional
            Given when the total comes from a PSF model, whose idea of "all" it then is.

        Examples
        --------
        >>> FluxReference.total().label
        'total'
        """
        return cls(ReferenceKind.TOTAL, normalization=normalization)

    @classmethod
    def aperture(
        cls,
        radius: float,
        frame: str = "pixel",
        operator: ApertureOperator | str | None = None,
        *,
        position: str = "source",
    ) -> FluxReference:
        """Sum within a circle, in pixels or on the sky.

        Parameters
        ----------
        radius : float
            Pixels when ``frame="pixel"``, arcsec when ``frame="sky"``.
        frame : {"pixel", "sky"}
            A circle on the sky is an ellipse on the pixels, from the local Jacobian.
        operator : ApertureOperator or str, optional
            Or its name; ``ApertureOperator.exact()`` by default.
        position : {"source", "mean"}
            Position policy, see the class.

        Raises
        ------
        PogsonValueError
            If the radius is not positive or a name is unknown.

        Examples
        --------
        >>> FluxReference.aperture(6).label
        'aperture 6 px exact'
        """
        from pogson.psf import ApertureOperator

        chosen = ApertureOperator.parse("exact" if operator is None else operator)
        return cls(ReferenceKind.APERTURE, radius, frame, chosen, position)

    @classmethod
    def psf(cls, *, normalization: PsfNormalization | None = None) -> FluxReference:
        """Flux of a fitted PSF model: the total in the model's own normalisation.

        Examples
        --------
        >>> FluxReference.psf().slug
        'psf'
        """
        return cls(ReferenceKind.PSF, normalization=normalization)

    def resolved(self, psf: PSF) -> FluxReference:
        """Return this reference with the normalisation of a PSF model written into it.

        Apertures need none and come back as they are. Use it for the result of `convert` to
        "total": the total is then what this PSF model calls total.
        """
        if self.kind is ReferenceKind.APERTURE:
            return self
        return replace(self, normalization=psf.normalization)

    # -- names ------------------------------------------------------------------------------
    @property
    def label(self) -> str:
        """Short readable name, for messages and plots."""
        if self.kind is ReferenceKind.APERTURE:
            unit = " px" if self.frame == "pixel" else '"'
            assert self.operator is not None
            text = f"aperture {self.radius:.6g}{unit} {self.operator.name}"
            return text if self.position == "source" else text + " (mean sub-pixel phase)"
        text = self.kind.value
        n = self.normalization
        if n is None or (n.kind == "total" and self.kind is ReferenceKind.TOTAL):
            return text
        size = "" if n.radius is None else f" {n.radius:.6g}"
        return f"{text} (PSF normalised to {n.kind}{size})"

    @property
    def slug(self) -> str:
        """Name safe for a column: letters, digits and underscores."""
        if self.kind is not ReferenceKind.APERTURE:
            return self.kind.value
        assert self.operator is not None
        unit = "px" if self.frame == "pixel" else "arcsec"
        number = f"{self.radius:.6g}".replace(".", "p").replace("-", "m").replace("+", "")
        operator = re.sub(r"[^0-9A-Za-z]+", "", self.operator.name)
        tail = "" if self.position == "source" else "_meanphase"
        return f"aperture_{number}{unit}_{operator}{tail}"

    # -- enclosed energy and conversion -----------------------------------------------------
    def ellipse(
        self, sky: SkyMap | None = None, *, x: Any, y: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Semi-axes and angle of the aperture on the pixels.

        Parameters
        ----------
        sky : SkyMap, optional
            Needed for an aperture sized on the sky.
        x, y : array_like
            Positions in pixels (0-based, pixel centres on integers).

        Returns
        -------
        a, b : numpy.ndarray
            Semi-major and semi-minor axis in pixels, of the broadcast shape of ``x`` and ``y``.
        theta : numpy.ndarray
            Angle of ``a`` from +x, counter-clockwise, radians.

        Raises
        ------
        ReferenceMismatchError
            If the reference is not an aperture.
        MissingDataError
            If the aperture is sized on the sky and no sky map is given.

        Examples
        --------
        >>> FluxReference.aperture(6).ellipse(x=10.0, y=20.0)
        (array(6.), array(6.), array(0.))
        """
        if self.kind is not ReferenceKind.APERTURE:
            raise ReferenceMismatchError(f"A {self.label!r} flux has no aperture.")
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if self.frame == "pixel":
            radius = np.full(xa.shape, self.radius, np.float64)
            return radius, radius.copy(), np.zeros(xa.shape)
        if sky is None:
            raise MissingDataError(
                f"The reference '{self.label}' is sized on the sky: pass sky= (a SkyMap), whose "
                "local Jacobian makes the circle an ellipse on the pixels."
            )
        from pogson.psf import sky_circle_to_ellipse

        a, b, theta = sky_circle_to_ellipse(sky.jacobian(x=xa, y=ya), self.radius)
        return np.asarray(a), np.asarray(b), np.asarray(theta)

    def enclosed_energy(
        self, psf: PSF | None, sky: SkyMap | None = None, *, x: Any, y: Any
    ) -> np.ndarray:
        """Fraction of a point source's flux that this reference counts.

        Parameters
        ----------
        psf : PSF
            The effective PSF at the positions; None only for a "total" or "psf" reference, whose
            fraction is 1 by definition.
        sky : SkyMap, optional
            For apertures sized on the sky.
        x, y : array_like
            Positions in pixels (0-based, pixel centres on integers).

        Returns
        -------
        fraction : numpy.ndarray
            In units of the PSF's own normalisation; what the *operator* returns for a star at
            exactly these positions (sub-pixel phase included).

        Raises
        ------
        MissingDataError
            If the PSF or the sky map is needed and not given.
        """
        xa, ya = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        if self.kind is not ReferenceKind.APERTURE:
            return np.ones(xa.shape)
        if psf is None:
            raise MissingDataError(
                f"The light inside '{self.label}' depends on the PSF: pass psf= and positions."
            )
        shape = xa.shape
        flat = {"x": xa.ravel(), "y": ya.ravel()}
        if self.frame == "pixel":
            fraction = psf.enclosed_energy(self.radius, self.operator, phase=self.position, **flat)
        else:
            a, b, theta = self.ellipse(sky, **flat)
            fraction = psf.enclosed_energy(
                None, self.operator, a=a, b=b, theta=theta, phase=self.position, **flat
            )
        return np.asarray(fraction, np.float64).reshape(shape)

    def conversion_factor(
        self,
        *,
        to: FluxReference,
        psf: PSF | None = None,
        sky: SkyMap | None = None,
        x: Any = None,
        y: Any = None,
    ) -> np.ndarray:
        """Factor from a flux of this reference to one of another: EE(to) / EE(this).

        Parameters
        ----------
        to, psf, sky, x, y
            As in `convert`.

        Returns
        -------
        factor : numpy.ndarray
            NaN where an enclosed energy is not finite or not positive.

        Raises
        ------
        ReferenceMismatchError
            If the references differ and no PSF or positions are given.
        """
        if self == to:
            return np.ones(np.broadcast_shapes(np.shape(x), np.shape(y)) if x is not None else ())
        if psf is None or x is None or y is None:
            raise ReferenceMismatchError(
                f"A flux of reference '{self.label}' is not one of '{to.label}'. Converting needs "
                "the PSF at the source's position: pass psf=, x= and y=."
            )
        _check_normalization(self, psf)
        _check_normalization(to, psf)
        have = self.enclosed_energy(psf, sky, x=x, y=y)
        want = to.enclosed_energy(psf, sky, x=x, y=y)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(have) & np.isfinite(want) & (have > 0) & (want > 0)
        return np.where(good, want / np.where(good, have, 1.0), np.nan)

    def convert(
        self,
        flux: Any,
        *,
        to: FluxReference,
        psf: PSF | None = None,
        sky: SkyMap | None = None,
        x: Any = None,
        y: Any = None,
        flux_err: Any = None,
    ) -> Any:
        """Convert fluxes of this reference into another; the only door between references.

        Parameters
        ----------
        flux : array_like or Quantity
            Fluxes of point sources in this reference, any unit (kept).
        to : FluxReference
            Reference wanted.
        psf : PSF, optional
            Effective PSF; needed unless ``to`` equals this reference.
        sky : SkyMap, optional
            Needed if either aperture is sized on the sky.
        x, y : array_like, optional
            Positions in pixels (0-based, pixel centres on integers).
        flux_err : array_like or Quantity, optional
            Errors; they scale alike.

        Returns
        -------
        flux : numpy.ndarray or Quantity
            ``flux * EE(to) / EE(self)`` at each position. NaN, with a `PogsonWarning` that counts
            them, where an enclosed energy is not finite or not positive.
        flux_err : numpy.ndarray or Quantity
            Only with ``flux_err``.

        Raises
        ------
        ReferenceMismatchError
            If the PSF or positions are missing, or the PSF has another normalisation than a
            reference states.
        MissingDataError
            If a sky map is needed and missing.

        Notes
        -----
        Exact for isolated point sources, whatever the PSF's variation, because both fractions
        are what the same operator sums for a star at the same sub-pixel position.

        Examples
        --------
        >>> FluxReference.aperture(6).convert([10.0, 20.0], to=FluxReference.aperture(6))
        array([10., 20.])
        """
        factor = self.conversion_factor(to=to, psf=psf, sky=sky, x=x, y=y)
        bad = np.isnan(factor)
        if bad.any():
            warnings.warn(
                f"{int(bad.sum())} of {bad.size} fluxes could not be converted from "
                f"'{self.label}' to '{to.label}': the enclosed energy there is not finite and "
                "positive. They are NaN.",
                PogsonWarning,
                stacklevel=2,
            )
        import astropy.units as u

        def scale(value: Any) -> Any:
            return value * factor if isinstance(value, u.Quantity) else np.asarray(value) * factor

        return scale(flux) if flux_err is None else (scale(flux), scale(flux_err))

    # -- comparing --------------------------------------------------------------------------
    def matches(self, other: FluxReference) -> bool:
        """Return whether fluxes of the two references may be compared.

        Everything must be equal; only a normalisation that one of the two does not state is
        taken to agree.
        """
        if self.normalization is None or other.normalization is None:
            return replace(self, normalization=None) == replace(other, normalization=None)
        return self == other

    # -- files ------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        out: dict[str, Any] = {"kind": self.kind.value}
        if self.kind is ReferenceKind.APERTURE:
            assert self.operator is not None
            out |= {"radius": self.radius, "frame": self.frame, "operator": self.operator.name}
        if self.position != "source":
            out["position"] = self.position
        if self.normalization is not None:
            out["normalization"] = {
                "kind": str(self.normalization.kind),
                "radius": self.normalization.radius,
            }
        return out

    @classmethod
    def from_dict(cls, data: Any) -> FluxReference:
        """Read the description written by `to_dict`.

        Raises
        ------
        PogsonValueError
            If it is not such a description.

        Examples
        --------
        >>> FluxReference.from_dict({"kind": "total"})
        FluxReference.total()
        """
        allowed = {"kind", "radius", "frame", "operator", "position", "normalization"}
        if not isinstance(data, dict) or "kind" not in data or not set(data) <= allowed:
            raise PogsonValueError(
                f"{data!r} does not describe a flux reference; its keys must be 'kind' and any "
                f"of {sorted(allowed - {'kind'})}."
            )
        values = dict(data)
        if values.get("operator") is not None:
            from pogson.psf import ApertureOperator

            values["operator"] = ApertureOperator.parse(values["operator"])
        if values.get("normalization") is not None:
            values["normalization"] = _normalization(values["normalization"])
        return cls(**values)

    def __repr__(self) -> str:
        norm = "" if self.normalization is None else f"normalization={self.normalization!r}"
        if self.kind is not ReferenceKind.APERTURE:
            return f"FluxReference.{self.kind.value}({norm})"
        tail = "" if self.position == "source" else f", position={self.position!r}"
        return f"FluxReference.aperture({self.radius!r}, {self.frame!r}, {self.operator!r}{tail})"


def require_same(a: FluxReference, b: FluxReference, what: str = "These fluxes") -> None:
    """Raise unless two references may be mixed.

    Parameters
    ----------
    a, b : FluxReference
        References to compare, see `FluxReference.matches`.
    what : str
        Subject of the message.

    Raises
    ------
    ReferenceMismatchError
        Naming both references.

    Examples
    --------
    >>> require_same(FluxReference.total(), FluxReference.total())
    >>> require_same(FluxReference.total(), FluxReference.aperture(12))
    Traceback (most recent call last):
    ...
    pogson.errors.ReferenceMismatchError: These fluxes have different references: ...
    """
    if not a.matches(b):
        raise ReferenceMismatchError(
            f"{what} have different references: '{a.label}' and '{b.label}'. Convert one with "
            "FluxReference.convert(flux, to=..., psf=..., x=..., y=...) first."
        )


def _check_normalization(reference: FluxReference, psf: PSF) -> None:
    """Refuse a PSF whose idea of "total" is not the one the reference states."""
    stated = reference.normalization
    if stated is not None and stated != psf.normalization:
        raise ReferenceMismatchError(
            f"The reference '{reference.label}' is stated for PSFs with {stated!r}, but the PSF "
            f"given has {psf.normalization!r}."
        )


def _normalization(data: Any) -> PsfNormalization:
    """Return the PSF normalisation written by `FluxReference.to_dict`."""
    from pogson.psf import PsfNormalization

    if not isinstance(data, dict) or not {"kind"} <= set(data) <= {"kind", "radius"}:
        raise PogsonValueError(f"{data!r} does not describe a PSF normalisation.")
    return PsfNormalization(**data)
