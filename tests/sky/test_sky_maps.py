"""One contract over every kind of sky map, and each kind's own truth."""

from __future__ import annotations

import pickle

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import (
    PogsonTypeError,
    PogsonValueError,
    PogsonWarning,
    UnitMismatchError,
)
from pogson.fields import Box
from pogson.sky import (
    AstSkyMap,
    FitsSkyMap,
    GwcsSkyMap,
    SkyMap,
    angular_separation,
    polygon_area,
    skymap_from_dict,
)
from pogson.sky.geometry import unit_vectors

BOX = Box(0, 0, 2000, 1800)

_LINEAR = {"CD1_1": -7e-5, "CD1_2": 1e-6, "CD2_1": 2e-6, "CD2_2": 7.1e-5}


def cards(projection: str, ra: float, dec: float, **more: float) -> dict[str, object]:
    ctype = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}"}
    place = {"CRVAL1": ra, "CRVAL2": dec, "CRPIX1": 1000.5, "CRPIX2": 900.0}
    return {**ctype, **place, **_LINEAR, **more}


SIP = {
    "A_ORDER": 3, "B_ORDER": 3, "A_2_0": 1e-6, "A_0_2": -2e-6, "A_1_1": 1.5e-6, "A_3_0": 4e-9,
    "B_2_0": 1e-6, "B_1_1": -2e-6, "B_0_3": 3e-9, "A_1_2": 4e-9,
}  # fmt: skip
TPV = {
    "PV1_0": 1e-4, "PV1_1": 1.001, "PV1_2": 1e-4, "PV1_4": 2e-3, "PV1_5": 1e-3, "PV1_7": -1e-2,
    "PV2_0": 0.0, "PV2_1": 1.0, "PV2_4": 2e-3, "PV2_10": 0.02,
}  # fmt: skip
ZPN = {"PV2_1": 1.0, "PV2_3": 42.0}


def make_gwcs(ra: float, dec: float, *, quantity: bool = False, inverse: bool = True) -> GwcsSkyMap:
    pytest.importorskip("gwcs")
    import astropy.modeling.models as m
    import gwcs
    from astropy import coordinates as coord
    from gwcs import coordinate_frames as cf

    matrix = np.array([[-7e-5, 1e-6], [2e-6, 7.1e-5]])
    linear = (
        m.Shift(-999.5) & m.Shift(-899.0)
        | m.AffineTransformation2D(matrix)
        | m.Pix2Sky_TAN()
        | m.RotateNative2Celestial(ra, dec, 180.0)
    )
    if not inverse:
        poly = m.Polynomial2D(2, c1_0=1.0, c0_1=0.0, c2_0=1e-6, c1_1=2e-7)
        poly_y = m.Polynomial2D(2, c1_0=0.0, c0_1=1.0, c0_2=1e-6, c1_1=-2e-7)
        linear = m.Mapping((0, 1, 0, 1)) | poly & poly_y | linear
    pixels = cf.Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = cf.CelestialFrame(reference_frame=coord.ICRS(), unit=(u.deg, u.deg), name="icrs")
    wcs = gwcs.WCS([(pixels, linear), (sky, None)])
    wcs.bounding_box = ((-0.5, 1999.5), (-0.5, 1799.5))
    return GwcsSkyMap(wcs)


def _ast(header: dict[str, object]) -> AstSkyMap:
    pytest.importorskip("starlink.Ast")
    return AstSkyMap.from_header(FitsSkyMap(header).to_header())


def _lookup() -> FitsSkyMap:
    """A TAN map with a distortion lookup table of half a pixel."""
    import astropy.wcs
    from astropy.io.fits import Header

    wcs = astropy.wcs.WCS(Header(cards("TAN", 150.0, 2.0).items()))
    y, x = np.mgrid[0:19, 0:21]
    table = (0.5 * np.sin(x / 7.0) * np.cos(y / 9.0)).astype(np.float32)
    lookup = astropy.wcs.DistortionLookupTable(table, (1.0, 1.0), (1.0, 1.0), (100.0, 100.0))
    wcs.cpdis1 = wcs.cpdis2 = lookup
    return FitsSkyMap(wcs)


