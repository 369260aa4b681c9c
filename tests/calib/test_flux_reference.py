"""Flux references: meaning, conversion, refusal to mix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.calib import FluxReference, ReferenceKind, require_same
from pogson.errors import (
    MissingDataError,
    PogsonValueError,
    PogsonWarning,
    ReferenceMismatchError,
)
from pogson.fields import Box, ChebyshevField
from pogson.psf import ApertureOperator, GaussianPSF, MoffatPSF, PsfNormalization
from pogson.sky import FitsSkyMap

OPERATORS = [
    ApertureOperator.exact(),
    ApertureOperator.sinc(),
    ApertureOperator.center(),
    ApertureOperator.subpixel(5),
]

references = st.one_of(
    st.builds(
        FluxReference.aperture,
        st.floats(0.1, 100),
        st.sampled_from(["pixel", "sky"]),
        st.sampled_from(OPERATORS),
        position=st.sampled_from(["source", "mean"]),
    ),
    st.builds(
        FluxReference.total,
        normalization=st.sampled_from(
            [None, PsfNormalization("total"), PsfNormalization("box", 25)]
        ),
    ),
    st.builds(
        FluxReference.psf,
        normalization=st.sampled_from([None, PsfNormalization("aperture", 12.0)]),
    ),
)


@given(references)
def test_round_trips(reference: FluxReference) -> None:
    assert FluxReference.from_dict(reference.to_dict()) == reference
    assert eval(repr(reference)) == reference
    assert hash(pickle.loads(pickle.dumps(reference))) == hash(reference)
    assert reference.slug.isidentifier()
    assert reference.label


@given(references, references)
def test_require_same_is_symmetric_and_strict(a: FluxReference, b: FluxReference) -> None:
    assert a.matches(b) == b.matches(a)
    if a == b:
        require_same(a, b)
    elif not a.matches(b):
        with pytest.raises(ReferenceMismatchError, match="convert"):
            require_same(a, b)


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        FluxReference.total().radius = 3.0  # type: ignore[misc]


def test_labels() -> None:
    assert FluxReference.aperture(3.0, "sky").label == 'aperture 3" exact'
    assert FluxReference.aperture(2.5, operator=ApertureOperator.subpixel(5)).slug == (
        "aperture_2p5px_subpixel5"
    )
    assert FluxReference.aperture(2.5, operator="subpixel5") == FluxReference.aperture(
        2.5, operator=ApertureOperator.subpixel(5)
    )
    boxed = FluxReference.total(normalization=PsfNormalization("box", 25))
    assert boxed.label == "total (PSF normalised to box 25)"
    assert boxed.normalization == PsfNormalization("box", 25)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FluxReference.aperture(0.0),
        lambda: FluxReference.aperture(-2),
        lambda: FluxReference.aperture(float("nan")),
        lambda: FluxReference.aperture(3, "world"),
        lambda: FluxReference.aperture(3, operator="round"),
        lambda: FluxReference.aperture(3, position="nowhere"),
        lambda: FluxReference("total", radius=3.0),  # type: ignore[arg-type]
        lambda: FluxReference("kron"),  # type: ignore[arg-type]
        lambda: FluxReference.from_dict({"radius": 3}),
        lambda: FluxReference.from_dict("total"),
        lambda: FluxReference.from_dict({"kind": "aperture", "radius": 3, "operator": "magic"}),
        lambda: FluxReference.from_dict({"kind": "total", "color": 3}),
    ],
)
def test_bad_input(make) -> None:
    with pytest.raises(PogsonValueError):
        make()


BOX = Box(0, 0, 400, 300)
FWHM = ChebyshevField(BOX, [[3.4, 0.4], [0.2, 0.0]])
MOFFAT = MoffatPSF(FWHM, 3.0)


def test_conversion_agrees_with_drawn_and_summed_stars(rng) -> None:
    """The ratio of two operators summing the same drawn star is the conversion factor."""
    x, y = rng.uniform(60, 340, 20), rng.uniform(60, 240, 20)
    narrow = FluxReference.aperture(4.0)
    wide = FluxReference.aperture(12.0, operator=ApertureOperator.subpixel(5))
    sums = {}
    for reference in (narrow, wide):
        sums[reference] = np.array(
            [
                reference.operator.sum(
                    (stamp := MOFFAT.draw(x=xi, y=yi, half_size=40)).image,
                    x=xi,
                    y=yi,
                    a=reference.radius,
                    x_min=stamp.box.x_min,
                    y_min=stamp.box.y_min,
                ).flux
                for xi, yi in zip(x, y, strict=True)
            ]
        )
    flux, err = narrow.convert(
        sums[narrow], to=wide, psf=MOFFAT, x=x, y=y, flux_err=0.1 * sums[narrow]
    )
    worst = 2.5 / np.log(10) * np.max(np.abs(flux / sums[wide] - 1))
    print(f"largest error of the conversion {worst * 1e3:.5f} mmag")
    assert worst < 1e-5
    np.testing.assert_allclose(err, 0.1 * flux, rtol=1e-13)
    back = wide.convert(flux, to=narrow, psf=MOFFAT, x=x, y=y)
    np.testing.assert_allclose(back, sums[narrow], rtol=1e-12)


def test_total_is_one_and_carries_normalization() -> None:
    total = FluxReference.total()
    assert total.enclosed_energy(None, x=[1.0, 2.0], y=3.0).tolist() == [1.0, 1.0]
    resolved = total.resolved(MOFFAT)
    assert resolved.normalization == MOFFAT.normalization
    assert resolved.matches(total)
    aperture = FluxReference.aperture(6)
    assert aperture.resolved(MOFFAT) is aperture
    other = FluxReference.total(normalization=PsfNormalization("aperture", 12.0))
    with pytest.raises(ReferenceMismatchError, match="stated"):
        aperture.convert(1.0, to=other, psf=MOFFAT, x=100.0, y=100.0)


def test_gaussian_aperture_to_total() -> None:
    """Analytic: a Gaussian convolved with the pixel, effectively; large sigma is enough."""
    sigma = 6.0
    psf = GaussianPSF(sigma * 2 * np.sqrt(2 * np.log(2)))
    reference = FluxReference.aperture(10.0)
    total = reference.convert(1.0, to=FluxReference.total(), psf=psf, x=0.0, y=0.0)
    # one pixel convolution in the effective PSF, one from the overlap of flat pixels; what is
    # left is the phase of the pixel grid against the edge
    effective = sigma**2 + 2 / 12
    assert total == pytest.approx(1 / (1 - np.exp(-100 / (2 * effective))), rel=3e-4)


def test_sky_aperture_uses_the_local_ellipse() -> None:
    sky = FitsSkyMap.tan(150.0, 2.0, x=200.0, y=150.0, scale_arcsec=0.25, rotation_deg=20)
    in_sky, in_pixels = FluxReference.aperture(1.5, "sky"), FluxReference.aperture(6.0)
    a, b, _ = in_sky.ellipse(sky, x=[200.0, 100.0], y=[150.0, 80.0])
    np.testing.assert_allclose([a, b], 6.0, rtol=1e-6)
    x, y = np.array([200.3, 150.8]), np.array([149.9, 100.2])
    np.testing.assert_allclose(
        in_sky.enclosed_energy(MOFFAT, sky, x=x, y=y),
        in_pixels.enclosed_energy(MOFFAT, x=x, y=y),
        rtol=1e-6,
    )
    with pytest.raises(MissingDataError, match="sky="):
        in_sky.enclosed_energy(MOFFAT, x=x, y=y)


def test_refuses_without_psf() -> None:
    with pytest.raises(ReferenceMismatchError, match="PSF"):
        FluxReference.aperture(3).convert(1.0, to=FluxReference.total())
    with pytest.raises(ReferenceMismatchError):
        FluxReference.aperture(3).ellipse(x=0, y=0) and FluxReference.total().ellipse(x=0, y=0)
    with pytest.raises(MissingDataError):
        FluxReference.aperture(3).enclosed_energy(None, x=0, y=0)


class _DeadPSF:
    """Stands for a PSF model that fails at some positions."""

    normalization = PsfNormalization("total")

    def enclosed_energy(self, radius, operator, *, x, y, phase="source", **_):
        return np.array([0.8, np.nan, -0.1, 0.0])


def test_bad_enclosed_energy_is_flagged_not_silent() -> None:
    with pytest.warns(PogsonWarning, match="3 of 4 fluxes"):
        out = FluxReference.aperture(3).convert(
            np.ones(4),
            to=FluxReference.total(),
            psf=_DeadPSF(),  # type: ignore[arg-type]
            x=np.zeros(4),
            y=np.zeros(4),
        )
    np.testing.assert_allclose(out, [1.25, np.nan, np.nan, np.nan])


@settings(max_examples=20)
@given(st.floats(-1e6, 1e6), st.floats(2.0, 10.0))
def test_conversion_keeps_sign_and_zero(flux: float, radius: float) -> None:
    out = FluxReference.aperture(radius).convert(
        flux, to=FluxReference.total(), psf=GaussianPSF(3.0), x=10.0, y=10.0
    )
    assert np.sign(out) == np.sign(flux)
    assert abs(out) >= abs(flux)


def test_kinds() -> None:
    assert FluxReference.psf().kind is ReferenceKind.PSF
