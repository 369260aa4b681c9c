r"""Sersic galaxies, convolved with the effective PSF: the pixel response in once and only once.

The convolution is a product of transforms. That of the galaxy is known on the continuous plane
(a Hankel transform, tabulated once per Sersic index), so the cusp of a high index needs no fine
grid; that of the PSF comes from stars drawn at sub-pixel steps. A discrete transform repeats the
galaxy with the period of its grid: the repetitions are far out, where the PSF no longer matters,
and are taken off with the profile itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft, special

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.inject.stamps import nearest_position, stamp_half_size
from pogson.psf import PSF, Stamp
from pogson.psf.base import MAX_HALF_SIZE

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

__all__ = ["BulgeDisc", "Sersic", "galaxy_half_size", "render_galaxy"]

SERSIC_INDEX_RANGE = (0.3, 6.2)
"""Smallest and largest Sersic index that is drawn."""

_FLAT_SKY = np.array([[-1.0, 0.0], [0.0, 1.0]])
_NEGLIGIBLE = 1e-9  # of the flux, of one repetition


@dataclass(frozen=True, slots=True)
class Sersic:
    r"""A Sersic profile of unit flux on the sky.

    Parameters
    ----------
    index : float
        Sersic index n, 0.3 to 6.2: 1 is an exponential disc, 4 a de Vaucouleurs spheroid.
    half_light_radius : float
        Radius of the ellipse that holds half the light, in arcsec: the **geometric mean** of its
        semi-axes. From the semi-major axis a it is :math:`a \sqrt{q}`.
    axis_ratio : float, optional
        Minor over major axis q, above 0.02 to 1.
    position_angle : float, optional
        Of the major axis, degrees from north toward east.

    Raises
    ------
    PogsonValueError
        If a parameter is out of range.

    Notes
    -----
    :math:`I(r) \propto \exp[-b_n (r/r_e)^{1/n}]`, :math:`\gamma(2n, b_n) = \Gamma(2n)/2` (Sersic
    1963, Bol. Asoc. Arg. Astron. 6, 41; Graham & Driver 2005, PASA 22, 118), to infinity.

    Examples
    --------
    >>> Sersic(1.0, 0.5, axis_ratio=0.6, position_angle=30.0)
    Sersic(index=1.0, half_light_radius=0.5, axis_ratio=0.6, position_angle=30.0)
    """

    index: float
    half_light_radius: float
    axis_ratio: float = 1.0
    position_angle: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high, what in (
            ("index", *SERSIC_INDEX_RANGE, ""),
            ("half_light_radius", 1e-4, 1e4, " arcsec"),
            ("axis_ratio", 0.02, 1.0, ""),
            ("position_angle", -1e4, 1e4, " degrees"),
        ):
            try:
                value = float(getattr(self, name))
            except (TypeError, ValueError):
                value = np.nan
            if not low <= value <= high:
                raise PogsonValueError(
                    f"Sersic {name}={getattr(self, name)!r} must be from {low:g} to {high:g}{what}."
                )
            object.__setattr__(self, name, value)

    @property
    def components(self) -> tuple[tuple[float, Sersic], ...]:
        """Fractions of the flux and their profiles."""
        return ((1.0, self),)

    def enclosed_energy(self, radius: Any) -> Any:
        """Return the light inside the ellipse of geometric-mean radius `radius` (arcsec).

        Examples
        --------
        >>> float(Sersic(4.0, 2.0).enclosed_energy(2.0))
        0.5
        """
        b = special.gammaincinv(2.0 * self.index, 0.5)
        scaled = np.asarray(radius, np.float64) / self.half_light_radius
        return special.gammainc(2.0 * self.index, b * scaled ** (1.0 / self.index))

    def radius_enclosing(self, fraction: float) -> float:
        """Return the geometric-mean radius (arcsec) of the ellipse that holds a fraction of light.

        Examples
        --------
        >>> round(Sersic(1.0, 1.0).radius_enclosing(0.999), 2)
        5.5
        """
        b = special.gammaincinv(2.0 * self.index, 0.5)
        scaled = special.gammaincinv(2.0 * self.index, fraction) / b
        return float(self.half_light_radius * scaled**self.index)


@dataclass(frozen=True, slots=True)
class BulgeDisc:
    """A bulge and a disc about one centre, of unit flux together.

    Parameters
    ----------
    bulge, disc : Sersic
        The two profiles.
    bulge_fraction : float
        Share of the total flux in the bulge, 0 to 1.

    Raises
    ------
    PogsonValueError
        If the fraction is not from 0 to 1.

    Examples
    --------
    >>> galaxy = BulgeDisc(Sersic(4.0, 0.3), Sersic(1.0, 1.2, 0.5, 40.0), bulge_fraction=0.3)
    >>> [fraction for fraction, profile in galaxy.components]
    [0.3, 0.7]
    """

    bulge: Sersic
    disc: Sersic
    bulge_fraction: float

    def __post_init__(self) -> None:
        if not (isinstance(self.bulge, Sersic) and isinstance(self.disc, Sersic)):
            raise PogsonTypeError("The bulge and the disc must be Sersic profiles.")
        if not 0.0 <= self.bulge_fraction <= 1.0:
            raise PogsonValueError(f"bulge_fraction={self.bulge_fraction!r} must be from 0 to 1.")

    @property
    def components(self) -> tuple[tuple[float, Sersic], ...]:
        """Fractions of the flux and their profiles, without empty ones."""
        both = ((self.bulge_fraction, self.bulge), (1.0 - self.bulge_fraction, self.disc))
        return tuple((fraction, profile) for fraction, profile in both if fraction > 0)


def render_galaxy(
    profile: Sersic | BulgeDisc,
    psf: PSF,
    *,
    x: float,
    y: float,
    half_size: int,
    jacobian: Any = None,
) -> Stamp:
    r"""Draw a galaxy of unit flux, convolved with the effective PSF at its centre.

    Parameters
    ----------
    profile : Sersic or BulgeDisc
        What to draw, on the sky.
    psf : PSF
        Holds the response of the pixel, which is not applied again. Off its box, the PSF of the
        nearest pixel is taken.
    x, y : float
        Centre in pixels (0-based, pixel centres on integers).
    half_size : int
        The stamp has ``2 half_size + 1`` pixels a side; `galaxy_half_size` chooses one.
    jacobian : array_like, shape (2, 2), optional
        d(xi, eta)/d(x, y) at the centre in arcsec per pixel, xi toward east (`SkyMap.jacobian`).
        By default 1 arcsec pixels, north up and east left.

    Returns
    -------
    stamp : Stamp
        Unit flux in the normalisation of the PSF, less what lies beyond the stamp.

    Raises
    ------
    PogsonValueError
        If a position, the half-size or the Jacobian is not usable.

    Notes
    -----
    The stamp is :math:`\mathcal{F}^{-1}[\tilde P(\mathbf{k})\,\tilde S(2\pi A^T \mathbf{k})]`, with
    :math:`\tilde S` the Hankel transform of the round profile of unit half-light radius and A the
    matrix that makes the unit circle the half-light ellipse in pixels. PSFs are sampled at least 6
    times per FWHM.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> stamp = render_galaxy(
    ...     Sersic(1.0, 2.0, axis_ratio=0.5), MoffatPSF(3.5, 3.0), x=50.2, y=40.0, half_size=40
    ... )
    >>> stamp.image.shape, round(float(stamp.image.sum()), 4)
    ((81, 81), 1.0)
    """
    if not isinstance(profile, Sersic | BulgeDisc):
        raise PogsonTypeError(
            f"profile must be a Sersic or BulgeDisc, not {type(profile).__name__}."
        )
    if int(half_size) != half_size or not 0 <= half_size <= MAX_HALF_SIZE - 16:
        raise PogsonValueError(
            f"half_size={half_size!r} must be a whole number from 0 to {MAX_HALF_SIZE - 16} pixels."
        )
    if not (np.isfinite(x) and np.isfinite(y) and abs(x) < 1e9 and abs(y) < 1e9):
        raise PogsonValueError(f"Galaxy position x={x!r}, y={y!r} is not a finite position.")
    half = int(half_size)
    inverse = _inverse_jacobian(jacobian)
    parts = [(f, p, inverse @ _ellipse(p)) for f, p in profile.components]
    here = nearest_position(psf, x=np.array([x]), y=np.array([y]))
    width = float(psf.fwhm(x=here[0][0], y=here[1][0]))
    width = width if np.isfinite(width) else 1.0
    extent = max(float(np.linalg.norm(a, 2)) for _, _, a in parts)
    reach = half + int(np.ceil(max(8.0, 6.0 * width, min(3.0 * extent, 1.0 * half + 64))))
    period = _odd_length(2 * min(reach, MAX_HALF_SIZE) + 1)
    factor = int(np.clip(np.ceil(6.0 / width), 2, 8))
    grid, x_first, y_first = _psf_grid(psf, x, y, period, factor)
    image = _convolve(grid, parts, factor)[::factor, ::factor]
    x0, y0 = int(np.floor(x + 0.5)) - half, int(np.floor(y + 0.5)) - half
    side = 2 * half + 1
    columns, rows = x0 - x_first + np.arange(side), y0 - y_first + np.arange(side)
    stamp = image[np.ix_(rows % period, columns % period)]
    u, v = x0 + np.arange(side) - x, y0 + np.arange(side) - y
    blur = _second_moment(grid, x - x_first, y - y_first, factor)
    for fraction, part, matrix in parts:
        _take_off_repetitions(stamp, fraction, part, matrix, u, v, period, blur)
    stamp.flags.writeable = False
    return Stamp(stamp, Box(x0, y0, side, side))


def galaxy_half_size(
    profile: Sersic | BulgeDisc,
    psf: PSF,
    *,
    x: float,
    y: float,
    accuracy: float = 1e-4,
    radius: float | None = None,
    jacobian: Any = None,
    max_half_size: int = 256,
) -> int:
    """Return a half-size for the stamp of a galaxy.

    Parameters
    ----------
    profile, psf, x, y, jacobian
        As for `render_galaxy`.
    accuracy : float, optional
        Largest fraction of the light that may lie beyond the stamp.
    radius : float, optional
        Largest radius in pixels within which the galaxy will be measured; a stamp that holds that
        circle is large enough whatever lies beyond.
    max_half_size : int, optional
        Limit.

    Returns
    -------
    half_size : int
        Half the budget goes to the profile along its major axis, half to the PSF.

    Examples
    --------
    >>> from pogson.psf import MoffatPSF
    >>> psf = MoffatPSF(3.5, 3.0)
    >>> galaxy_half_size(Sersic(1.0, 2.0), psf, x=0.0, y=0.0, accuracy=1e-3)
    33
    >>> galaxy_half_size(Sersic(4.0, 2.0), psf, x=0.0, y=0.0, radius=12.0)
    14
    """
    if not 0.0 < accuracy < 1.0:
        raise PogsonValueError(f"accuracy={accuracy!r} must be a fraction between 0 and 1.")
    inverse = _inverse_jacobian(jacobian)
    here = nearest_position(psf, x=np.array([float(x)]), y=np.array([float(y)]))
    size = 0.0
    for _, part in profile.components:
        scale = float(np.linalg.norm(inverse @ _ellipse(part), 2)) / part.half_light_radius
        size = max(size, scale * part.radius_enclosing(1.0 - 0.5 * accuracy))
    size += float(stamp_half_size(psf, x=here[0], y=here[1], accuracy=0.5 * accuracy)[0])
    if radius is not None:
        size = min(size, float(radius) + 1.5)
    return int(min(np.ceil(size), max_half_size, MAX_HALF_SIZE - 16))


# -- geometry ----------------------------------------------------------------------------------
def _inverse_jacobian(jacobian: Any) -> np.ndarray:
    matrix = _FLAT_SKY if jacobian is None else np.asarray(jacobian, np.float64)
    if matrix.shape != (2, 2) or not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise PogsonValueError(
            "The Jacobian must be a finite, regular 2 x 2 matrix d(xi, eta)/d(x, y), not "
            f"{np.asarray(jacobian).tolist()}."
        )
    return np.linalg.inv(matrix)


def _ellipse(profile: Sersic) -> np.ndarray:
    """Return the matrix from the unit circle to the half-light ellipse in (xi, eta), arcsec."""
    angle, stretch = np.deg2rad(profile.position_angle), np.sqrt(profile.axis_ratio)
    major = np.array([np.sin(angle), np.cos(angle)]) / stretch
    minor = np.array([np.cos(angle), -np.sin(angle)]) * stretch
    return profile.half_light_radius * np.stack([major, minor], axis=1)


def _odd_length(least: int) -> int:
    """Return the smallest odd number of factors 3, 5 and 7 that is not below `least`."""
    n = least | 1
    while True:
        rest = n
        for prime in (3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


# -- transforms --------------------------------------------------------------------------------
def _psf_grid(
    psf: PSF, x: float, y: float, period: int, factor: int
) -> tuple[np.ndarray, int, int]:
    """Return a star sampled ``factor`` times per pixel on a periodic grid, and its first pixel.

    A star moved by +s shows at pixel i what one at rest shows at i - s: drawings at factor^2 steps
    interleave.
    """
    half = min(period // 2, MAX_HALF_SIZE)
    x_first, y_first = int(np.floor(x + 0.5)) - period // 2, int(np.floor(y + 0.5)) - period // 2
    n = period * factor
    grid = np.zeros((n, n))
    step = np.arange(factor)
    sx, sy = (s.ravel() for s in np.meshgrid(step, step))
    xs, ys, shift_x, shift_y = nearest_position(psf, x=x + sx / factor, y=y + sy / factor)
    for k in range(sx.size):
        stamp, x_min, y_min = psf.draw_many(x=xs[k : k + 1], y=ys[k : k + 1], half_size=half)
        i = int(x_min[0]) + int(shift_x[k]) - x_first + np.arange(2 * half + 1)
        j = int(y_min[0]) + int(shift_y[k]) - y_first + np.arange(2 * half + 1)
        grid[np.ix_((j * factor - sy[k]) % n, (i * factor - sx[k]) % n)] = stamp[0]
    return grid, x_first, y_first


def _convolve(
    grid: np.ndarray, parts: list[tuple[float, Sersic, np.ndarray]], factor: int
) -> np.ndarray:
    """Return the periodic convolution of a sampled star with profiles on the continuous plane."""
    n = grid.shape[0]
    kx, ky = fft.rfftfreq(n, 1.0 / factor), fft.fftfreq(n, 1.0 / factor)
    transform = np.zeros((n, kx.size))
    for fraction, part, matrix in parts:
        first = matrix[0, 0] * kx[None, :] + matrix[1, 0] * ky[:, None]
        second = matrix[0, 1] * kx[None, :] + matrix[1, 1] * ky[:, None]
        transform += fraction * sersic_transform(
            2.0 * np.pi * np.sqrt(first * first + second * second), part.index
        )
    return fft.irfft2(fft.rfft2(grid) * transform, s=grid.shape)


def _mean_square(index: float) -> float:
    """Return the mean squared radius of a profile of half-light radius 1."""
    b = special.gammaincinv(2.0 * index, 0.5)
    ratio = special.gammaln(4.0 * index) - special.gammaln(2.0 * index)
    return float(np.exp(ratio - 2.0 * index * np.log(b)))


@lru_cache(maxsize=64)
def _transform_table(index: float) -> tuple[CubicSpline, float, float]:
    """Return the transform as a spline of ln k, and the limits of k between which it holds."""
    from scipy.interpolate import CubicSpline

    n_points = 16384
    b = special.gammaincinv(2.0 * index, 0.5)
    # from deep inside the core to far beyond where exp(-b r^(1/n)) is 1e-40, for the low k
    low, high = np.log(1e-10), index * np.log(92.0 / b) + np.log(1e4)
    ln_r, step = np.linspace(low, high, n_points, retstep=True)
    r = np.exp(ln_r)
    norm = index * np.exp(special.gammaln(2.0 * index) - 2.0 * index * np.log(b))
    profile = r * np.exp(-b * r ** (1.0 / index)) / norm
    offset = fft.fhtoffset(step, 0.0, bias=0.0)
    k = np.exp(offset) / r[::-1]
    value = fft.fht(profile, step, 0.0, offset=offset, bias=0.0) / k
    # below, the first two terms of the series are good to 1e-9
    k_low, k_high = 2e-3 / np.sqrt(_mean_square(index)), 1e7
    keep = (k > 0.5 * k_low) & (k < 2.0 * k_high)
    return CubicSpline(np.log(k[keep]), value[keep]), k_low, k_high


def sersic_transform(k: np.ndarray, index: float) -> np.ndarray:
    r"""Return the two-dimensional Fourier transform of a round Sersic profile of unit flux.

    :math:`2\pi \int I(r) J_0(kr)\,r\,dr` with half-light radius 1, by a logarithmic Hankel
    transform (Hamilton 2000, MNRAS 312, 257).

    Parameters
    ----------
    k : numpy.ndarray
        Angular frequency in radians per half-light radius.
    index : float
        Sersic index.

    Examples
    --------
    >>> bool(abs(sersic_transform(np.array([0.0]), 4.0)[0] - 1.0) < 1e-12)
    True
    """
    spline, k_low, k_high = _transform_table(float(index))
    value = spline(np.log(np.clip(k, k_low, k_high)))
    below = k < k_low
    if below.any():
        mean_square = _mean_square(index)
        value[below] = 1.0 - 0.25 * mean_square * k[below] ** 2
    return np.asarray(value)


def _second_moment(grid: np.ndarray, x: float, y: float, factor: int) -> float:
    """Return the variance along an axis of a sampled star, within a sixth of its period."""
    n = grid.shape[0]
    distance = [(np.arange(n) / factor - c + 0.5 * n / factor) % (n / factor) for c in (x, y)]
    u, v = (d - 0.5 * n / factor for d in distance)
    r2 = u[None, :] ** 2 + v[:, None] ** 2
    inside = r2 < (n / factor / 6.0) ** 2
    return max(0.0, float(0.5 * np.sum((r2 * grid)[inside]) / factor**2))


def _take_off_repetitions(
    stamp: np.ndarray, fraction: float, profile: Sersic, matrix: np.ndarray, u: np.ndarray,
    v: np.ndarray, period: int, blur: float,
) -> None:  # fmt: skip
    """Subtract the copies of a galaxy, a period apart, that a discrete transform adds.

    The PSF acts on the nearest ones by its second moment ``blur``: S + blur/2 laplacian(S), the
    mean of four points.
    """
    inverse = np.linalg.inv(matrix)
    n = profile.index
    b = special.gammaincinv(2.0 * n, 0.5)
    density = fraction / (
        2.0 * np.pi * n * np.exp(special.gammaln(2.0 * n) - 2.0 * n * np.log(b))
        * abs(np.linalg.det(matrix))
    )  # fmt: skip

    def surface(du: float, dv: float) -> np.ndarray:
        a, c = (u + du)[None, :], (v + dv)[:, None]
        p, q = inverse[0, 0] * a + inverse[0, 1] * c, inverse[1, 0] * a + inverse[1, 1] * c
        return density * np.exp(-b * (p * p + q * q) ** (0.5 / n))

    size = float(np.linalg.norm(matrix, 2))

    def negligible(distance: float) -> bool:
        light = density * np.exp(-b * (max(distance, 0.0) / size) ** (1.0 / n)) * stamp.size
        return bool(light < _NEGLIGIBLE)

    across, up = float(np.abs(u).max()), float(np.abs(v).max())
    if negligible(period - max(across, up)):
        return
    copies, arm = 3, np.sqrt(2.0 * blur)
    for m in range(-copies, copies + 1):
        for k in range(-copies, copies + 1):
            distance = max(abs(m) * period - across, abs(k) * period - up)
            if not (m or k) or negligible(distance):
                continue
            du, dv = m * period, k * period
            if max(abs(m), abs(k)) > 1:
                stamp -= surface(du, dv)
                continue
            for s in (-arm, arm):
                stamp -= 0.25 * (surface(du + s, dv) + surface(du, dv + s))
    # the copies farther away are as good as an even sheet of all the light out there
    far = (2 * copies + 1) * period / np.sqrt(np.pi * abs(np.linalg.det(matrix)))
    beyond = special.gammaincc(2.0 * n, b * far ** (1.0 / n))
    stamp -= fraction * beyond / period**2