MAPS = {
    "tan": lambda: FitsSkyMap.tan(30.0, -40.0, x=900.0, y=850.0, scale_arcsec=0.26),
    "tan-wrap": lambda: FitsSkyMap(cards("TAN", 0.0, 1.0)),
    "tan-pole": lambda: FitsSkyMap(cards("TAN", 10.0, 90.0)),
    "sip": lambda: FitsSkyMap(cards("TAN-SIP", 150.0, 2.0, **SIP)),
    "sip-wrap": lambda: FitsSkyMap(cards("TAN-SIP", 359.999, -60.0, **SIP)),
    "sip-south-pole": lambda: FitsSkyMap(cards("TAN-SIP", 77.0, -89.99, **SIP)),
    "tpv": lambda: FitsSkyMap(cards("TPV", 0.01, 2.0, **TPV)),
    "zpn": lambda: FitsSkyMap(cards("ZPN", 0.0, 88.0, **ZPN)),
    "arc": lambda: FitsSkyMap(cards("ARC", 200.0, 45.0)),
    "lookup": _lookup,
    "ast": lambda: _ast(cards("TAN-SIP", 359.99, 89.9, **SIP)),
    "ast-tpv": lambda: _ast(cards("TPV", 150.0, 2.0, **TPV)),
    "gwcs": lambda: make_gwcs(0.0, 89.99),
    "gwcs-no-inverse": lambda: make_gwcs(120.0, -30.0, inverse=False),
}


@pytest.fixture(scope="module", params=sorted(MAPS))
def sky(request: pytest.FixtureRequest) -> SkyMap:
    return MAPS[request.param]()


def grid(box: Box, n: int = 7) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(*box.x_bounds, n)[np.newaxis, :]
    y = np.linspace(*box.y_bounds, n)[:, np.newaxis]
    return x, y


def truth_jacobian(sky: SkyMap, x: float, y: float) -> np.ndarray:
    """Ridders' extrapolated difference of tangent-plane offsets: an independent derivative."""
    ra0, dec0 = np.deg2rad(sky.sky(x=x, y=y))

    def offsets(px: float, py: float) -> np.ndarray:
        ra, dec = np.deg2rad(sky.sky(x=px, y=py))
        cosc = np.sin(dec0) * np.sin(dec) + np.cos(dec0) * np.cos(dec) * np.cos(ra - ra0)
        xi = np.cos(dec) * np.sin(ra - ra0) / cosc
        eta = (np.cos(dec0) * np.sin(dec) - np.sin(dec0) * np.cos(dec) * np.cos(ra - ra0)) / cosc
        return np.rad2deg([xi, eta]) * 3600

    out = np.empty((2, 2))
    for axis, (ux, uy) in enumerate(((1, 0), (0, 1))):
        d = [
            (offsets(x + h * ux, y + h * uy) - offsets(x - h * ux, y - h * uy)) / (2 * h)
            for h in (16.0, 8.0, 4.0)
        ]
        first = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
        out[:, axis] = (16 * first[1] - first[0]) / 15
    return out


def test_round_trip(sky: SkyMap) -> None:
    x, y = np.broadcast_arrays(*grid(BOX))
    ra, dec = sky.sky(x=x, y=y)
    assert ra.shape == x.shape
    assert (ra >= 0).all()
    assert (ra < 360).all()
    bx, by = sky.pixel(ra, dec)
    assert np.hypot(bx - x, by - y).max() < 1e-6


def test_scalars_and_nan(sky: SkyMap) -> None:
    ra, dec = sky.sky(x=10.0, y=20.0)
    assert isinstance(ra, float)
    assert isinstance(dec, float)
    x, _ = sky.pixel(ra, dec)
    assert isinstance(x, float)
    assert x == pytest.approx(10.0, abs=1e-6)
    ra, dec = sky.sky(x=[np.nan, 10.0], y=20.0)
    assert np.isnan(ra[0])
    assert np.isfinite(ra[1])
    x, _ = sky.pixel([np.nan, ra[1]], [0.0, dec[1]])
    assert np.isnan(x[0])
    assert x[1] == pytest.approx(10.0, abs=1e-6)


def test_jacobian_against_extrapolated_difference(
    sky: SkyMap, request: pytest.FixtureRequest
) -> None:
    # bilinear tables have kinks: only there do steps of different size disagree
    tolerance = 1e-3 if "lookup" in request.node.name else 3e-9
    for x, y in ((10.0, 20.0), (1000.0, 900.0), (1999.0, 1799.0), (50.0, 1700.0)):
        truth = truth_jacobian(sky, x, y)
        scale = np.sqrt(abs(np.linalg.det(truth)))
        if "pole" in request.node.name and (x, y) == (1000.0, 900.0):
            continue  # within 0.5 pixel of the pole: east and north turn with the position
        np.testing.assert_allclose(sky.jacobian(x=x, y=y), truth, rtol=0, atol=tolerance * scale)


