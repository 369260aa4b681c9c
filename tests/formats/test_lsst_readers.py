"""LSST files read without the LSST pipelines: archives made here, and real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from scipy.interpolate import Akima1DInterpolator, CubicSpline

from pogson.errors import FileFormatError
from pogson.fields import Box, ChebyshevField, PixelAreaField, ProductField, field_from_dict
from pogson.formats.lsst_background import read_lsst_background, read_lsst_background_layers
from pogson.formats.lsst_catalogs import (
    read_lsst_catalog,
    read_lsst_reference_catalog,
    read_lsst_visit_summary,
)
from pogson.formats.lsst_fields import (
    read_lsst_field,
    read_lsst_photo_calib,
    read_lsst_photo_calib_parts,
    read_meas_mosaic_fcr,
)
from pogson.formats.lsst_sky import read_lsst_sky_map
from pogson.sky import AstField, FitsSkyMap

ast = pytest.importorskip("starlink.Ast")

Shared = Callable[[str], Path]

# LSST's PhotoCalib zero point, from the definition of AB
AB_NJY = 10 ** (-48.6 / 2.5) * 1e23 * 1e9


# -- archives made here ---------------------------------------------------------------------
def column(name: str, value: Any) -> fits.Column:
    """One column of one or several rows."""
    values = value if isinstance(value, list) else [value]
    first = values[0]
    if isinstance(first, bytes):
        arrays = np.empty(len(values), object)
        arrays[:] = [np.frombuffer(v, np.uint8) for v in values]
        return fits.Column(name, "QB()", array=arrays)
    if isinstance(first, np.ndarray):
        return fits.Column(name, f"{first.size}D", array=np.stack(values))
    if isinstance(first, int):
        return fits.Column(name, "1J", array=np.array(values))
    return fits.Column(name, "1D", array=np.array(values))


def write_archive(
    path: Path, objects: dict[int, tuple[str, dict[str, Any], dict[str, bool]]]
) -> Path:
    """Write objects {id: (class, columns, flags)} the way afw does."""
    index: dict[str, list[Any]] = {
        k: [] for k in ("id", "cat.archive", "cat.persistable", "row0", "nrows", "name")
    }
    tables = []
    for number, (ident, (name, columns, flags)) in enumerate(objects.items(), start=1):
        made = [column(k, v) for k, v in columns.items()]
        rows = max(len(v) if isinstance(v, list) else 1 for v in columns.values())
        if flags:
            bits = np.array([list(flags.values())] * rows, bool)
            made.insert(0, fits.Column("flags", f"{len(flags)}X", array=bits))
        hdu = fits.BinTableHDU.from_columns(made)
        hdu.header["EXTTYPE"], hdu.header["AR_CATN"] = "ARCHIVE_DATA", number
        for k, flag in enumerate(flags, start=1):
            hdu.header[f"TFLAG{k}"] = flag
        tables.append(hdu)
        for key, value in zip(index, (ident, number, 0, 0, rows, name), strict=True):
            index[key].append(value)
    columns_out = [
        fits.Column(k, "64A" if k == "name" else "1J", array=np.array(v)) for k, v in index.items()
    ]
    head = fits.BinTableHDU.from_columns(columns_out)
    head.header["EXTTYPE"], head.header["AR_CATN"] = "ARCHIVE_INDEX", 0
    fits.HDUList([fits.PrimaryHDU(), head, *tables]).writeto(path)
    return path


BBOX = {"bbox_min_x": 10, "bbox_min_y": 20, "bbox_max_x": 109, "bbox_max_y": 69}
BOX = Box(10, 20, 100, 50)
COEFFICIENTS = np.array([[2.0, 0.3, -0.1], [0.2, 0.05, 0.0]])


def chebyshev(scale: float = 1.0) -> tuple[str, dict[str, Any], dict[str, bool]]:
    values = {"order_x": 2, **BBOX, "coefficients": COEFFICIENTS.ravel() * scale}
    return "ChebyshevBoundedField", values, {}


def wcs_bytes() -> tuple[FitsSkyMap, bytes]:
    """A distorted map and its LSST form: 0-based pixels."""
    from pogson.sky import AstSkyMap

    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-5, "B_1_1": 3e-5}
    tan = FitsSkyMap.tan(30.0, -20.0, x=40.0, y=40.0, scale_arcsec=0.2)
    header = tan.shifted(1, 1).to_header()  # AST counts from 1: make the text count from 0
    header.update(sip)
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    text = AstSkyMap.from_header(header).ast_text
    reference = FitsSkyMap(header).shifted(-1, -1)
    return reference, b"1 SkyWcs 0  " + text.encode()


def test_chebyshev(tmp_path: Path) -> None:
    field = read_lsst_field(write_archive(tmp_path / "a.fits", {7: chebyshev()}), unit="nJy / adu")
    assert isinstance(field, ChebyshevField)
    assert field == ChebyshevField(BOX, COEFFICIENTS, "nJy / adu")
    # lower left pixel corner is (-1, -1) in Chebyshev coordinates, as afw maps a Box2D
    assert field(x=9.5, y=19.5) == pytest.approx(2.0 - 0.3 - 0.1 - 0.2 + 0.05)


def test_pixel_area_and_product(tmp_path: Path) -> None:
    reference, text = wcs_bytes()
    scaling = 1.0 / (0.04 * np.deg2rad(1 / 3600) ** 2)
    path = write_archive(
        tmp_path / "a.fits",
        {
            1: ("SkyWcs", {"wcs": text}, {}),
            2: ("PixelAreaBoundedField", {**BBOX, "wcs": 1, "scaling": scaling}, {}),
            3: chebyshev(),
            4: ("ProductBoundedField", {"id": [2, 3]}, {}),
        },
    )
    x, y = np.array([10.0, 60.0, 109.0]), np.array([20.0, 40.0, 69.0])
    sky = read_lsst_sky_map(path)
    np.testing.assert_allclose(sky.sky(x=x, y=y), reference.sky(x=x, y=y), rtol=0, atol=1e-11)
    area = read_lsst_field(path, ident=2)
    assert isinstance(area, PixelAreaField)
    truth = reference.pixel_area(x=x, y=y) / 0.04
    np.testing.assert_allclose(area(x=x, y=y), truth, rtol=2e-6)
    product = read_lsst_field(path)
    assert isinstance(product, ProductField)
    expected = truth * ChebyshevField(BOX, COEFFICIENTS)(x=x, y=y)
    np.testing.assert_allclose(product(x=x, y=y), expected, rtol=2e-6)
    divided = product / area
    np.testing.assert_allclose(divided(x=x, y=y), ChebyshevField(BOX, COEFFICIENTS)(x=x, y=y))


def test_transform_field(tmp_path: Path) -> None:
    """Jointcal's kind: an AST mapping, here (x, y) -> 0.5 x + 2 y."""
    mapping = ast.MatrixMap([[0.5, 2.0]])
    sink: list[str] = []

    class Sink:
        def astsink(self, line: str) -> None:
            sink.append(line)

    ast.Channel(None, Sink()).write(mapping)
    text = "1 TransformPoint2ToGeneric " + "\n".join(sink)
    path = write_archive(
        tmp_path / "a.fits", {1: ("TransformBoundedField", {**BBOX, "frameSet": text.encode()}, {})}
    )
    field = read_lsst_field(path, unit="nJy / adu")
    assert isinstance(field, AstField)
    assert field(x=12.0, y=21.0) == 48.0
    assert (3.0 * field)(x=12.0, y=21.0) == 144.0
    assert field_from_dict(field.to_dict()) == field
    assert field.mean() == pytest.approx(0.5 * 59.5 + 2 * 44.5)
    np.testing.assert_allclose(field.render()[1, :3], [47.0, 47.5, 48.0])


