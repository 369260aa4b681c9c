"""What a simulated survey is made of: camera, nights, sky and stars, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.fields import Box
from pogson.sed import Bandpass

__all__ = ["BandModel", "CameraModel", "StarModel", "SurveyModel", "demo_model"]


def _positive(thing: object, *names: str) -> None:
    for name in names:
        value = getattr(thing, name)
        if not value > 0:
            raise PogsonValueError(f"{name}={value!r} must be positive.")


def _not_negative(thing: object, *names: str) -> None:
    for name in names:
        value = getattr(thing, name)
        if not value >= 0:
            raise PogsonValueError(f"{name}={value!r} must not be negative.")


@dataclass(frozen=True)
class BandModel:
    """One band of the survey.

    Parameters
    ----------
    name : str
        Short name used in files, ``"g"``.
    standard : str
        speclite name of the bandpass that the reference catalogue is in.
    shift : float
        The instrument's own (natural) bandpass is the standard one moved by this many Angstrom;
        this makes the colour term between the two.
    zero_point : float
        AB magnitude in the natural band that gives one electron per second above the atmosphere.
    extinction : float
        Atmospheric extinction in magnitudes per airmass, grey.
    sky_magnitude : float
        Sky brightness in AB magnitudes per arcsec2, measured below the atmosphere.
    exposure_time : float
        Seconds.
    fringing : float
        Amplitude of a fringe-like ripple of some 400 pixels relative to the sky.

    Examples
    --------
    >>> BandModel("g", "decam2014-g").natural_bandpass.name
    'decam2014-g+40A'
    """

    name: str
    standard: str
    shift: float = 40.0
    zero_point: float = 26.5
    extinction: float = 0.18
    sky_magnitude: float = 22.0
    exposure_time: float = 90.0
    fringing: float = 0.001

    def __post_init__(self) -> None:
        _positive(self, "exposure_time")
        _not_negative(self, "extinction", "fringing")

    @property
    def standard_bandpass(self) -> Bandpass:
        """Bandpass of the reference catalogue."""
        return Bandpass.from_speclite(self.standard)

    @property
    def natural_bandpass(self) -> Bandpass:
        """Bandpass of the instrument."""
        band = self.standard_bandpass
        return band if self.shift == 0 else band.shifted(self.shift)


@dataclass(frozen=True)
class CameraModel:
    """A mosaic of equal detectors behind one distorting telescope.

    Parameters
    ----------
    columns, rows : int
        Detectors along x and y.
    nx, ny : int
        Pixels of a detector.
    gap : int
        Pixels between detectors.
    pixel_scale : float
        Arcsec per pixel on the optical axis; its square is the reference pixel area A0.
    area_growth : float
        Relative growth of the pixel area on the sky from the axis to the outermost corner, by
        cubic radial distortion.
    area_tilt : float
        Relative change of the pixel area across the camera's width, by a quadratic term that is
        not symmetric about the axis.
    gain : float
        Electrons per adu.
    read_noise : float
        Electrons.
    full_well : float
        Electrons at which pixels saturate.
    vignetting : float
        Loss of light at the outermost corner.
    edge : int
        Pixels around the border that are masked as EDGE.
    bad_columns : int
        Bad columns per detector.

    Examples
    --------
    >>> camera = CameraModel(columns=2, rows=2, nx=100, ny=80, gap=10)
    >>> camera.n_detectors, camera.detector_name(0), camera.origin(3)
    (4, 'D1', (5.0, 5.0))
    """

    columns: int = 2
    rows: int = 2
    nx: int = 1024
    ny: int = 1024
    gap: int = 40
    pixel_scale: float = 0.263
    area_growth: float = 0.10
    area_tilt: float = 0.01
    gain: float = 4.0
    read_noise: float = 7.0
    full_well: float = 180_000.0
    vignetting: float = 0.18
    edge: int = 8
    bad_columns: int = 3

    def __post_init__(self) -> None:
        _positive(self, "columns", "rows", "pixel_scale", "gain", "full_well")
        _not_negative(self, "gap", "read_noise", "edge", "bad_columns")
        if min(self.nx, self.ny) < 64:
            raise PogsonValueError(
                f"A detector of {self.nx} x {self.ny} pixels is too small; at least 64 x 64."
            )
        if not 0 <= self.vignetting < 0.9:
            raise PogsonValueError(f"vignetting={self.vignetting!r} must be at least 0, below 0.9.")
        if not 0 <= self.area_growth < 0.5:
            raise PogsonValueError(
                f"area_growth={self.area_growth!r} must be at least 0 and below 0.5."
            )

    @property
    def n_detectors(self) -> int:
        """Number of detectors."""
        return self.columns * self.rows

    @property
    def box(self) -> Box:
        """Pixel box of a detector."""
        return Box(0, 0, self.nx, self.ny)

    @property
    def reference_pixel_area(self) -> float:
        """A0 in arcsec2: fluence = surface brightness x A / A0, for every detector."""
        return self.pixel_scale**2

    @property
    def corner(self) -> float:
        """Distance in pixels from the optical axis to the outermost corner."""
        width = self.columns * self.nx + (self.columns - 1) * self.gap
        height = self.rows * self.ny + (self.rows - 1) * self.gap
        return float(0.5 * np.hypot(width, height))

    def detector_name(self, index: int) -> str:
        """Name of a detector, "D1" for index 0."""
        return f"D{index + 1}"

    def origin(self, index: int) -> tuple[float, float]:
        """Focal-plane position in pixels from the axis of the lower-left corner of a detector."""
        column, row = index % self.columns, index // self.columns
        u = column * (self.nx + self.gap) - 0.5 * (
            self.columns * self.nx + (self.columns - 1) * self.gap
        )
        v = row * (self.ny + self.gap) - 0.5 * (self.rows * self.ny + (self.rows - 1) * self.gap)
        return (u, v)

    def focal_plane(self, index: int, *, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Focal-plane position, in units of `corner`, of pixel positions on a detector.

        Parameters
        ----------
        index : int
            Detector, from 0.
        x, y : array_like
            Pixels (0-based, pixel centres on integers).
        """
        u0, v0 = self.origin(index)
        return (
            (np.asarray(x, np.float64) + 0.5 + u0) / self.corner,
            (np.asarray(y, np.float64) + 0.5 + v0) / self.corner,
        )