def test_area_is_that_of_the_spherical_quadrilateral(
    sky: SkyMap, request: pytest.FixtureRequest
) -> None:
    tolerance = 1e-3 if "lookup" in request.node.name else 2e-5  # kinks of the bilinear table
    for x, y in ((3.0, 4.0), (1000.0, 900.0), (1990.0, 1790.0)):
        half = 5.0
        corners = sky.sky(
            x=np.array([x - half, x + half, x + half, x - half]),
            y=np.array([y - half, y - half, y + half, y + half]),
        )
        mean = polygon_area(*corners) / (2 * half) ** 2
        assert sky.pixel_area(x=x, y=y) == pytest.approx(mean, rel=tolerance)
        assert sky.pixel_scale(x=x, y=y) ** 2 == pytest.approx(sky.pixel_area(x=x, y=y))


def test_sum_of_pixels_is_the_footprint(sky: SkyMap) -> None:
    """The area of a box is both the integral of the pixel area and a spherical polygon."""
    box = Box(700, 600, 512, 512)
    area = sky.pixel_area_field(box, tolerance=1e-2)
    (x0, x1), (y0, y1) = box.x_bounds, box.y_bounds
    t = np.linspace(0, 1, 65)[:-1]
    ex = np.concatenate([x0 + (x1 - x0) * t, np.full(64, x1), x1 - (x1 - x0) * t, np.full(64, x0)])
    ey = np.concatenate([np.full(64, y0), y0 + (y1 - y0) * t, np.full(64, y1), y1 - (y1 - y0) * t])
    assert area.integral() == pytest.approx(polygon_area(*sky.sky(x=ex, y=ey)), rel=3e-4)
    corners = sky.footprint(box)
    assert corners.shape == (4, 2)
    assert polygon_area(*corners.T) == pytest.approx(area.integral(), rel=3e-3)


def test_area_field(sky: SkyMap, request: pytest.FixtureRequest) -> None:
    if "lookup" in request.node.name:
        with pytest.warns(PogsonWarning, match="relative error"):
            area = sky.pixel_area_field(BOX, max_order=6)
        assert area.achieved_error > 1e-6
        return
    area = sky.pixel_area_field(BOX)
    assert area.achieved_error <= 1e-6
    rng = np.random.default_rng(7)
    x, y = rng.uniform(-0.5, 1999.5, 300), rng.uniform(-0.5, 1799.5, 300)
    np.testing.assert_allclose(area(x=x, y=y), sky.pixel_area(x=x, y=y), rtol=1.5e-6)
    looser = sky.pixel_area_field(BOX, tolerance=1e-3)
    assert looser.chebyshev.order_x <= area.chebyshev.order_x
    degrees = sky.pixel_area_field(BOX, unit=u.deg**2)
    assert degrees(x=5.0, y=5.0) * 3600**2 == pytest.approx(area(x=5.0, y=5.0), rel=1e-9)


def test_shifted(sky: SkyMap) -> None:
    cut = sky.shifted(100, 250)
    x, y = np.array([0.0, 333.0]), np.array([12.0, 444.5])
    np.testing.assert_allclose(cut.sky(x=x, y=y), sky.sky(x=x + 100, y=y + 250), rtol=0, atol=0)
    ra, dec = cut.sky(x=x, y=y)
    np.testing.assert_allclose(cut.pixel(ra, dec), (x, y), atol=1e-6)
    np.testing.assert_allclose(
        cut.jacobian(x=x, y=y), sky.jacobian(x=x + 100, y=y + 250), rtol=1e-12, atol=1e-12
    )
    assert cut != sky
    assert cut.shifted(-100, -250) == sky
    with pytest.raises(PogsonValueError, match="finite"):
        sky.shifted(np.nan, 0)


def test_copies(sky: SkyMap) -> None:
    x, y = np.array([0.0, 333.0]), np.array([12.0, 444.5])
    cut = sky.shifted(3, 4)
    for copy in (skymap_from_dict(cut.to_dict()), pickle.loads(pickle.dumps(cut))):
        assert copy == cut
        assert hash(copy) == hash(cut)
        np.testing.assert_allclose(copy.sky(x=x, y=y), cut.sky(x=x, y=y), rtol=0, atol=1e-11)
    assert repr(cut)
    with pytest.raises(AttributeError, match="immutable"):
        sky._offset = (1.0, 1.0)  # type: ignore[misc]