def photo_calib(version: int | None, mean: float, field: int, constant: bool) -> Any:
    values: dict[str, Any] = {"calibrationMean": mean, "calibrationErr": 0.01 * mean}
    values["field"] = field
    if version is not None:
        values["version"] = version
    return "PhotoCalib", values, {"isConstant": constant}


def test_varying_photo_calib(tmp_path: Path) -> None:
    from pogson.calib import FluxReference

    path = write_archive(tmp_path / "a.fits", {1: photo_calib(1, 2.0, 2, False), 2: chebyshev()})
    calib = read_lsst_photo_calib(path, measure="fluence", reference=FluxReference.aperture(12.0))
    assert calib.field == ChebyshevField(BOX, COEFFICIENTS, "nJy / adu")
    assert calib.relative_error(x=20.0, y=30.0) == pytest.approx(0.01)
    assert calib.provenance["version"] == 1
    old = write_archive(tmp_path / "b.fits", {1: photo_calib(0, 2.0, 2, False), 2: chebyshev()})
    with pytest.raises(FileFormatError, match="maggies"):
        read_lsst_photo_calib_parts(old)
    parts = read_lsst_photo_calib_parts(old, convert_maggies=True)
    assert parts.field(x=20.0, y=30.0) == pytest.approx(calib.field(x=20.0, y=30.0) * AB_NJY)
    new = write_archive(tmp_path / "c.fits", {1: photo_calib(9, 2.0, 2, False), 2: chebyshev()})
    with pytest.raises(FileFormatError, match="version 9"):
        read_lsst_photo_calib_parts(new)


