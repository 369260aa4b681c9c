"""The DECam campaign of the tests: simulated through the real star flat, solved, compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from pogson.fields import ChebyshevField
from pogson.sed import Bandpass
from pogson.simulate import (
    DecamCamera,
    DecamCampaign,
    DecamSurvey,
    campaign_spectra,
    simulate_decam_survey,
)
from pogson.survey import (
    AirmassExtinction,
    Atmosphere,
    ColorFlat,
    ColorSeds,
    DetectorZeroPoint,
    ExposurePolynomial,
    GreyCloud,
    Model,
    Solution,
    SolveSettings,
    StarFlats,
    Term,
    calibrate,
    calibrate_physical,
    solve_star_flats,
    star_flat_terms,
)
from pogson.survey.diagnostics import residuals_versus

NINE = ("N4", "S4", "N3", "N5", "S3", "S5", "N10", "N11", "S10")


@lru_cache(maxsize=1)
def whole_camera(folder: Path) -> DecamCamera:
    return DecamCamera.read(folder, rng_seed=7)


@lru_cache(maxsize=4)
def camera(folder: Path, detectors: tuple[str, ...] = ()) -> DecamCamera:
    whole = whole_camera(folder)
    if not detectors:
        return whole
    return DecamCamera(whole.photo, whole.pixels, whole.offsets, detectors=detectors)


def cloud_term(photometric: np.ndarray, order: int = 2) -> Term:
    """Smooth structure of clouds: free on cloudy exposures, none on photometric ones."""
    loose = np.where(photometric, 1e-6, 0.03)
    n = (order + 1) * (order + 2) // 2 - 1
    return ExposurePolynomial("cloud_structure", order=order, prior_sigma=np.repeat(loose, n))


def solve(
    survey: DecamSurvey, more: tuple[Term, ...] = (), **settings
) -> tuple[Solution, StarFlats]:
    c = survey.campaign
    terms = list(more)
    if c.cloudy > 0:
        terms.append(cloud_term(survey.tables.exposures.photometric))
    if c.color_terms:
        terms.append(ColorFlat(pivot=c.pivot))
    return solve_star_flats(
        survey.observations,
        order=3,
        areas=survey.areas() if c.jacobian else None,
        templates=survey.camera.templates(c.bands[0]) if c.templates else (),
        color_pivot=c.pivot if c.color_terms else None,
        terms=terms,
        settings=SolveSettings(**{"floor": "fit", **settings}),
    )


@dataclass
class MapError:
    """Star flat minus truth in superpixels of one band, magnitudes."""

    rms: float
    expected: float
    chi2: float

    @property
    def ratio(self) -> float:
        return self.rms / self.expected


def map_error(survey: DecamSurvey, flats: StarFlats, band: str, shape=(4, 2)) -> MapError:
    """Means over superpixels; their common mean is the zero points', and left out."""
    ny, nx = shape
    gx = (np.arange(4 * nx) + 0.5) * 2048 / (4 * nx) - 0.5
    gy = (np.arange(4 * ny) + 0.5) * 4096 / (4 * ny) - 0.5
    x, y = (g.ravel() for g in np.meshgrid(gx, gy))
    cell = ((y + 0.5) * ny // 4096 * nx + (x + 0.5) * nx // 2048).astype(int)
    average = np.zeros((ny * nx, x.size))
    average[cell, np.arange(x.size)] = 1.0 / 16
    found, variance = [], []
    for d, number in enumerate(survey.tables.detectors.identifier):
        flat = flats.get(band, int(number))
        found.append(average @ (flat.magnitudes(x=x, y=y) - survey.flat(band, d)(x=x, y=y)))
        k = flat.covariance
        design = np.stack([np.broadcast_to(t(x=x, y=y), x.shape) for t in k.terms]) / (
            0.4 * np.log(10)
        )
        v = average @ design.T
        variance.append(np.einsum("pi,ij,pj->p", v, k.matrix, v))
    d = np.array(found)
    d -= d.mean()
    expected = np.sqrt(np.mean(variance))
    return MapError(
        float(d.std()), float(expected), float(np.mean(d.ravel() ** 2 / np.ravel(variance)))
    )


def make(folder: Path, detectors: tuple[str, ...] = (), **changes) -> DecamSurvey:
    return simulate_decam_survey(DecamCampaign(**changes), camera(folder, detectors))


def true_parameters(survey: DecamSurvey, solution: Solution) -> np.ndarray:
    """The truth in the solution's own parameters and gauge; NaN for terms without a truth here."""
    model, c = solution.model, survey.campaign
    out = np.full(model.size, np.nan)
    out[model.slice("exposure_zero_point")] = survey.zero_points_in_gauge()
    n = len(survey.tables.detectors)
    names = [t.name for t in model.terms]
    constants, flats, slopes, gradients, amplitudes = [], [], [], [], []
    for band in c.bands:
        series = [
            ChebyshevField.approximate(survey.camera.flat(band, d, parts=("poly",)), 3).coefficients
            for d in range(n)
        ]
        first = np.array([k[0, 0] for k in series])
        constants.append(first - first.mean())
        pairs = [(d - j, j) for d in range(4) for j in range(d + 1)][1:]
        flats.append([[k[j, i] for i, j in pairs] for k in series])
        color = [
            ChebyshevField.approximate(survey.camera.color_slope(band, d)[1], 1).coefficients
            for d in range(n)
        ]
        middle = np.array([k[0, 0] for k in color])
        slopes.append(-(middle - middle.mean()))
        gradients.append([[k[0, 1], k[1, 0]] for k in color])
        parts = ("rings", "lowedge", "highedge")
        amplitudes.append(
            [[survey.camera.photo.amplitude(f"{band}/{d}/{p}")[1] for p in parts]
             for d in survey.camera.detectors]
        )  # fmt: skip
    truth = {
        "detector_zero_point": constants, "star_flat": flats, "color_slope": slopes,
        "color_flat": gradients, "templates": amplitudes,
    }  # fmt: skip
    for name, value in truth.items():
        if name in names:
            out[model.slice(name)] = np.ravel(value)
    return out


def white_pulls(survey: DecamSurvey, solution: Solution, name: str | None = None) -> np.ndarray:
    """Differences from the truth, made independent and of unit variance by the covariance."""
    truth = true_parameters(survey, solution)
    use = np.flatnonzero(np.isfinite(truth) & (solution.information > 0))
    if name is not None:
        part = solution.model.slice(name)
        use = use[(use >= part.start) & (use < part.stop)]
    c = solution.covariance.block(use)
    s = np.sqrt(np.diag(c))
    values, vectors = np.linalg.eigh(c / np.outer(s, s))
    keep = values > 1e-9 * values.max()  # conditions of the gauge leave null directions
    d = (solution.parameters - truth)[use] / s
    return (vectors[:, keep].T @ d) / np.sqrt(values[keep])


@dataclass
class Slopes:
    """Slopes with colour, magnitudes per magnitude, of one band."""

    exposures: float  # rms over exposures of those of their residuals, beyond the noise
    stars: float  # of the stars' magnitudes against the truth
    error: float  # of the latter, from the stars' own noise


def color_slopes(survey: DecamSurvey, solution: Solution, band: int) -> Slopes:
    each = []
    for e in np.flatnonzero(survey.tables.exposures.filter == band):
        on = solution.observations.exposure == e
        v = residuals_versus(solution, "color", filter=band, select=on)
        each.append(v.slope**2 - v.slope_error**2)
    table = survey.observations.stars
    use = (table.filter == band) & np.isfinite(solution.stars.mag_err)
    x, y = table.color[use], (solution.stars.mag - survey.star_mag)[use]
    w = solution.stars.mag_err[use] ** -2.0
    x = x - np.sum(w * x) / np.sum(w)
    spread = float(np.sum(w * x**2))
    return Slopes(
        float(np.sqrt(max(np.mean(each), 0.0))), float(np.sum(w * x * y) / spread), spread**-0.5
    )


def solve_atmosphere(survey: DecamSurvey) -> tuple[Solution, Solution]:
    """Star flat and colour terms with a grey zero point an exposure; and with the atmosphere."""
    c, o = survey.campaign, survey.observations
    terms = [
        *star_flat_terms(
            survey.tables, areas=survey.areas(), templates=survey.camera.templates(c.bands[0]),
            color_pivot=c.pivot,
        ),
        ColorFlat(pivot=c.pivot),
    ]  # fmt: skip
    color = Bandpass.from_speclite("decam2014-g"), Bandpass.from_speclite("decam2014-i")
    spectra = campaign_spectra(c.colors)[1]
    seds = ColorSeds.from_spectra(spectra, survey.bandpasses, color=color, order="full")
    air = Atmosphere(survey.bandpasses, seds, fit=("log_aerosol", "log_water"))
    grey = calibrate(o, Model(terms, survey.tables), floor="fit")
    return grey, calibrate_physical(o, [*terms, air], floor="fit", gauge="anchor").solution


def find_clouds(survey: DecamSurvey) -> tuple[np.ndarray, np.ndarray]:
    """Zero points of exposures, and which are photometric, when nobody knows of the clouds.

    The model: one zero point a night and filter for each detector, extinction by night, clouds.
    """
    o = survey.observations
    exposures = replace(survey.tables.exposures, photometric=np.zeros(len(survey.cloud), bool))
    flat = star_flat_terms(
        survey.tables, areas=survey.areas(), templates=survey.camera.templates("g"),
        color_pivot=survey.campaign.pivot,
    )[1:]  # fmt: skip
    cloud, extinction = GreyCloud(), AirmassExtinction(prior_mean=0.1, prior_sigma=0.1)
    instrument = DetectorZeroPoint("instrument", by=("night", "filter"), gauge=False)
    one_each = [t for t in flat if t.name != "detector_zero_point"]
    for threshold in (0.1, 0.06, 0.04, *[0.02] * 8):  # the cut is tightened as the fit improves
        tables = replace(survey.tables, exposures=exposures)
        terms = [instrument, *one_each, extinction, cloud, cloud_term(exposures.photometric)]
        solution = calibrate(replace(o, tables=tables), terms, floor="fit")
        now = cloud.photometric(tables, solution["grey_cloud"], threshold)
        if threshold == 0.02 and np.array_equal(now, exposures.photometric):
            break
        exposures = replace(exposures, photometric=now)
    x, n = exposures, len(survey.tables.detectors)
    group = x.night * len(x.filter_names) + x.filter  # as both terms number them
    zero = solution["instrument"].reshape(-1, n).mean(axis=1)[group]
    zero = zero - solution["airmass_extinction"][group] * (x.airmass - 1.0)
    return zero - solution["grey_cloud"], exposures.photometric
