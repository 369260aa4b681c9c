"""The drop-in offsets: brutus's experiment, brutus's numbers, and the traps it leaves open."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import CalibrationError, PogsonTypeError, PogsonValueError, PogsonWarning
from pogson.stars import OffsetAccumulator, PhotometricOffsetsConfig, photometric_offsets

BANDS = 8
APPLIED = np.array([1.04, 0.97, 1.01, 0.98, 1.03, 0.99, 1.02, 0.96])


def grid(n=5000, seed=3):
    rng = np.random.default_rng(seed)
    models = np.zeros((n, BANDS, 3), dtype=np.float32)
    models[:, :, 0] = rng.uniform(3, 9, (n, 1)) + 0.5 * rng.normal(size=(n, BANDS))
    models[:, :, 1] = np.linspace(1.2, 0.1, BANDS)
    models[:, :, 2] = np.linspace(0.05, 0.0, BANDS)
    return models


def flux_of(models, k, av, rv, d):
    m = models[k, :, 0] + av[..., None] * (models[k, :, 1] + rv[..., None] * models[k, :, 2])
    return 10 ** (-0.4 * m) / d[..., None] ** 2


def tutorial(n_obj, n_samp=25, seed=42):
    """The experiment of brutus's photometric-calibration tutorial: draws about the truth."""
    models = grid()
    rng = np.random.default_rng(seed)
    k = rng.integers(0, len(models), n_obj)
    av, rv = rng.uniform(0, 1.5, n_obj), rng.uniform(2.8, 3.8, n_obj)
    d = rng.uniform(0.5, 5.0, n_obj)
    flux = flux_of(models, k, av, rv, d) * APPLIED
    err = 0.03 * flux
    flux = np.maximum(flux + rng.normal(0, err), 1e-10)
    shape = (n_obj, n_samp)
    reds = np.clip(rng.normal(av[:, None], 0.05, shape), 0, 5)
    dreds = np.clip(rng.normal(rv[:, None], 0.05, shape), 2, 5)
    dists = np.clip(rng.normal(d[:, None], 0.1, shape), 0.1, 20)
    idxs = np.tile(k[:, None], (1, n_samp))
    return flux, err, np.ones((n_obj, BANDS), int), models, idxs, reds, dreds, dists


UNFITTED = np.zeros(BANDS, dtype=bool)


def simple(n=400, draws=8, error=0.03, seed=1, offset=1.0):
    """One model, exact draws: the offset is 1 / offset in every band."""
    rng = np.random.default_rng(seed)
    models = np.zeros((3, BANDS, 3), dtype=np.float32)
    flux = offset * (1 + error * rng.normal(size=(n, BANDS)))
    one = np.ones((n, draws))
    return [
        flux, np.full_like(flux, error), np.ones((n, BANDS), int), models,
        np.zeros((n, draws), int), 0 * one, 3.1 * one, one,
    ]  # fmt: skip


def test_the_tutorial_gives_its_printed_results():
    offsets, errors, n_used = photometric_offsets(*tutorial(200), mask_fit=UNFITTED)
    residual = offsets - 1 / APPLIED
    assert np.sqrt(np.mean(residual**2)) < 0.0045  # printed 0.0031; expected scatter 20 %
    assert np.abs(residual).max() < 0.01
    assert errors.mean() == pytest.approx(0.0078, rel=0.15)
    assert (n_used == 200).all()


@pytest.mark.parametrize(
    "method", ["bootstrap_iqr", pytest.param("bootstrap_std", marks=pytest.mark.slow)]
)
def test_against_brutus(method):
    offsets_of = pytest.importorskip("brutus.analysis.offsets")
    args = tutorial(1500)
    theirs = offsets_of.photometric_offsets(
        *args, mask_fit=UNFITTED, verbose=False, rng=np.random.default_rng(42),
        config=offsets_of.PhotometricOffsetsConfig(n_bootstrap=600, uncertainty_method=method),
    )  # fmt: skip
    config = PhotometricOffsetsConfig(uncertainty_method=method, outlier_sigma=None)
    ours = photometric_offsets(*args, mask_fit=UNFITTED, config=config)
    # median of 600 bootstrap medians: noise 1.25 / sqrt(600) = 0.05 of an error; error 3-4 %
    assert np.abs((ours[0] - theirs[0]) / theirs[1]).max() < 0.25
    assert np.median(ours[1] / theirs[1]) == pytest.approx(1.0, abs=0.1)
    assert (ours[2] == theirs[2]).all()