def test_damaged_archives(tmp_path: Path) -> None:
    cases = {
        "loop": {1: ("ProductBoundedField", {"id": [1, 2]}, {}), 2: chebyshev()},
        "missing": {1: ("ProductBoundedField", {"id": [5]}, {}), 2: chebyshev()},
        "unknown": {1: ("SplineBoundedField", {"id": [5]}, {})},
        "rows": {
            1: ("ChebyshevBoundedField", {"order_x": 3, **BBOX, "coefficients": np.ones(6)}, {})
        },
        "nan": {1: ("ChebyshevBoundedField", {"order_x": 0, **BBOX, "coefficients": np.nan}, {})},
    }
    for name, objects in cases.items():
        path = write_archive(tmp_path / f"{name}.fits", objects)
        with pytest.raises(FileFormatError, match=name):
            read_lsst_field(path, ident=1)
    image = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(image)
    with pytest.raises(FileFormatError, match="no LSST object archive"):
        read_lsst_sky_map(image)
    with pytest.raises(FileFormatError, match="holds no SkyWcs"):
        read_lsst_sky_map(write_archive(tmp_path / "no.fits", {2: chebyshev()}))
    with pytest.raises(FileFormatError, match="does not exist"):
        read_lsst_field(tmp_path / "none.fits")


# -- backgrounds made here ------------------------------------------------------------------
def write_background(path: Path, values: np.ndarray, **header: Any) -> Path:
    variance = np.full(values.shape, 4.0, np.float32)
    cards = {"BKGD_X0": 0, "BKGD_Y0": 0, "BKGD_WIDTH": 203, "BKGD_HEIGHT": 151, **header}
    hdus = fits.HDUList()
    for i, data in enumerate(
        (values.astype(np.float32), np.zeros(values.shape, np.int16), variance)
    ):
        kind = fits.PrimaryHDU if i == 0 else fits.ImageHDU
        long = {(f"HIERARCH {k}" if len(k) > 8 else k): v for k, v in cards.items()}
        hdus.append(kind(data, header=fits.Header(long.items())))
    hdus.writeto(path)
    return path


