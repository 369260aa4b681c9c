"""What an image has been flattened with, and for the light of which spectrum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import (
    BoundsError,
    CalibrationError,
    MissingDataError,
    PogsonTypeError,
)
from pogson.fields import Box, Field
from pogson.images._scaling import RatioImage
from pogson.images.flats import ChromaticFlat, FlatFactors, flat_from_dict
from pogson.sed import Bandpass, Spectrum

if TYPE_CHECKING:
    from pogson.images.exposure import Exposure

__all__ = ["Flattening", "flatten", "spectrum_from_dict", "spectrum_to_dict"]

_LARGEST_EMBEDDED = 20_000
"""Numbers of a flat that a file holds itself; a larger flat is named by its digest."""


@dataclass(frozen=True, eq=False, repr=False)
class Flattening:
    """The flat that an image has been divided by: which, and for which spectrum; immutable.

    An image divided by the flat of a spectrum S is right for light of S only. For a source of
    another spectrum it is wrong by the ratio of two flats, which varies over the detector:
    `ratio` is that field for this spectrum against the fiducial one.

    Parameters
    ----------
    flat : ChromaticFlat or FlatFactors
        The flat as a function of wavelength.
    bandpass : Bandpass
        The response that goes with it.
    sed : Spectrum
        The spectrum for which the image is flat.
    fiducial : Spectrum, optional
        The survey's fiducial spectrum, for which fluxes are calibrated; ``sed`` by default.

    Raises
    ------
    CalibrationError
        If a spectrum or the flat does not cover the bandpass.
    PogsonTypeError
        If something else is given.

    Examples
    --------
    >>> from pogson.fields import Box, ChebyshevField
    >>> from pogson.images import ChromaticFlat
    >>> box = Box(0, 0, 100, 50)
    >>> flat = ChromaticFlat.from_fields(
    ...     [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)])
    >>> r = Bandpass.from_speclite("decam2014-r")
    >>> sky = Flattening(flat, r, Spectrum([3000.0, 12000.0], [9.0, 0.1], name="dusk"),
    ...                  Spectrum.constant_ab(20.0))
    >>> sky
    <Flattening: for 'dusk' (fiducial 'AB 20') through decam2014-r>
    >>> ratio = sky.ratio()
    >>> bool(ratio(x=99, y=9) > 1 > ratio(x=0, y=9))
    True
    """

    flat: ChromaticFlat | FlatFactors
    bandpass: Bandpass
    sed: Spectrum
    fiducial: Spectrum = None  # type: ignore[assignment]
    _ratios: dict[str, RatioImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.flat, ChromaticFlat | FlatFactors):
            raise PogsonTypeError(
                f"flat must be a ChromaticFlat or FlatFactors, not {type(self.flat).__name__}."
            )
        if not isinstance(self.sed, Spectrum):
            raise PogsonTypeError(
                f"sed must be a pogson.sed.Spectrum, not {self.sed!r}: the spectrum an image was "
                f"flattened for has to be known, not named."
            )
        if self.fiducial is None:
            object.__setattr__(self, "fiducial", self.sed)
        if not isinstance(self.fiducial, Spectrum):
            raise PogsonTypeError(f"fiducial must be a Spectrum, not {self.fiducial!r}.")
        self.ratio()  # raises where a spectrum does not cover the band

    @property
    def box(self) -> Box:
        """Pixel box of the flat."""
        return self.flat.box

    @property
    def is_fiducial(self) -> bool:
        """Whether the image is flat for the fiducial spectrum."""
        return self.sed == self.fiducial

    def field(self) -> Field:
        """Return the flat that the image was divided by."""
        return self.flat.flat_for(self.sed, self.bandpass)

    def ratio(self) -> Field:
        """Return flat for this spectrum over flat for the fiducial one.

        An image in this state times the ratio is flat for the fiducial spectrum.
        """
        return self.field() / self.flat.flat_for(self.fiducial, self.bandpass)

    def for_sed(self, sed: Spectrum) -> Flattening:
        """Return the state of an image flattened with the same flat for another spectrum."""
        if sed == self.sed:
            return self
        return Flattening(self.flat, self.bandpass, sed, self.fiducial, self._ratios)

    def for_fiducial(self) -> Flattening:
        """Return the state of an image flattened for the fiducial spectrum."""
        return self.for_sed(self.fiducial)

    def check_same_flat(self, other: Flattening) -> None:
        """Raise unless another state is of the same flat, band and fiducial spectrum.

        Raises
        ------
        CalibrationError
            Saying which differs.
        """
        differs = [
            what
            for what, same in (
                ("flat", self.flat.digest == other.flat.digest),
                ("bandpass", self.bandpass == other.bandpass),
                ("fiducial spectrum", self.fiducial == other.fiducial),
            )
            if not same
        ]
        if differs:
            raise CalibrationError(
                f"The images were flattened with another {', '.join(differs)}: {self!r} and "
                f"{other!r}. Divide the flat out and flatten again."
            )

    def ratio_image(self, box: Box) -> RatioImage:
        """Return the ratio rendered in float32 once, for this box and those inside it."""
        key = f"{_digest(self.sed)}:{box}"
        if key not in self._ratios:
            if not self.box.contains_box(box):
                raise BoundsError(f"The flat covers {self.box}, not the image's {box}.")
            self._ratios[key] = RatioImage(self.ratio(), box)
        return self._ratios[key]

    # -- files and identity ---------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`.

        A flat of more than 20,000 numbers is not written with every image but named by its digest;
        `from_dict` then needs it.
        """
        small = self.flat.size <= _LARGEST_EMBEDDED
        return {
            "flat": self.flat.to_dict() if small else None,
            "flat_digest": self.flat.digest,
            "bandpass": {
                "name": self.bandpass.name,
                "wavelength": self.bandpass.wavelength.tolist(),
                "throughput": self.bandpass.throughput.tolist(),
                "detector": self.bandpass.detector,
            },
            "sed": spectrum_to_dict(self.sed),
            "fiducial": spectrum_to_dict(self.fiducial),
        }

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], flat: ChromaticFlat | FlatFactors | None = None
    ) -> Flattening:
        """Return the state described by `to_dict`.

        Parameters
        ----------
        data : mapping
            The description.
        flat : ChromaticFlat or FlatFactors, optional
            The flat, where the description only names it.

        Raises
        ------
        MissingDataError
            If the flat is neither in the description nor given, or another one is given.
        """
        if data["flat"] is not None:
            flat = flat_from_dict(data["flat"])
        if flat is None or flat.digest != data["flat_digest"]:
            given = "none was given" if flat is None else f"the one given is {flat.digest[:12]}"
            raise MissingDataError(
                f"The image was flattened with the flat of digest {data['flat_digest'][:12]}, "
                f"which is too large to be kept with it, and {given}; read it with "
                f"read_chromatic_flat and pass flat=."
            )
        band = data["bandpass"]
        bandpass = Bandpass(
            band["name"],
            np.asarray(band["wavelength"], float),
            np.asarray(band["throughput"], float),
            band["detector"],
        )
        sed, fiducial = (spectrum_from_dict(data[k]) for k in ("sed", "fiducial"))
        return cls(flat, bandpass, sed, fiducial)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Flattening):
            return NotImplemented
        return self is other or (
            self.flat.digest == other.flat.digest
            and self.bandpass == other.bandpass
            and self.sed == other.sed
            and self.fiducial == other.fiducial
        )

    def __hash__(self) -> int:
        return hash((self.flat.digest, self.sed, self.fiducial))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ratios": {}}

    def __repr__(self) -> str:
        return (
            f"<Flattening: for {self.sed.name!r} (fiducial {self.fiducial.name!r}) through "
            f"{self.bandpass.name}>"
        )