def test_leave_one_out_against_brutus():
    """Draws of a real posterior: one unknown distance, every band fitted."""
    offsets_of = pytest.importorskip("brutus.analysis.offsets")
    rng = np.random.default_rng(7)
    n, draws = 800, 100
    args = simple(n, draws)
    flux, err = args[0], args[1]
    w = 1 / err**2
    scale = (flux * w).sum(1) / w.sum(1)
    args[7] = (scale[:, None] + rng.normal(size=(n, draws)) / np.sqrt(w.sum(1))[:, None]) ** -0.5
    for dim_prior in (False, True):
        theirs = offsets_of.photometric_offsets(
            *args, verbose=False, dim_prior=dim_prior, rng=np.random.default_rng(2)
        )
        ours = photometric_offsets(*args, dim_prior=dim_prior)
        assert np.abs((ours[0] - theirs[0]) / theirs[1]).max() < 0.3
        assert np.allclose(ours[1], theirs[1], rtol=0.2)
    # exact weights: each band's offset is unbiased, error sqrt(pi/2) x 3 % x sqrt(8/7 + ..)
    exact = photometric_offsets(*args, dim_prior=False)
    assert np.abs((exact[0] - 1) / exact[1]).max() < 4


def test_defaults_on_draws_that_are_no_posterior_raise():
    with pytest.raises(CalibrationError, match="mask_fit=False"):
        photometric_offsets(*tutorial(200))


def test_rows_without_a_fit_are_counted_not_wrapped():
    args = simple()
    args[4] = args[4].copy()
    args[4][:100] = -99
    args[3] = np.array(args[3])
    args[3][-1, :, 0] = 5.0  # what row -1 or so would give
    with pytest.warns(PogsonWarning, match="100 of 400 objects have no usable draw"):
        offsets, errors, n_used = photometric_offsets(*args, mask_fit=UNFITTED)
    assert (n_used == 300).all()
    assert np.abs((offsets - 1) / errors).max() < 4
    for bad in (-1, 3):
        args[4][:100] = bad
        with pytest.raises(PogsonValueError, match=r"outside 0\.\.2"):
            photometric_offsets(*args, mask_fit=UNFITTED)


def test_nan_draws_do_not_spread():
    args = simple()
    clean = photometric_offsets(*args, mask_fit=UNFITTED)
    args[5] = args[5].copy()
    args[5][:130, 0] = np.nan
    args[7] = args[7].copy()
    args[7][0, 1] = np.inf
    with pytest.warns(PogsonWarning, match="131 draws"):
        offsets, errors, _ = photometric_offsets(*args, mask_fit=UNFITTED)
    assert np.allclose(offsets, clean[0], atol=1e-4)
    assert np.isfinite(errors).all()


def test_one_object_has_an_honest_error():
    args = [a[:1] if i != 3 else a for i, a in enumerate(simple())]
    _, errors, n_used = photometric_offsets(*args, mask_fit=UNFITTED)
    assert (n_used == 1).all()
    assert np.all((errors > 0.029) & (errors < 0.05))
    prior, std = photometric_offsets(
        *args, mask_fit=UNFITTED, prior_mean=np.ones(BANDS), prior_std=np.full(BANDS, 0.002)
    )[:2]
    assert np.abs(prior - 1).max() < 0.001
    assert np.allclose(std, 0.002, rtol=0.01)


@pytest.mark.parametrize("signal", [20, 5, 2, 1, 0.5])
def test_no_bias_at_low_signal(signal):
    """Cutting fluxes of zero or less makes the median 0.83 at S/N 1 and 0.55 at 0.5."""
    args = simple(20000, 1, error=1 / signal, seed=5)
    offsets, errors, n_used = photometric_offsets(*args, mask_fit=UNFITTED)
    assert (n_used == 20000 - (args[0] == 0).sum(axis=0)).all()
    assert np.abs((offsets - 1) / errors).max() < 4.0  # 8 bands: 5e-4
    assert abs(offsets.mean() - 1) < 4 * 1.2533 / signal / np.sqrt(20000 * BANDS)


