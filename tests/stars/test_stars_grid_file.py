"""Grid files: the layout of brutus, read and written; damage and misuse."""

from __future__ import annotations

import dataclasses
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pogson.errors import (
    FileFormatError,
    MaskedDataError,
    MissingDataError,
    PogsonValueError,
    PogsonWarning,
)
from pogson.stars import StellarGrid, grid_contents, read_grid, simulated_grid, write_grid


@pytest.fixture(scope="module")
def grid() -> StellarGrid:
    made = simulated_grid(600)
    error = np.abs(np.random.default_rng(3).normal(0, 0.01, (made.n_models, 8)))
    return dataclasses.replace(made, fit_error=error)


@pytest.fixture
def path(grid: StellarGrid, tmp_path: Path) -> Path:
    return Path(write_grid(grid, tmp_path / "grid.h5"))


def test_round_trip(grid: StellarGrid, path: Path) -> None:
    back = read_grid(path)
    assert back == grid
    assert np.array_equal(back.coefficients, grid.coefficients)
    assert back.fit_error is not None
    assert np.array_equal(back.fit_error, grid.fit_error)
    assert {k: v for k, v in back.provenance.items() if k != "file"} == dict(grid.provenance)
    assert back.systems["PS_g"] == "AB"
    contents = grid_contents(path)
    assert contents.n_models == grid.n_models
    assert contents.bands == grid.bands
    assert contents.digest == grid.digest
    assert contents.labels + contents.predictions == grid.label_names


def test_same_grid_same_bytes(grid: StellarGrid, path: Path, tmp_path: Path) -> None:
    again = Path(write_grid(read_grid(path), tmp_path / "again.h5"))
    assert again.read_bytes() == path.read_bytes()


def test_rows_point_into_the_file(grid: StellarGrid, path: Path) -> None:
    late = read_grid(path, include_ms=False, bands=["PS_z", "PS_g"], labels=["mini"])
    assert np.array_equal(late.row, np.flatnonzero(grid.label("eep") > 454))
    assert np.array_equal(late.coefficients, grid.coefficients[late.row][:, [3, 0]])
    assert late.label_names == ("mini",)
    early = read_grid(path, include_postms=False)
    assert early.n_models + late.n_models == grid.n_models