def test_header(sky: SkyMap, request: pytest.FixtureRequest) -> None:
    cut = sky.shifted(3.0, 4.0)
    if not isinstance(sky, FitsSkyMap) or "lookup" in request.node.name:
        with pytest.raises(PogsonValueError, match="to_dict"):
            cut.to_header()
        return
    again = FitsSkyMap.from_header(cut.to_header())
    x, y = np.array([0.0, 333.0]), np.array([12.0, 444.5])
    np.testing.assert_allclose(again.sky(x=x, y=y), cut.sky(x=x, y=y), rtol=0, atol=1e-10)


def test_sip_copy(sky: SkyMap, request: pytest.FixtureRequest) -> None:
    copy, error = FitsSkyMap.fit_tan_sip(sky, BOX, degree=5)
    # a lookup table is no polynomial; the error must say so
    assert error < (0.2 if "lookup" in request.node.name else 1e-4)
    x, y = np.broadcast_arrays(*grid(BOX, 9))
    gap = angular_separation(*sky.sky(x=x, y=y), *copy.sky(x=x, y=y)) * 3600
    assert gap.max() <= 1.5 * error + 1e-9


# -- independent truths ---------------------------------------------------------------------
@pytest.mark.parametrize("dec", [-90.0, -30.0, 0.0, 60.0, 90.0])
def test_tan_area_is_cosine_cubed(dec: float) -> None:
    """A gnomonic pixel has area s^2 cos^3(theta) at angle theta from the tangent point."""
    scale = 20.0
    sky = FitsSkyMap.tan(0.0, dec, x=100.0, y=50.0, scale_arcsec=scale, rotation_deg=33.0)
    x, y = np.array([100.0, 300.0, 5000.0]), np.array([50.0, -400.0, 9000.0])
    theta = np.arctan(np.hypot(x - 100, y - 50) * np.deg2rad(scale / 3600))
    truth = scale**2 * np.cos(theta) ** 3
    np.testing.assert_allclose(sky.pixel_area(x=x, y=y), truth, rtol=1e-12)
    difference = sky._difference_jacobian(x, y)
    np.testing.assert_allclose(np.abs(np.linalg.det(difference)), truth, rtol=1e-9)


def test_analytic_and_difference_jacobian_agree() -> None:
    sky = MAPS["sip"]()
    x, y = (a.ravel() for a in np.broadcast_arrays(*grid(BOX, 11)))
    assert sky._gnomonic is not None
    np.testing.assert_allclose(
        sky._analytic_jacobian(x, y), sky._difference_jacobian(x, y), rtol=0, atol=1e-9 * 0.25
    )


def test_tan_orientation() -> None:
    for rotation in (0.0, 30.0, 200.0):
        sky = FitsSkyMap.tan(50.0, 20.0, x=0, y=0, scale_arcsec=1.0, rotation_deg=rotation)
        j = sky.jacobian(x=0.0, y=0.0)
        # the y axis points at position angle `rotation`, from north through east
        assert np.rad2deg(np.arctan2(j[0, 1], j[1, 1])) % 360 == pytest.approx(rotation)
        assert np.linalg.det(j) == pytest.approx(-1.0)
    upright = FitsSkyMap.tan(50.0, 20.0, x=0, y=0, scale_arcsec=1.0, flip=False)
    assert np.linalg.det(upright.jacobian(x=0, y=0)) == pytest.approx(1.0)


def test_agrees_with_astropy_and_ast() -> None:
    """Three implementations of TPV and SIP give the same sky."""
    import astropy.wcs
    from astropy.io.fits import Header

    for header in (cards("TPV", 0.0, 2.0, **TPV), cards("TAN-SIP", 0.0, -70.0, **SIP)):
        ours = FitsSkyMap(header)
        x, y = (a.ravel() for a in np.broadcast_arrays(*grid(BOX)))
        peer = astropy.wcs.WCS(Header(header.items()))
        ra, dec = peer.all_pix2world(x, y, 0)
        assert angular_separation(ra, dec, *ours.sky(x=x, y=y)).max() * 3600 < 1e-8
        gap = angular_separation(*_ast(header).sky(x=x, y=y), *ours.sky(x=x, y=y))
        assert gap.max() * 3600 < 1e-6