def centers(size: int, bins: int) -> np.ndarray:
    """Bin centres, bin by bin, as the pipelines' constructor computes them."""
    out, start = [], 0
    for i in range(bins):
        end = min(((i + 1) * size + bins // 2) // bins, size)
        out.append(start + 0.5 * (end - start) - 0.5)
        start = end
    return np.array(out)


@pytest.mark.parametrize("style", [1, 2, 5])
def test_interpolated_background(tmp_path: Path, style: int) -> None:
    rng = np.random.default_rng(3)
    values = (rng.normal(size=(9, 12)) + 100.0).astype(np.float32).astype(np.float64)
    path = write_background(
        tmp_path / "b.fits", values, INTERPSTYLE=style, UNDERSAMPLESTYLE=1, APPROXSTYLE=-1
    )
    field = read_lsst_background(path)
    assert field.box == Box(0, 0, 203, 151)
    xc, yc = centers(203, 12), centers(151, 9)
    x, y = np.arange(9.0, 193.0, 3.0), np.arange(9.0, 141.0, 3.0)

    def along(t: np.ndarray, v: np.ndarray, at: np.ndarray) -> np.ndarray:
        if style == 1:
            return np.interp(at, t, v)
        curve = CubicSpline(t, v, bc_type="natural") if style == 2 else Akima1DInterpolator(t, v)
        return np.asarray(curve(at))

    columns = np.stack([along(yc, values[:, i], y) for i in range(12)], axis=1)
    truth = np.stack([along(xc, row, x) for row in columns])
    error = field(x=x[None, :], y=y[:, None]) - truth
    if style == 5:  # approximated; the bins are white noise of unit variance, the worst case
        assert error.std() < 0.004
        assert np.abs(error).max() < 0.1
    else:
        assert np.abs(error).max() < 1e-9
    if style == 2:  # linear beyond the outermost bin centres
        edge = field(x=[0.0, 2.0, 4.0], y=70.0)
        assert edge[2] - edge[1] == pytest.approx(edge[1] - edge[0], abs=1e-9)


def test_approximated_background(tmp_path: Path) -> None:
    xc, yc = centers(203, 12), centers(151, 9)
    truth = ChebyshevField(Box(0, 0, 203, 151), [[50.0, 2.0, 1.0], [3.0, 0.5, 0], [-1.0, 0, 0]])
    values = truth(x=xc[None, :], y=yc[:, None]).astype(np.float32).astype(np.float64)
    values[2, 3] = np.nan
    cards = {"INTERPSTYLE": 5, "APPROXSTYLE": 0, "APPROXORDERX": 2, "APPROXORDERY": 2}
    path = write_background(tmp_path / "b.fits", values, **cards, APPROXWEIGHTING=True)
    field = read_lsst_background(path, unit="electron")
    assert str(field.unit) == "electron"
    np.testing.assert_allclose(field.render(), truth.render(), rtol=1e-6)


def test_background_refusals(tmp_path: Path) -> None:
    values = np.ones((9, 12))
    for i, (cards, message) in enumerate(
        (
            ({"INTERPSTYLE": 7, "APPROXSTYLE": -1}, "INTERPSTYLE=7"),
            ({"INTERPSTYLE": 5, "APPROXSTYLE": 3}, "APPROXSTYLE=3"),
            ({"APPROXSTYLE": -1}, "INTERPSTYLE is None"),
            ({"APPROXSTYLE": 0, "APPROXORDERX": 2, "APPROXORDERY": 3}, "equal"),
            ({"APPROXSTYLE": 0, "APPROXORDERX": 2, "BKGD_WIDTH": 0}, "empty"),
        )
    ):
        with pytest.raises(FileFormatError, match=message):
            read_lsst_background(write_background(tmp_path / f"{i}.fits", values, **cards))
    two = tmp_path / "two.fits"
    fits.HDUList([fits.PrimaryHDU(values), fits.ImageHDU(values)]).writeto(two)
    with pytest.raises(FileFormatError, match="three"):
        read_lsst_background(two)


# -- real files -----------------------------------------------------------------------------
def test_photo_calib_versions(shared_data: Shared) -> None:
    for name in ("noversion", "version0"):
        path = shared_data(f"hsc/photoCalib-{name}.fits")
        with pytest.raises(FileFormatError, match="maggies"):
            read_lsst_photo_calib_parts(path)
        parts = read_lsst_photo_calib_parts(path, convert_maggies=True)
        assert parts.mean == pytest.approx(123.0 * AB_NJY, rel=1e-12)
        assert parts.version == 0
    parts = read_lsst_photo_calib_parts(shared_data("hsc/photoCalib-version1.fits"))
    assert (parts.mean, parts.error, parts.is_constant) == (123.0, 45.0, True)
    assert parts.field(x=1e6, y=-1e6) == 123.0


WCS = [
    *(f"0011506-{c}" for c in ("049", "050", "101", "102")),
    *(f"{v}-{c}" for v in ("0023900", "0023924", "0028976") for c in ("037", "049", "090", "103")),
    "0030600-088",
    "0034772-004",
]


def test_hsc_pixel_areas(shared_data: Shared) -> None:
    """The pixel areas across the field of Hyper Suprime-Cam, with the published numbers."""
    lowest, highest, inside = {}, {}, {}
    box = Box(0, 0, 2048, 4176)
    samples: dict[str, list[np.ndarray]] = {}
    x, y = np.linspace(0, 2047, 5)[None, :], np.linspace(0, 4175, 9)[:, None]
    for name in WCS:
        sky = read_lsst_sky_map(shared_data(f"hsc/jointcal_wcs-{name}.fits"))
        area = sky.pixel_area_field(box)
        assert area.achieved_error <= 1e-6
        values = area.render(box, dtype=np.float32)[::16, ::16]
        lowest[name], highest[name] = float(values.min()), float(values.max())
        inside[name] = highest[name] / lowest[name] - 1
        samples.setdefault(name[-3:], []).append(sky.pixel_area(x=x, y=y))
        bx, by = sky.pixel(*sky.sky(x=x, y=y))
        assert np.hypot(bx - x, by - y).max() < 1e-6
    assert len(WCS) == 18
    assert min(lowest.values()) == pytest.approx(0.02304, abs=2e-5)
    assert max(highest.values()) == pytest.approx(0.02849, abs=2e-5)
    for name in WCS:
        chip = name[-3:]
        if chip in ("101", "102", "103", "090", "037", "004"):
            assert 0.094 < inside[name] < 0.0995, (name, inside[name])
        if chip == "049":
            assert inside[name] == pytest.approx(0.0075, abs=2e-4)
    # the same chip in three visits
    for chip in ("037", "090", "103"):
        stack = np.stack(samples[chip])
        spread = (stack.max(axis=0) / stack.min(axis=0) - 1).max()
        print(f"chip {chip}: pixel area repeats to {spread:.1e}")
        assert spread < 1.5e-3
        mean = stack.mean(axis=(1, 2))
        assert 1e-5 < mean.max() / mean.min() - 1 < 7e-4


QUARTER = {"049": 0, "050": 2, "101": 3, "102": 1}


@pytest.mark.parametrize("chip", sorted(QUARTER))
def test_meas_mosaic_mapping(shared_data: Shared, chip: str) -> None:
    """The archived mapping, its header twin, and the formula written out here, agree to 1e-6."""
    calib_file = shared_data(f"hsc/jointcal_photoCalib-0011506-{chip}.fits")
    fcr_file = shared_data(f"hsc/fcr-0011506-{chip}.fits")
    sky = read_lsst_sky_map(shared_data(f"hsc/jointcal_wcs-0011506-{chip}.fits"))
    parts = read_lsst_photo_calib_parts(calib_file)
    twin = read_meas_mosaic_fcr(fcr_file, quarter_turns=QUARTER[chip], sky=sky)
    rng = np.random.default_rng(11506)
    x, y = rng.uniform(0, 2047, 400), rng.uniform(0, 4175, 400)
    got = parts.field(x=x, y=y)
    np.testing.assert_allclose(got, twin(x=x, y=y), rtol=1e-9)

    header = fits.getheader(fcr_file)
    turned = {0: (x, y), 1: (4175 - y, x), 2: (2047 - x, 4175 - y), 3: (y, 2047 - x)}
    u, v = turned[QUARTER[chip]]
    u, v = u + header["X0"], v + header["Y0"]
    magnitudes = np.zeros_like(u)
    for i in range(8):
        for j in range(8 - i):
            magnitudes += header[f"C_{i}_{j}"] * u**i * v**j
    # A / A_ref by one-pixel cross products in 3-space, A_ref at the pointing
    corners = [sky.sky(x=x + a, y=y + b) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    vectors = [
        np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)])
        for r, d in (np.deg2rad(c) for c in corners)
    ]
    cross = np.cross(vectors[1] - vectors[0], vectors[3] - vectors[2], axis=0) / 4
    area = np.linalg.norm(cross, axis=0) * np.rad2deg(3600) ** 2
    truth = AB_NJY / header["FLUXMAG0"] * 10 ** (-0.4 * magnitudes) * area / 0.028482237531
    np.testing.assert_allclose(got, truth, rtol=1e-6)
    # the factor can be divided out: what remains is the polynomial
    flat = read_meas_mosaic_fcr(fcr_file, quarter_turns=QUARTER[chip])
    jacobian = sky.pixel_area_field(parts.field.box).relative_to(0.028482237531)
    np.testing.assert_allclose((parts.field / jacobian)(x=x, y=y), flat(x=x, y=y), rtol=1e-6)
    assert parts.mean == pytest.approx(AB_NJY / header["FLUXMAG0"], rel=1e-12)


