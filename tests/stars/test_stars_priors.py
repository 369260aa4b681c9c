"""Priors of the stellar fit against closed forms, integrals and the published package."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.errors import MissingDataError, PogsonTypeError, PogsonValueError
from pogson.stars import (
    DustMapPrior,
    ExtinctionPrior,
    FlatDistance,
    GalacticPrior,
    MassFunction,
    ModelWeights,
    RvPrior,
    StarPriors,
    StellarGrid,
    simulated_grid,
)


def test_component_distributions_are_normalised() -> None:
    prior = GalacticPrior()
    for k in range(3):

        def density(x: float, k: int = k, *, which: str) -> float:
            labels = {"feh": [x], "loga": [np.log10(x) + 9.0 if which == "age" else 9.0]}
            labels["feh"] = [x if which == "feh" else 0.0]
            grid = StellarGrid([[[5.0, 1.0, 0.1]]], ["g"], labels)
            one = GalacticPrior(metallicity=which == "feh", age=which == "age")
            return float(np.exp(one.log_model_weights(grid)[k, 0]))

        feh = np.linspace(-6.0, 4.0, 801)
        total = np.trapezoid([density(x, k, which="feh") for x in feh], feh)
        assert abs(total - 1.0) < 1e-6
        age = np.linspace(1e-3, prior.age_limits[1] - 1e-9, 801)
        total = np.trapezoid([density(x, k, which="age") for x in age], age)
        assert abs(total - 1.0) < 1e-3


def test_density_is_that_of_the_published_package() -> None:
    galactic = pytest.importorskip("brutus.priors.galactic")
    d = np.geomspace(0.05, 50.0, 40)
    for l, b in ((0.0, 5.0), (120.0, -40.0), (200.0, 89.0)):  # noqa: E741
        ours = GalacticPrior().log_density(d, l, b)
        ours = np.logaddexp.reduce(ours, axis=0) + 2.0 * np.log(d)
        theirs = galactic.logp_galactic_structure(d, (l, b))
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_joint_prior_is_that_of_the_published_package() -> None:
    galactic = pytest.importorskip("brutus.priors.galactic")
    grid = simulated_grid(500)
    q = GalacticPrior().log_model_weights(grid)
    n = GalacticPrior().log_density(np.full(grid.n_models, 2.0), 60.0, 30.0)
    ours = np.logaddexp.reduce(n + q, axis=0) + 2.0 * np.log(2.0)
    labels = np.empty(grid.n_models, [("feh", "f8"), ("loga", "f8")])
    labels["feh"], labels["loga"] = grid.label("feh"), grid.label("loga")
    theirs = galactic.logp_galactic_structure(np.full(grid.n_models, 2.0), (60.0, 30.0), labels)
    seen = theirs > -50.0
    assert seen.sum() > 100
    np.testing.assert_allclose(ours[seen], theirs[seen], atol=1e-6)


def test_mass_function_is_continuous_and_cut() -> None:
    mass = np.array([0.05, 0.5 - 1e-9, 0.5, 1.0])
    grid = StellarGrid([[[5.0, 1.0, 0.1]]] * 4, ["g"], {"mini": mass})
    lnp = MassFunction().log_prior(grid)
    assert lnp[0] == -np.inf
    assert abs(lnp[1] - lnp[2]) < 1e-6
    assert abs(lnp[3] + 2.3 * np.log(2.0)) < 1e-12


def test_bad_priors_say_so() -> None:
    grid = StellarGrid([[[5.0, 1.0, 0.1]]], ["g"], {"teff": [5000.0]})
    with pytest.raises(MissingDataError, match=r"MassFunction needs it.*To do without"):
        StarPriors().log_model_prior(grid)
    with pytest.raises(MissingDataError, match=r"metallicity=False"):
        GalacticPrior().log_model_weights(grid)
    with pytest.raises(PogsonTypeError, match="distance"):
        StarPriors(distance=3.0)  # type: ignore[arg-type]
    with pytest.raises(PogsonValueError, match="one number a model"):
        ModelWeights([0.0, 1.0]).log_prior(grid)
    with pytest.raises(PogsonValueError, match="probability zero"):
        StarPriors(models=(ModelWeights([-np.inf]),)).log_model_prior(grid)
    for bad in ({"low": 1.0, "high": 0.0}, {"sd": 0.0}, {"mean": np.nan}):
        with pytest.raises(PogsonValueError):
            ExtinctionPrior(**bad)
    with pytest.raises(PogsonValueError):
        RvPrior(mean=9.0)
    empty = DustMapPrior(lambda d, l, b: (d * np.nan, d), "hole")  # noqa: E741
    with pytest.raises(PogsonValueError, match="hole"):
        empty.profile(np.array([1.0]), 0.0, 0.0)


def test_descriptions_are_json() -> None:
    import json

    priors = StarPriors(distance=FlatDistance(2.0), models=(ModelWeights([0.0]),))
    assert json.loads(json.dumps(priors.describe()))["distance"]["power"] == 2.0
    assert json.loads(json.dumps(StarPriors().describe()))["extinction"]["sd"] == "flat"