def test_swapped_axes() -> None:
    plain = FitsSkyMap(cards("TAN", 40.0, 50.0))
    swapped = FitsSkyMap(
        {
            "CTYPE1": "DEC--TAN",
            "CTYPE2": "RA---TAN",
            "CRVAL1": 50.0,
            "CRVAL2": 40.0,
            "CRPIX1": 1000.5,
            "CRPIX2": 900.0,
            "CD1_1": 2e-6,
            "CD1_2": 7.1e-5,
            "CD2_1": -7e-5,
            "CD2_2": 1e-6,
        }
    )
    np.testing.assert_allclose(swapped.sky(x=3.0, y=4.0), plain.sky(x=3.0, y=4.0), atol=1e-12)
    np.testing.assert_allclose(
        swapped.jacobian(x=3.0, y=4.0), plain.jacobian(x=3.0, y=4.0), atol=1e-12
    )
    np.testing.assert_allclose(swapped.pixel(40.01, 50.01), plain.pixel(40.01, 50.01), atol=1e-9)


def test_far_sky_positions_have_no_pixel() -> None:
    sky = MAPS["sip"]()
    x, y = sky.pixel([150.0, 330.0, 20.0], [2.0, -2.0, 80.0])
    assert np.isfinite(x[0])
    assert np.isnan(x[1:]).all()
    assert np.isnan(y[1:]).all()


@settings(max_examples=60)
@given(
    ra=st.floats(0, 360), dec=st.floats(-90, 90), rotation=st.floats(-360, 360),
    scale=st.floats(0.01, 60.0), x=st.floats(-3000, 3000), y=st.floats(-3000, 3000),
    flip=st.booleans(),
)  # fmt: skip
def test_any_tangent_map(
    ra: float, dec: float, rotation: float, scale: float, x: float, y: float, flip: bool
) -> None:
    sky = FitsSkyMap.tan(
        ra, dec, x=10.0, y=-20.0, scale_arcsec=scale, rotation_deg=rotation, flip=flip
    )
    bx, by = sky.pixel(*sky.sky(x=x, y=y))
    assert np.hypot(bx - x, by - y) < 1e-6 + 1e-7 / scale
    theta = np.arctan(np.hypot(x - 10, y + 20) * np.deg2rad(scale / 3600))
    assert sky.pixel_area(x=x, y=y) == pytest.approx(scale**2 * np.cos(theta) ** 3, rel=1e-9)
    # lengths: the Jacobian maps a step in pixels to the step on the sky
    step = sky.jacobian(x=x, y=y) @ [0.3, -0.4]
    gap = angular_separation(*sky.sky(x=x + 0.3, y=y - 0.4), *sky.sky(x=x, y=y)) * 3600
    assert gap == pytest.approx(np.hypot(*step), rel=1e-3, abs=1e-7)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 360), st.floats(-90, 90)), min_size=2, max_size=2),
)
def test_separation_is_a_distance(points: list[tuple[float, float]]) -> None:
    (r1, d1), (r2, d2) = points
    gap = angular_separation(r1, d1, r2, d2)
    dot = float(np.clip(unit_vectors(r1, d1) @ unit_vectors(r2, d2), -1, 1))
    assert 0 <= gap <= 180
    assert np.cos(np.deg2rad(gap)) == pytest.approx(dot, abs=1e-12)
    assert gap == pytest.approx(angular_separation(r2, d2, r1, d1))


# -- refusals -------------------------------------------------------------------------------
def _without(*keys: str) -> dict[str, object]:
    return {k: v for k, v in cards("TAN", 1.0, 2.0).items() if k not in keys}