@pytest.mark.parametrize(
    ("visit", "mean", "error", "sky_level"),
    [(849375, 0.54322, 0.00014, 1222.0), (850587, 0.52578, 0.00020, 995.0)],
)
def test_jointcal_minimal(
    shared_data: Shared, visit: int, mean: float, error: float, sky_level: float
) -> None:
    folder = "jointcal-minimal"
    (summary,) = read_lsst_visit_summary(shared_data(f"{folder}/visitSummary-{visit}.fits"))
    assert (summary.visit, summary.detector, summary.band) == (visit, 12, "r")
    assert summary.photo_calib is not None
    assert summary.photo_calib.mean == pytest.approx(mean, abs=5e-6)
    assert summary.photo_calib.error == pytest.approx(error, abs=5e-6)
    # zeroPoint is the AB magnitude of one count
    assert summary.values["zeroPoint"] == pytest.approx(31.4 - 2.5 * np.log10(mean), abs=2e-5)
    assert summary.visit_info["exposuretime"] == pytest.approx(300.2, abs=0.03)
    assert summary.sky is not None
    assert summary.sky.pixel_scale(x=1000, y=2000) == pytest.approx(0.1868, abs=2e-4)
    corners = np.array([summary.values["raCorners"], summary.values["decCorners"]])
    np.testing.assert_allclose(
        summary.sky.sky(x=[0, 2047, 2047, 0], y=[0, 0, 4611, 4611]), corners, atol=1e-4
    )

    path = shared_data(f"{folder}/bkgd-{visit}-12.fits")
    layers = read_lsst_background_layers(path)
    background = read_lsst_background(path)
    assert len(layers) == 4
    assert background.box == summary.box == Box(0, 0, 2048, 4612)
    assert background.mean() == pytest.approx(sky_level, abs=1.0)
    assert background.mean() == pytest.approx(sum(layer.mean() for layer in layers))
    # normal equations: the weighted residuals of the bins are orthogonal to 1, x, y, xy
    xc, yc = centers(2048, 17)[None, :], centers(4612, 37)[:, None]
    for k, layer in enumerate(layers):
        bins, variance = fits.getdata(path, 3 * k), fits.getdata(path, 3 * k + 2)
        weighted = (layer(x=xc, y=yc) - bins) / variance
        for term in (np.ones((37, 17)), xc / 1000 - 1 + 0 * yc, yc / 2000 - 1 + 0 * xc):
            total = np.nansum(weighted * term)
            assert abs(total) < 1e-7 * np.nansum(np.abs(weighted * term))

    catalog = read_lsst_catalog(shared_data(f"{folder}/SRC-{visit}-12.fits"))
    assert len(catalog) == 2
    reference = catalog["base_CircularApertureFlux_12_0_flux"].info.meta["reference"]
    assert reference["radius"] == 12.0
    small = catalog["base_CircularApertureFlux_3_0_flux"].info.meta["reference"]
    assert small["operator"] == "sinc"
    assert catalog.meta["aliases"]["slot_CalibFlux"] == "base_CircularApertureFlux_12_0"
    assert catalog["base_PsfFlux_flag"].dtype == bool
    px, py = summary.sky.pixel(catalog["ra"], catalog["dec"])
    offset = np.hypot(px - catalog["base_SdssCentroid_x"], py - catalog["base_SdssCentroid_y"])
    assert offset.max() < 2.0  # the catalogue's coordinates are from another fit


