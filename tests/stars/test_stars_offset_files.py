"""Files of offsets, and offsets applied to catalogues."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.stars import BandCalibration, apply_offsets, load_offsets, read_offsets, write_offsets

COVARIANCE = np.array([[4e-6, 1e-6], [1e-6, 9e-6]])


@pytest.fixture
def made():
    return BandCalibration.from_offsets(
        ["PS_g", "2MASS_J"], [1.02, 0.97], COVARIANCE, scatter=[0.01, 0.0],
        provenance={"seed": np.int64(3), "config": {"prior_std": 0.1}},
    )  # fmt: skip


def test_ecsv_round_trip(made, tmp_path):
    back = read_offsets(write_offsets(tmp_path / "o.ecsv", made))
    assert back.bands == made.bands
    assert np.allclose(back.offsets, made.offsets, rtol=1e-15)
    assert np.allclose(back.covariance, COVARIANCE, rtol=1e-14)
    assert np.allclose(back.scatter, [0.01, 0.0])
    assert (back.gauge, back.provenance["seed"]) == ("parallax", 3)


def test_text_round_trip_and_by_brutus(made, tmp_path):
    path = write_offsets(tmp_path / "o.txt", made)
    back = read_offsets(path)
    assert np.allclose(back.offsets, made.offsets, atol=1e-8)
    assert np.isnan(back.covariance).all()
    assert np.allclose(load_offsets(path, ["2MASS_J", "WISE_W1"]), [0.97, 1.0])
    loader = pytest.importorskip("brutus.data.loader")
    theirs = loader.load_offsets(str(path), filters=["PS_g", "2MASS_J"], verbose=False)
    assert np.allclose(theirs, made.offsets, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PS_g 1.0\nPS_g 1.1\n", "more than once"),
        ("PS_g one\n", "line 1"),
        ("PS_g 1.0 0.1\n", "3 words"),
        ("PS_g -0.02\n", "not magnitudes"),
        ("# nothing\n", "no line"),
    ],
)
def test_wrong_files(text, words, tmp_path):
    path = tmp_path / "o.txt"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=words):
        read_offsets(path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileFormatError, match="Cannot read"):
        read_offsets(tmp_path / "none.txt")
    (tmp_path / "o.ecsv").write_text("# %ECSV 1.0\n# ---\n")
    with pytest.raises(FileFormatError, match="not an offsets file"):
        read_offsets(tmp_path / "o.ecsv")


def test_applied_to_a_table(made):
    table = Table({"f": [1.0, -2.0], "e": [0.1, 0.2], "j": [15.0, -9999.0], "jk": [0.0, 99.0]})
    out = apply_offsets(
        table, made, fluxes={"PS_g": "f"}, flux_errors={"PS_g": "e"}, magnitudes={"2MASS_J": "j"}
    )
    assert np.allclose(out["f"], [1.02, -2.04])
    assert np.allclose(out["e"], [0.102, 0.204])
    assert np.allclose(out["j"], [15.0 - 2.5 * np.log10(0.97), -9999.0])
    assert np.allclose(table["f"], [1.0, -2.0])
    (record,) = out.meta["photometric_offsets"]
    assert record["columns"] == ["f", "e", "j"]
    assert record["provenance"]["seed"] == 3
    with pytest.raises(PogsonValueError, match="applied to e, f, j before"):
        apply_offsets(
            out, made, fluxes={"PS_g": "f"}, flux_errors={"PS_g": "e"},
            magnitudes={"2MASS_J": "j"},
        )  # fmt: skip


def test_apply_says_what_is_missing(made):
    table = Table({"f": [1.0]})
    with pytest.raises(PogsonValueError, match="Give fluxes"):
        apply_offsets(table, made)
    with pytest.raises(MissingDataError, match="PS_z"):
        apply_offsets(table, made, fluxes={"PS_z": "f"})
    with pytest.raises(MissingDataError, match="No column"):
        apply_offsets(table, made, fluxes={"PS_g": "g"})


def test_gauges(made):
    relative = made.relative_to("PS_g")
    assert relative.offsets[0] == 1.0
    assert relative.offsets[1] == pytest.approx(0.97 / 1.02)
    expected = COVARIANCE[0, 0] + COVARIANCE[1, 1] - 2 * COVARIANCE[0, 1]
    assert relative.covariance[1, 1] == pytest.approx(expected)
    assert relative.covariance[0, 0] == pytest.approx(0.0, abs=1e-20)
    with pytest.raises(PogsonValueError, match="gauge='r'"):
        made.relative_to("r")


@pytest.mark.parametrize("name", ["o.txt", "o.ecsv"])
def test_offsets_that_did_not_converge_say_so_wherever_they_go(tmp_path, name):
    from dataclasses import replace

    from pogson.run.stars_apply import apply_offsets_to_file

    made = BandCalibration.from_offsets(["PS_g"], [1.02], [[1e-6]])
    (tmp_path / "stars.csv").write_text("PS_g\n15.0\n")
    for converged in (True, False):
        write_offsets(tmp_path / name, replace(made, converged=converged))
        assert read_offsets(tmp_path / name).converged is converged
        lines = apply_offsets_to_file(
            tmp_path / "stars.csv", tmp_path / name, tmp_path / "new.ecsv"
        )
        assert ("NOT CONVERGED" in lines[0]) is not converged