@dataclass(frozen=True)
class StarModel:
    """The stars of the field.

    Parameters
    ----------
    density : float
        Stars per arcmin2, before those that come too near to another are left out.
    magnitude_range : tuple of float
        Brightest and faintest AB magnitude in the last band (standard system).
    slope : float
        Counts grow like ``10**(slope * magnitude)``.
    temperature_median, temperature_scatter : float
        Log-normal distribution of effective temperatures in kelvin, relative scatter.
    temperature_range : tuple of float
        Limits in kelvin.
    minimum_separation : float
        Stars nearer than this many arcsec to another do not occur (bright stars keep a larger
        distance); 0 lets blends happen. A sparse field tests calibration apart from deblending.
    reference_limit : float
        Faintest magnitude (last band) of the reference catalogue.
    reference_floor : float
        Calibration error of a bright reference star in magnitudes; faint ones get more.
    reference_outliers : float
        Fraction of reference stars off by 0.1 to 0.5 mag (variables), to be found by the fit.

    Examples
    --------
    >>> StarModel(density=5.0).density
    5.0
    """

    density: float = 50.0
    magnitude_range: tuple[float, float] = (15.0, 22.5)
    slope: float = 0.15
    temperature_median: float = 5600.0
    temperature_scatter: float = 0.17
    temperature_range: tuple[float, float] = (4000.0, 8500.0)
    minimum_separation: float = 6.5
    reference_limit: float = 21.0
    reference_floor: float = 0.003
    reference_outliers: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "density", "temperature_median", "temperature_scatter")
        _not_negative(self, "minimum_separation", "reference_floor", "reference_outliers")
        for name in ("magnitude_range", "temperature_range"):
            low, high = getattr(self, name)
            if not low < high:
                raise PogsonValueError(f"{name}={(low, high)} must increase.")
        if self.temperature_range[0] < 3800 or self.temperature_range[1] > 12000:
            raise PogsonValueError(
                f"temperature_range={self.temperature_range} must be within 3800 to 12000 K, "
                f"where the stellar templates are."
            )


