"""Real sky backgrounds (MegaPrime, two visits) under real pixel areas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pogson.fields import Box, ConstantField
from pogson.formats import read_lsst_background, read_lsst_visit_summary
from pogson.images import Exposure, background_subtracted_image, estimate_background

Find = Callable[[str], Path]
CCD = Box(0, 0, 2048, 4612)


@pytest.mark.parametrize(("visit", "spread"), [(849375, 0.02), (850587, 0.006)])
def test_real_sky_is_recovered_on_surface_brightness_only(
    shared_data: Find, rng: np.random.Generator, visit: int, spread: float
) -> None:
    """The sum of the file's four layers is the sky in surface brightness; the WCS gives areas."""
    folder = "jointcal-minimal"
    (summary,) = read_lsst_visit_summary(shared_data(f"{folder}/visitSummary-{visit}.fits"))
    sky_level = read_lsst_background(shared_data(f"{folder}/bkgd-{visit}-12.fits"))
    assert summary.sky is not None
    area = summary.sky.pixel_area_field(summary.box)
    ratio = area.relative_to(area.mean()).with_box(CCD)
    truth = sky_level.with_box(CCD).render()
    factor = ratio.render()
    assert np.ptp(factor) > spread
    sigma = float(np.sqrt(truth.mean()))
    noisy = truth + rng.normal(0.0, sigma, truth.shape)  # as the camera's sky flat leaves it
    in_surface_brightness = Exposure(
        noisy,
        unit="adu",
        measure="surface_brightness",
        box=CCD,
        area_ratio=ratio,
        sky=summary.sky,
    )
    exposure = in_surface_brightness.to("fluence")
    np.testing.assert_allclose(exposure.image, noisy * factor, rtol=3e-7)

    # Estimated from either measure: the sky, but for the noise of cells of 64 x 64 pixels (the
    # median filter over 3 x 3 cells lowers it further, a spline between cells raises it at most
    # by a fifth).
    noise = 1.2 * sigma / 64
    for given in (exposure, in_surface_brightness):
        found = estimate_background(given)
        error = found.image("surface_brightness") - truth
        print(f"{visit} from {given.measure}: mean {error.mean():+.4f}, rms {error.std():.4f} adu")
        assert abs(error.mean()) < 5 * sigma / np.sqrt(truth.size)
        assert error.std() < noise
        # back in the caller's measure, and subtracted there
        np.testing.assert_allclose(
            found.image("fluence"), found.image("surface_brightness") * factor, rtol=1e-6
        )
    left = background_subtracted_image(exposure.with_background(estimate_background(exposure)))
    assert abs(left.mean()) < 5 * sigma / np.sqrt(truth.size)

    # The same fluence taken for flat: the pixel areas are in the sky, up to 2 % of it.
    naive = exposure.with_(area_ratio=ConstantField(CCD, 1.0))
    wrong = estimate_background(naive).image("surface_brightness") - truth
    expected = truth * (factor - 1.0)
    print(f"{visit} areas ignored: mean {wrong.mean():+.3f}, rms {wrong.std():.3f} adu")
    assert wrong.std() > 2 * error.std()
    assert (wrong - expected).std() < noise
    assert abs(wrong.mean() - expected.mean()) < 5 * sigma / np.sqrt(truth.size)
