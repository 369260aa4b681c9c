"""Pulls, coverage and false alarms: short versions, and the long campaigns (marked slow)."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
import scene_campaigns as campaigns


def fresh() -> np.random.Generator:
    """Return a generator of a new seed, printed."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def coverage(found: dict[str, np.ndarray], use: np.ndarray | None = None) -> dict[str, float]:
    """Return the fractions of truths within their 68 % intervals."""
    chosen = np.ones(found["total"].size, bool) if use is None else use
    return {k: float(found[f"hit_{k}"][chosen].mean()) for k in campaigns.HITS}


def check_pulls(found: dict[str, np.ndarray]) -> None:
    """Compare with the figures wanted, three standard errors of the campaign allowed."""
    summary = campaigns.pull_summary(found)
    print(summary)
    n = summary["n"]
    assert abs(summary["mean"]) < 0.05 + 3 * summary["std"] / np.sqrt(n)
    slack = 3 / np.sqrt(2 * n)
    assert 0.95 - slack < summary["std"] < 1.05 + slack
    assert abs(summary["bias_percent"]) < 0.3 + 3 * summary["bias_error_percent"]


def test_injected_sources(shared_data, rng):
    summary = campaigns.pull_summary(campaigns.injection(shared_data, 16, rng))
    print(summary)
    # 4.5 sigma of the mean and spread of 16 pulls
    assert abs(summary["mean"]) < 1.13
    assert 0.3 < summary["std"] < 1.8


def test_injected_sources_with_photon_noise(shared_data, rng):
    found = campaigns.injection(shared_data, 10, rng, gain=0.5)
    summary = campaigns.pull_summary(found)
    print(summary)
    assert abs(summary["mean"]) < 1.42
    assert 0.2 < summary["std"] < 2.0


def test_binaries(shared_data, rng):
    found = campaigns.binaries(shared_data, 10, rng)
    shares = coverage(found)
    print(shares, found["delta_chi2"].round(1))
    assert np.median(found["delta_chi2"]) > 16
    # 1 of 10 or none: 3e-4 where 68 % is true
    assert min(shares.values()) > 0.15
    wide = found["separation"] > 2.0
    assert found["is_binary"][wide].all()
    assert (found["spread"][wide] < 1e-2).all()


def test_singles_are_not_called_binary(shared_data, rng):
    found = campaigns.binaries(shared_data, 5, rng, single=True)
    print(found["delta_chi2"].round(2), found["log_bayes_factor"].round(1))
    # one by chance in 5 at a rate of 1 %: allowed; two: 1e-3
    assert found["is_binary"].sum() <= 1
    assert (found["delta_chi2"] > -1e-6).all()


@pytest.mark.slow
def test_injection_campaign(shared_data):
    check_pulls(campaigns.injection(shared_data, 1000, fresh()))


@pytest.mark.slow
def test_injection_campaign_with_photon_noise(shared_data):
    check_pulls(campaigns.injection(shared_data, 1000, fresh(), gain=0.5))


@pytest.mark.slow
def test_binary_campaign(shared_data):
    found = campaigns.binaries(shared_data, 1000, fresh())
    for low, high in ((0.5, 1.0), (1.0, 2.0), (2.0, 4.0)):
        use = (found["separation"] >= low) & (found["separation"] < high)
        print(f"{low}-{high} px, {use.sum()}:", coverage(found, use))
        # never short; where the pair is not resolved the priors make intervals wider
        error = 3 * np.sqrt(0.68 * 0.32 / use.sum())
        assert min(coverage(found, use).values()) > 0.64 - error
    shares = coverage(found)
    print("all:", shares, "found", found["is_binary"].mean())
    # 3 standard errors of 1000 trials: 0.044
    assert all(0.64 - 0.044 < shares[k] < 0.72 + 0.044 for k in ("a", "b", "total"))


@pytest.mark.slow
def test_false_alarm_campaign(shared_data):
    found = campaigns.binaries(shared_data, 1000, fresh(), single=True)
    print("false alarms", found["is_binary"].mean(), "largest", np.sort(found["delta_chi2"])[-5:])
    assert found["is_binary"].mean() < 0.01