@dataclass(frozen=True)
class SurveyModel:
    """A survey to simulate; see `simulate_survey`.

    Parameters
    ----------
    bands : tuple of BandModel
        Bands; visits take them in turn.
    camera : CameraModel
        Detectors, distortion, vignetting, noise.
    stars : StarModel
        The field.
    n_visits : int
        Exposures in all.
    ra, dec : float
        Field centre in degrees.
    dither : float
        Largest offset of a visit from the centre, arcsec.
    seeing : tuple of float
        Smallest and largest FWHM of a visit on the axis, in pixels.
    moffat_beta : tuple of float
        Smallest and largest Moffat beta of a visit.
    ellipticity : float
        Largest ellipticity component at the corner.
    airmass : tuple of float
        Smallest and largest airmass.
    cloud : float
        Largest grey loss of a visit in magnitudes.
    sky_gradient, moon_glow : float
        Structure of the sky relative to its level.
    cosmic_rays : int
        Mean number per detector image.
    variance : {"expected", "data"}
        Whether weight maps hold the true noise or are estimated from the noisy pixels.
    psf_files : {"psfex", "json"}
        Whether the PSF files are PSFEx models made from the true PSF, or pogson's JSON of the true
        PSF itself.
    color_pivot : float
        Colour (first band - last band, standard system) at which the natural system of each band
        is tied to the standard one, as a zero-point fit with a colour term does.

    Examples
    --------
    >>> SurveyModel(n_visits=2).band_of(1).name
    'r'
    """

    bands: tuple[BandModel, ...] = (
        BandModel("g", "decam2014-g"),
        BandModel(
            "r",
            "decam2014-r",
            shift=-40.0,
            zero_point=26.4,
            extinction=0.10,
            sky_magnitude=21.1,
        ),
    )
    camera: CameraModel = CameraModel()
    stars: StarModel = StarModel()
    n_visits: int = 10
    ra: float = 150.0
    dec: float = 2.2
    dither: float = 45.0
    seeing: tuple[float, float] = (2.9, 3.8)
    moffat_beta: tuple[float, float] = (3.2, 4.2)
    ellipticity: float = 0.05
    airmass: tuple[float, float] = (1.02, 1.7)
    cloud: float = 0.08
    sky_gradient: float = 0.06
    moon_glow: float = 0.12
    cosmic_rays: int = 6
    variance: Literal["expected", "data"] = "expected"
    psf_files: Literal["psfex", "json"] = "psfex"
    color_pivot: float = 0.5

    def __post_init__(self) -> None:
        if len({b.name for b in self.bands}) != len(self.bands) or not self.bands:
            raise PogsonValueError("bands must be at least one, with different names.")
        if self.n_visits < 1:
            raise PogsonValueError(f"n_visits={self.n_visits} must be at least 1.")
        if self.variance not in ("expected", "data"):
            raise PogsonValueError(
                f"Unknown variance {self.variance!r}; allowed: {choices(('expected', 'data'))}."
            )
        if self.psf_files not in ("psfex", "json"):
            raise PogsonValueError(
                f"Unknown psf_files {self.psf_files!r}; allowed: {choices(('psfex', 'json'))}."
            )
        if not 1.5 < self.seeing[0] <= self.seeing[1]:
            raise PogsonValueError(f"seeing={self.seeing} must increase, from above 1.5 pixels.")
        if not 2.0 <= self.moffat_beta[0] <= self.moffat_beta[1]:
            raise PogsonValueError(f"moffat_beta={self.moffat_beta} must increase, from 2 or more.")

    def band_of(self, visit: int) -> BandModel:
        """Band of a visit (0-based): they take turns."""
        return self.bands[visit % len(self.bands)]

    def with_(self, **changes: Any) -> SurveyModel:
        """Return a copy with some values changed.

        Examples
        --------
        >>> SurveyModel().with_(n_visits=3).n_visits
        3
        """
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)


def demo_model(size: int = 1024) -> SurveyModel:
    """Return the survey of ``pogson demo``: 2 x 2 detectors, 10 visits, g and r.

    Parameters
    ----------
    size : int, optional
        Pixels of a detector's side; smaller is faster and has fewer stars.

    Examples
    --------
    >>> model = demo_model()
    >>> model.n_visits, model.camera.n_detectors, [b.name for b in model.bands]
    (10, 4, ['g', 'r'])
    """
    return SurveyModel(camera=CameraModel(nx=size, ny=size))