def test_outliers_are_left_out_and_said():
    args = simple(4000)
    args[0][:1200] *= 1.5
    args[1][:1200] *= 1.5
    with pytest.warns(PogsonWarning, match=r"30\.\d % of the objects"):
        offsets, _, n_used = photometric_offsets(*args, mask_fit=UNFITTED)
    assert np.abs(offsets - 1).max() < 0.005
    assert n_used.min() > 2700
    plain = PhotometricOffsetsConfig(outlier_sigma=None)
    assert photometric_offsets(*args, mask_fit=UNFITTED, config=plain)[0].mean() < 0.985


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"weights": -np.ones((400, 8))}, PogsonValueError, "negative"),
        ({"sel": np.arange(10)}, PogsonTypeError, "one True or False an object"),
        ({"mask_fit": [True]}, PogsonValueError, "one value a band"),
        ({"old_offsets": np.zeros(8)}, PogsonValueError, "positive"),
        ({"prior_mean": np.ones(8)}, PogsonValueError, "together"),
        ({"idxs": np.zeros((400, 8))}, PogsonTypeError, "integers"),
        ({"dists": np.ones((400, 7))}, PogsonValueError, "dists has shape"),
        ({"err": np.zeros((400, 8))}, PogsonValueError, "not positive"),
        ({"mask": np.full((400, 8), 2)}, PogsonValueError, "0 .not observed"),
    ],
)
def test_bad_input(change, error, words):
    names = ("phot", "err", "mask", "models", "idxs", "reds", "dreds", "dists")
    given = dict(zip(names, simple(), strict=True)) | {"mask_fit": UNFITTED} | change
    with pytest.raises(error, match=words):
        photometric_offsets(**given)


def test_units_mixed_up():
    args = simple()
    args[0], args[1] = args[0] * 3630.78e9, args[1] * 3630.78e9
    with pytest.raises(CalibrationError, match="maggies"):
        photometric_offsets(*args, mask_fit=UNFITTED)


def test_bad_config():
    with pytest.raises(PogsonValueError, match="bootstrap_iqr"):
        PhotometricOffsetsConfig(uncertainty_method="jackknife")
    with pytest.raises(PogsonValueError, match="min_bands_used"):
        PhotometricOffsetsConfig(min_bands_used=0)


def test_masked_values_may_hold_anything_and_no_object_means_infinite_error():
    args = simple()
    args[2] = args[2].copy()
    args[2][:, 0] = 0
    args[0][:, 0] = np.nan
    args[1][:, 0] = -1
    with pytest.warns(PogsonWarning, match=r"No object of \d+ says anything about band 0:"):
        offsets, errors, n_used = photometric_offsets(*args, mask_fit=UNFITTED)
    assert (offsets[0], errors[0], n_used[0]) == (1.0, np.inf, 0)
    with pytest.warns(PogsonWarning, match="band 0: 1 with an infinite error"):
        with_prior = photometric_offsets(
            *args, mask_fit=UNFITTED, prior_mean=np.full(8, 1.01), prior_std=np.full(8, 0.02)
        )
    assert with_prior[0][0] == pytest.approx(1.01)
    assert with_prior[1][0] == pytest.approx(0.02)


def test_chunks_give_the_same_as_all_at_once():
    args = tutorial(2000)
    whole = photometric_offsets(*args, mask_fit=UNFITTED)
    parts = OffsetAccumulator(args[3], mask_fit=UNFITTED)
    for start in range(0, 2000, 400):
        rows = slice(start, start + 400)
        parts.add(*(a[rows] for i, a in enumerate(args) if i != 3))
    made = parts.result()
    assert np.allclose(made.offsets, whole[0], atol=2e-4)
    assert np.allclose(made.errors, whole[1], rtol=0.02)
    assert made.n_used.sum() == pytest.approx(whole[2].sum(), rel=0.002)