BAD_HEADERS = {
    "no projection": ({**cards("TAN", 1, 2), "CTYPE1": "X", "CTYPE2": "Y"}, "no celestial"),
    "empty": ({}, "no celestial"),
    "only ra": ({**cards("TAN", 1, 2), "CTYPE2": "WAVE"}, "coordinate system|celestial"),
    "singular": ({**cards("TAN", 1, 2), "CD1_1": 0.0, "CD1_2": 0.0}, "singular"),
    "parallel": (
        {**cards("TAN", 1, 2), "CD1_1": 1e-5, "CD1_2": 2e-5, "CD2_1": 2e-5, "CD2_2": 4e-5},
        "singular",
    ),
    "text": ({**cards("TAN", 1, 2), "CRVAL1": "NaN"}, "CRVAL1"),
    "galactic": (
        {**cards("TAN", 1, 2), "CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
        "not equatorial",
    ),
    "fk4": ({**cards("TAN", 1, 2), "RADESYS": "FK4", "EQUINOX": 1950.0}, "FK4"),
    "equinox": ({**cards("TAN", 1, 2), "RADESYS": "FK5", "EQUINOX": 1975.0}, "J2000"),
    "nonsense": ({**cards("TAN", 1, 2), "CTYPE1": "RA---QQQ", "CTYPE2": "DEC--QQQ"}, "usable|cel"),
}


@pytest.mark.parametrize("name", sorted(BAD_HEADERS))
def test_bad_headers(name: str) -> None:
    header, message = BAD_HEADERS[name]
    with pytest.raises(PogsonValueError, match=message):
        FitsSkyMap(header)


def test_bad_wcs_objects() -> None:
    import astropy.wcs

    wcs = FitsSkyMap(cards("TAN", 1.0, 2.0)).wcs
    wcs.wcs.crval = [np.nan, 2.0]
    with pytest.raises(PogsonValueError, match="CRVAL"):
        FitsSkyMap(wcs)
    with pytest.raises(PogsonValueError, match="3 axes"):
        FitsSkyMap(astropy.wcs.WCS(naxis=3))
    with pytest.raises(PogsonTypeError, match="header"):
        FitsSkyMap(42)
    with pytest.raises(PogsonTypeError, match=r"gwcs\.WCS"):
        GwcsSkyMap(wcs)


def test_nan_card_in_a_raw_header() -> None:
    from astropy.io.fits import Header

    text = FitsSkyMap(cards("TAN", 1.0, 2.0)).to_header().tostring(sep="\n")
    lines = [
        "CRVAL1  =                  NaN".ljust(80) if line.startswith("CRVAL1") else line
        for line in text.split("\n")
    ]
    with pytest.raises(PogsonValueError, match="CRVAL1"):
        FitsSkyMap.from_header(Header.fromstring("\n".join(lines), sep="\n"))


def test_bad_arguments() -> None:
    sky = MAPS["tan"]()
    with pytest.raises(PogsonValueError, match="scale_arcsec"):
        FitsSkyMap.tan(1, 2, x=0, y=0, scale_arcsec=0.0)
    with pytest.raises(PogsonValueError, match="dec"):
        FitsSkyMap.tan(1, 92, x=0, y=0, scale_arcsec=1.0)
    with pytest.raises(PogsonValueError, match="broadcast"):
        sky.sky(x=[1.0, 2.0], y=[1.0, 2.0, 3.0])
    with pytest.raises(UnitMismatchError, match="solid angle"):
        sky.pixel_area_field(BOX, unit=u.m)
    with pytest.raises(PogsonValueError, match="tolerance"):
        sky.pixel_area_field(BOX, tolerance=0)
    with pytest.raises(PogsonValueError, match="degree"):
        FitsSkyMap.fit_tan_sip(sky, BOX, degree=1)
    with pytest.raises(PogsonValueError, match="kind"):
        skymap_from_dict({"kind": "flat"})
    with pytest.raises(PogsonTypeError, match="mapping"):
        skymap_from_dict([])  # type: ignore[arg-type]
    with pytest.raises(PogsonValueError, match="lacks"):
        skymap_from_dict({"kind": "fits"})


def test_area_field_needs_the_whole_box() -> None:
    # an ARC or SIN map of the whole sky ends inside a large box
    sky = FitsSkyMap({**cards("SIN", 0, 0), "CD1_1": -0.2, "CD2_2": 0.2, "CD1_2": 0, "CD2_1": 0})
    with pytest.raises(PogsonValueError, match="no pixel area at"):
        sky.pixel_area_field(BOX)


def test_bad_ast() -> None:
    pytest.importorskip("starlink.Ast")
    for text in (
        "",
        "Begin Nothing\nEnd Nothing",
        "Begin UnitMap\n Nin = 2\nIsA Mapping\nEnd UnitMap",
    ):
        with pytest.raises(PogsonValueError):
            AstSkyMap(text)
    with pytest.raises(PogsonValueError):
        AstSkyMap.from_header("CTYPE1  = 'X'")