def test_jointcal_minimal_star(shared_data: Shared) -> None:
    """The one star in common agrees with its reference flux."""
    from pogson.sky import angular_separation

    reference = read_lsst_reference_catalog(shared_data("jointcal-minimal/225822.fits"))
    assert len(reference) == 2628
    assert reference.meta["bands"] == ["g", "i", "r", "u", "z"]
    assert 213.94 - 0.01 < reference["ra"].min() < reference["ra"].max() < 215.44 + 0.01
    for visit in (849375, 850587):
        (summary,) = read_lsst_visit_summary(
            shared_data(f"jointcal-minimal/visitSummary-{visit}.fits")
        )
        catalog = read_lsst_catalog(shared_data(f"jointcal-minimal/SRC-{visit}-12.fits"))
        assert summary.photo_calib is not None
        for row in catalog:
            gap = 3600 * angular_separation(
                row["ra"], row["dec"], np.array(reference["ra"]), np.array(reference["dec"])
            )
            i = int(gap.argmin())
            if gap[i] > 1.5:
                continue
            flux = row["base_CircularApertureFlux_12_0_flux"] * summary.photo_calib.mean
            truth, sigma = reference["flux_r"][i], reference["flux_r_err"][i]
            noise = row["base_CircularApertureFlux_12_0_fluxSigma"] * summary.photo_calib.mean
            pull = (flux - truth) / np.hypot(sigma, noise)
            print(f"visit {visit}: {flux:.0f} against {truth:.0f} nJy, pull {pull:.2f}")
            assert abs(flux / truth - 1) < 0.25