def test_only_the_filters_asked_for_are_kept(tmp_path: Path) -> None:
    n, bands = 20_000, [f"band{i}" for i in range(49)]
    c = np.random.default_rng(1).normal(0, 1, (n, 49, 3))
    path = write_grid(StellarGrid(c, bands, {"mini": np.arange(n)}), tmp_path / "g.h5")
    read_grid(path, bands=bands[:1])  # imports
    tracemalloc.start()
    small = read_grid(path, bands=["band7", "band3"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(small.coefficients, c[:, [7, 3]].astype(np.float32))
    whole = n * 49 * 12
    assert peak < 0.35 * whole, f"{peak / 1e6:.1f} MB of {whole / 1e6:.1f} MB"


def test_brutus_reads_our_file_and_we_read_its(grid: StellarGrid, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generation = pytest.importorskip(
            "brutus.core.grid_generation", reason="astro-brutus is not installed"
        )
        loader = pytest.importorskip("brutus.data.loader")
        # its writer, given the numbers that its generator would have made
        maker = generation.GridGenerator.__new__(generation.GridGenerator)
        seds = np.empty(grid.n_models, [(b, "f4", 3) for b in grid.bands])
        for j, band in enumerate(grid.bands):
            seds[band] = grid.coefficients[:, j]
        maker.grid_seds, maker.grid_labels = seds, np.array(grid.labels)
        maker.grid_params, maker.filters = np.array(grid.predictions), list(grid.bands)
        maker.grid_sel = np.ones(grid.n_models, bool)
        maker._save_grid(tmp_path / "theirs.h5", 1000.0, verbose=False)
        ours = write_grid(grid, tmp_path / "ours.h5")
        pairs = [loader.load_models(p, verbose=False) for p in (ours, tmp_path / "theirs.h5")]
    for a, b in zip(*pairs, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(pairs[0][0], grid.coefficients)
    back = read_grid(tmp_path / "theirs.h5")
    assert back.digest == grid.digest
    assert back == grid
    assert back.provenance["reference_distance_pc"] == 1000.0


def test_missing_filter_or_label(path: Path) -> None:
    with pytest.raises(
        MissingDataError, match=r"'2MASS_K'.*did you mean '2MASS_Ks'.*'PS_g', 'PS_r'"
    ):
        read_grid(path, bands=["PS_g", "2MASS_K"])
    with pytest.raises(MissingDataError, match=r"label 'teff'.*'mini'"):
        read_grid(path, labels=["teff"])
    with pytest.raises(PogsonValueError, match="no model is left"):
        read_grid(path, include_ms=False, include_postms=False)


def rewrite(path: Path, change: Any) -> None:
    """Change the contents of a grid file in place."""
    with h5py.File(path, "r+") as file:
        change(file)


def test_rows_that_are_not_finite_are_counted(grid: StellarGrid, path: Path) -> None:
    def spoil(file: Any) -> None:
        table = file["mag_coeffs"][:]
        table["PS_g"][5, 1] = np.nan
        table["PS_g"][9] = np.inf
        file["mag_coeffs"][:] = table

    rewrite(path, spoil)
    with pytest.warns(PogsonWarning, match=r"2 of .* models"):
        part = read_grid(path)
    assert part.n_models == grid.n_models - 2
    assert not {5, 9} & set(part.row.tolist())
    assert part.provenance["rows_not_finite"] == 2
    # a band that is whole is read whole
    assert read_grid(path, bands=["PS_r"]).n_models == grid.n_models


def test_a_changed_file_is_found_out(path: Path) -> None:
    def change(file: Any) -> None:
        table = file["mag_coeffs"][:]
        table["PS_g"][5, 0] += 0.01
        file["mag_coeffs"][:] = table

    rewrite(path, change)
    with pytest.raises(FileFormatError, match="changed or damaged"):
        read_grid(path)


def test_binaries_only_when_asked(grid: StellarGrid, tmp_path: Path) -> None:
    labels = np.array(grid.labels)
    labels["smf"][::3] = 0.5
    both = StellarGrid(grid.coefficients, grid.bands, labels, grid.predictions)
    path = write_grid(both, tmp_path / "both.h5")
    single = read_grid(path)
    assert np.array_equal(single.row, np.flatnonzero(labels["smf"] == 0))
    assert read_grid(path, include_binaries=True) == both
    twins = both.select(labels["smf"] > 0)
    with pytest.raises(MaskedDataError, match="include_binaries=False"):
        read_grid(write_grid(twins, tmp_path / "twins.h5"))


def test_files_that_are_no_grids(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("mini eep feh")
    with pytest.raises(FileFormatError, match="as HDF5"):
        read_grid(tmp_path / "text.h5")
    with pytest.raises(FileFormatError, match="does not exist"):
        read_grid(tmp_path / "absent.h5")
    with pytest.raises(FileFormatError, match="is a folder"):
        read_grid(tmp_path)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileFormatError):
        read_grid(cut)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["spectra"] = np.zeros(3)
    with pytest.raises(FileFormatError, match=r"'mag_coeffs'.*\['spectra'\]"):
        read_grid(tmp_path / "other.h5")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["mag_coeffs"] = np.zeros(3, [("PS_g", "f4")])
    with pytest.raises(FileFormatError, match="3 coefficients"):
        read_grid(tmp_path / "flat.h5")

    def shorten(file: Any) -> None:
        table = file["labels"][:-1]
        del file["labels"]
        file["labels"] = table

    rewrite(path, shorten)
    with pytest.raises(FileFormatError, match=r"'labels'.*one a model"):
        read_grid(path)


def test_a_failed_write_leaves_the_old_file(
    grid: StellarGrid, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(FileFormatError, match="No space left"):
        write_grid(grid.select(np.arange(10)), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
