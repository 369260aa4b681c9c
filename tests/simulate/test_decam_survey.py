"""The simulated DECam campaign is what it says: geometry, response, noise, truth."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import MissingDataError, PogsonValueError
from pogson.formats.gbdes import (
    decam_detector_number,
    read_detector_offsets,
    read_photo_maps,
    read_pixel_maps,
)
from pogson.sed import Bandpass, synthetic_magnitude
from pogson.simulate.decam_camera import DecamCamera, stand_in_templates
from pogson.simulate.decam_survey import DecamCampaign, campaign_spectra, simulate_decam_survey

TWO = ("N4", "S10")


@pytest.fixture(scope="module")
def camera(shared_data) -> DecamCamera:
    photo = read_photo_maps(shared_data("decam-starflat/allsf.guts.photo"))
    photo = photo.with_templates(stand_in_templates(photo, rng_seed=5))
    pixels = read_pixel_maps(shared_data("decam-starflat/y6a1.guts.astro"), lenient=True)
    offsets = read_detector_offsets(shared_data("decam-starflat/y6a1.affine.fits"))
    return DecamCamera(photo, pixels, offsets)


def few(camera: DecamCamera, **changes):
    two = DecamCamera(camera.photo, camera.pixels, camera.offsets, detectors=TWO)
    kw = {"bands": ("g", "z"), "nights": 2, "exposures": 2, "stars": 4000, "dither": 0.1, **changes}
    return simulate_decam_survey(DecamCampaign(**kw), two)


def test_geometry(camera: DecamCamera):
    table = camera.table
    assert len(table) == 61
    assert table.identifier[list(camera.detectors).index("N4")] == decam_detector_number("N4")
    rng = np.random.default_rng(2)
    x, y = rng.uniform(2, 2045, 40), rng.uniform(2, 4093, 40)
    everywhere = []
    for row in (0, 17, 60):
        u, v = camera.plane(row, x=x, y=y, mjd=57000.0)
        index, px, py = camera.find(row, u=u, v=v, mjd=57000.0)
        assert index.tolist() == list(range(40))
        np.testing.assert_allclose([px, py], [x, y], atol=1e-5)
        # the mapping itself, without the fields that stand for it
        name = f"{camera.epoch}/{camera.detectors[row]}"
        moved = camera.offsets.pixels(camera.detectors[row], 57000.0, x=x, y=y)
        direct = camera.pixels.plane(name, x=moved[0], y=moved[1])
        np.testing.assert_allclose([u, v], direct, atol=1e-9)  # degrees: 4 microarcsec
        fu, fv = table.focal_plane(np.full(40, row), x=x, y=y)
        assert np.hypot(1.1 * fu - u, 1.1 * fv - v).max() < 3 / 3600
    # no point of the sky falls on two detectors
    su, sv = rng.uniform(-1.1, 1.1, (2, 4000))
    everywhere = np.concatenate([camera.find(d, u=su, v=sv)[0] for d in range(61)])
    assert np.unique(everywhere).size == everywhere.size
    # 61 detectors of 2048 x 4096 pixels of 0.2626 arcsec
    filled = 61 * 2048 * 4096 * (0.2626 / 3600) ** 2 / 2.2**2
    assert everywhere.size / 4000 == pytest.approx(filled, abs=0.03)
    areas = [camera.area(d) for d in range(61)]
    values = np.array([a.mean() for a in areas])
    assert 0.003 < values.max() - values.min() < 0.03
    # independent: area from corners of a pixel under the mapping
    a, b = (np.subtract(*[camera.plane(9, x=500 + i * s, y=900 + j * s) for s in (0.5, -0.5)])
            for i, j in ((1, 0), (0, 1)))  # fmt: skip
    one = abs(a[0] * b[1] - a[1] * b[0])
    c, d = (np.subtract(*[camera.plane(40, x=500 + i * s, y=900 + j * s) for s in (0.5, -0.5)])
            for i, j in ((1, 0), (0, 1)))  # fmt: skip
    ratio = one / abs(c[0] * d[1] - c[1] * d[0])
    assert areas[9](x=500.0, y=900.0) / areas[40](x=500.0, y=900.0) == pytest.approx(
        ratio, rel=1e-6
    )


def test_detections_are_truth_plus_noise(camera: DecamCamera):
    """Undo the response with the maps themselves: zero points, clouds and noise are left."""
    survey = few(camera, seed=3, cloud_structure=0.0)
    o, c = survey.observations, survey.campaign
    e = o.exposure
    band = o.tables.exposures.filter[e]
    expected = survey.star_mag[o.star] - survey.zero_point[e]
    for b, name in enumerate(c.bands):
        slopes = [survey.camera.color_slope(name, d)[1].mean() for d in range(2)]
        for d, position in enumerate(TWO):
            on = (band == b) & (o.detector == d)
            color = o.detection_color()[on]
            for part in ("poly", "rings", "lowedge", "highedge", "color"):
                full = f"{name}/{position}/{part}"
                expected[on] -= camera.photo.correction(full, x=o.x[on], y=o.y[on], color=color)
            expected[on] += np.mean(slopes) * (color - 0.61)
            expected[on] += 2.5 * np.log10(survey.areas()[int(o.tables.detectors.identifier[d])](
                x=o.x[on], y=o.y[on]))  # fmt: skip
    floor = np.where(o.exposure_column("photometric"), c.floor, c.cloudy_floor)
    z = (o.mag - expected) / np.hypot(o.mag_err, floor)
    print(z.size, z.std())
    assert z.size > 300
    assert z.mean() == pytest.approx(0.0, abs=4 / np.sqrt(z.size))
    assert z.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * z.size))
    again = few(camera, seed=3, cloud_structure=0.0).observations
    np.testing.assert_array_equal(again.mag, o.mag)


def test_clouds_nights_and_atmosphere(camera: DecamCamera):
    survey = few(camera, nights=12, exposures=4, stars=50, cloudy=0.4, chromatic=True)
    x = survey.tables.exposures
    assert 0.2 < np.mean(~x.photometric) < 0.6
    dim = survey.cloud[~x.photometric]
    assert dim.min() >= 0.05
    assert dim.max() <= 0.3
    assert np.all(survey.cloud[x.photometric] == 0)
    assert np.ptp(survey.atmosphere.water) > 2
    assert np.all((survey.atmosphere.water >= 2) & (survey.atmosphere.water <= 10))
    assert np.all(x.airmass >= 1)
    assert x.night_count == 12
    # more airmass, less light: Rayleigh in g about 0.15 mag an airmass
    g = x.photometric & (x.filter == 0)
    slope = np.polyfit(x.airmass[g], survey.zero_point[g], 1)[0]
    assert -0.3 < slope < -0.1


def test_spectra_have_their_colors():
    color, spectra = campaign_spectra((0.3, 3.0), 10)
    g, i = (Bandpass.from_speclite(f"decam2014-{b}") for b in "gi")
    measured = [float(synthetic_magnitude(s, g) - synthetic_magnitude(s, i)) for s in spectra]
    np.testing.assert_allclose(measured, color, atol=1e-6)


def test_bad_input(camera: DecamCamera):
    with pytest.raises(PogsonValueError, match="needs bands"):
        DecamCampaign(stars=0)
    with pytest.raises(MissingDataError, match="N30"):
        DecamCamera(camera.photo, camera.pixels, detectors=("N30",))
    with pytest.raises(PogsonValueError, match="'dome'"):
        camera.flat("g", 0, parts=("dome",))
