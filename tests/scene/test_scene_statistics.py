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


def coverage(found: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the fractions of true fluxes within one error, for the brighter and the fainter."""
    bright = found["total"] / (1 + found["ratio"])
    faint = found["total"] - bright
    return (
        float(np.mean(np.abs(found["flux_a"] - bright) < found["error_a"])),
        float(np.mean(np.abs(found["flux_b"] - faint) < found["error_b"])),
    )


def test_injected_sources(shared_data, rng):
    summary = campaigns.pull_summary(campaigns.injection(shared_data, 24, rng))
    print(summary)
    # 4.5 sigma of the mean and spread of 24 pulls
    assert abs(summary["mean"]) < 0.95
    assert 0.4 < summary["std"] < 1.7


def test_binaries(shared_data, rng):
    found = campaigns.binaries(shared_data, 12, rng)
    assert np.median(found["delta_chi2"]) > 16
    assert min(coverage(found)) > 0.1


@pytest.mark.slow
def test_injection_campaign(shared_data):
    summary = campaigns.pull_summary(campaigns.injection(shared_data, 1000, fresh()))
    print(summary)
    # the figures wanted, plus 3 standard errors of 1000 pulls
    assert abs(summary["mean"]) < 0.05 + 0.095
    assert 0.95 - 0.067 < summary["std"] < 1.05 + 0.067
    assert abs(summary["bias_percent"]) < 0.3 + 3 * summary["bias_error_percent"]


@pytest.mark.slow
def test_binary_campaign(shared_data):
    found = campaigns.binaries(shared_data, 1000, fresh())
    shares = coverage(found)
    print("coverage", shares, "found", found["is_binary"].mean())
    # 3 standard errors of 1000 trials: 0.044
    assert all(0.64 - 0.044 < share < 0.72 + 0.044 for share in shares)


@pytest.mark.slow
def test_false_alarm_campaign(shared_data):
    found = campaigns.binaries(shared_data, 1000, fresh(), single=True)
    print("false alarms", found["is_binary"].mean(), "largest", np.sort(found["delta_chi2"])[-5:])
    assert found["is_binary"].mean() < 0.01