def flatten(exposure: Exposure, flattening: Flattening, *, measure: Any) -> Exposure:
    """Return an exposure divided by a flat, with the state written down.

    Parameters
    ----------
    exposure : Exposure
        Not flattened yet.
    flattening : Flattening
        Flat and spectrum.
    measure : Measure or str
        What the image is after the division: ``"surface_brightness"`` where the flat contains the
        pixel areas (dome and sky flats), ``"fluence"`` where it does not (star flats). The flat
        alone cannot tell.

    Returns
    -------
    Exposure
        Image divided by the flat, variance by its square.

    Raises
    ------
    CalibrationError
        If the exposure has been flattened already.
    BoundsError
        If the flat does not cover the exposure.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.fields import Box, ConstantField
    >>> from pogson.images import ChromaticFlat, Exposure
    >>> box = Box(0, 0, 3, 2)
    >>> flat = ChromaticFlat.from_fields([3000.0, 12000.0], [ConstantField(box, 0.5)] * 2)
    >>> state = Flattening(flat, Bandpass.from_speclite("decam2014-r"), Spectrum.constant_ab(20.0))
    >>> raw = Exposure(np.ones((2, 3)), unit="adu", measure="fluence")
    >>> flatten(raw, state, measure="surface_brightness").image
    array([[2., 2., 2.],
           [2., 2., 2.]], dtype=float32)
    """
    if exposure.flattening is not None or exposure.flattening_sed is not None:
        state = exposure.flattening or f"for {exposure.flattening_sed!r}"
        raise CalibrationError(
            f"This exposure has been flattened already ({state}); dividing twice would square the "
            f"flat. To change the spectrum use flattened_for()."
        )
    if not flattening.box.contains_box(exposure.box):
        raise BoundsError(f"The flat covers {flattening.box}, not the image's {exposure.box}.")
    flat = flattening.field().render(exposure.box)
    image = np.divide(exposure.image, flat, dtype=np.float64).astype(np.float32)
    variance = exposure.variance
    if variance is not None:
        variance = (variance / flat**2).astype(np.float32)
    return exposure.with_(image=image, variance=variance, measure=measure, flattening=flattening)


def spectrum_to_dict(spectrum: Spectrum) -> dict[str, Any]:
    """Return a JSON-ready description of a spectrum.

    Examples
    --------
    >>> spectrum_to_dict(Spectrum([4000.0, 5000.0], [1.0, 2.0], name="s"))["flux"]
    [1.0, 2.0]
    """
    return {
        "name": spectrum.name,
        "wavelength": spectrum.wavelength.tolist(),
        "flux": spectrum.flux.tolist(),
        "medium": spectrum.medium,
    }


def spectrum_from_dict(data: Mapping[str, Any]) -> Spectrum:
    """Return the spectrum that `spectrum_to_dict` described.

    Examples
    --------
    >>> spectrum = Spectrum([4000.0, 5000.0], [1.0, 2.0], name="s")
    >>> spectrum_from_dict(spectrum_to_dict(spectrum)) == spectrum
    True
    """
    return Spectrum(
        np.asarray(data["wavelength"], float),
        np.asarray(data["flux"], float),
        data["medium"],
        data["name"],
    )


def _digest(spectrum: Spectrum) -> str:
    state = hashlib.sha256(spectrum.wavelength.tobytes() + spectrum.flux.tobytes())
    return state.hexdigest()
