"""Offsets applied to a catalogue file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import ConfigError

__all__ = ["apply_offsets_to_file"]


def apply_offsets_to_file(
    catalogue: str | Path,
    offsets: str | Path,
    output: str | Path,
    *,
    kind: str = "magnitude",
    columns: Sequence[str] = (),
    table: str | None = None,
) -> list[str]:
    r"""Write a copy of a catalogue with offsets applied; return what was done, in lines.

    Parameters
    ----------
    catalogue, offsets : path-like
        A catalogue that `pogson.formats.star_catalogs.read_star_table` reads; an offsets file.
    output : path-like
        Parquet, ECSV, FITS or VOTable by its suffix; another file than the catalogue.
    kind : {'magnitude', 'flux'}
        What the columns hold.
    columns : sequence of str, optional
        ``"BAND=COLUMN"`` texts; by default columns named like the bands of the offsets.
    table : str, optional
        FITS extension, or dataset of an HDF5 file.

    Raises
    ------
    ConfigError
        If no column fits, output and catalogue are one file, or columns said to be magnitudes look
        like fluxes or the reverse.
    PogsonError
        If a file is not what it should be, or the offsets were applied before.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "stars.csv").write_text("PS_g\n15.0\n")
    >>> _ = (folder / "offsets.txt").write_text("PS_g 1.02\n")
    >>> apply_offsets_to_file(folder / "stars.csv", folder / "offsets.txt", folder / "new.ecsv")[0]
    'PS_g: column PS_g, -0.0215 mag (flux x 1.0200)'
    """
    from pogson.formats import write_catalog
    from pogson.formats.catalogs import catalog_format
    from pogson.formats.star_catalogs import read_star_table
    from pogson.formats.star_columns import ERROR_NAMES
    from pogson.stars import apply_offsets, read_offsets

    source, target = Path(catalogue), Path(output)
    catalog_format(target)
    if target.absolute() == source.absolute():
        raise ConfigError(f"The output {target} is the catalogue itself; give another name.")
    made = read_offsets(offsets)
    stars = read_star_table(source, table=table)
    chosen: dict[str, str] = {}
    for text in columns:
        band, equals, column = text.partition("=")
        if not equals:
            raise ConfigError(f"--column {text!r} must be written BAND=COLUMN.")
        chosen[band] = column
    if not chosen:
        chosen = {b: b for b in made.bands if b in stars.colnames}
    if not chosen:
        raise ConfigError(
            f"{source} has no column named like a band of {Path(offsets).name} "
            f"({', '.join(made.bands)}); name them with --column BAND=COLUMN."
        )
    _refuse_mixed_up(stars, chosen, kind)
    if kind == "magnitude":
        out = apply_offsets(stars, made, magnitudes=chosen)
    else:
        errors = {}
        for band, column in chosen.items():
            names = [e.format(column) for e in ERROR_NAMES]
            error = next((n for n in names if n in stars.colnames), None)
            if error is not None:
                errors[band] = error
        out = apply_offsets(stars, made, fluxes=chosen, flux_errors=errors)
    write_catalog(target, out)
    index = {b: k for k, b in enumerate(made.bands)}
    lines = [
        f"{b}: column {c}, {made.magnitude_offsets[index[b]]:+.4f} mag "
        f"(flux x {made.offsets[index[b]]:.4f})"
        for b, c in chosen.items()
    ]
    if not made.converged:
        lines.insert(0, f"WARNING: the offsets of {Path(offsets).name} had NOT CONVERGED.")
    rest = [b for b in made.bands if b not in chosen]
    if rest:
        lines.append(f"Not applied, no such column: {', '.join(rest)}.")
    return [*lines, f"{len(out)} rows: {target}"]


def _refuse_mixed_up(stars: Any, chosen: Mapping[str, str], kind: str) -> None:
    """Raise if columns do not hold what they are said to."""
    for column in chosen.values():
        if column not in stars.colnames or stars[column].dtype.kind not in "fiu":
            continue  # said by apply_offsets
        values = np.ma.filled(np.ma.asarray(stars[column]).astype(float), np.nan)
        values = values[np.isfinite(values) & (values != 0.0) & (values > -90.0)]
        if kind == "magnitude":
            values = values[~np.isin(values, (99.0, 99.9, 99.99, 99.999, 999.0, 9999.0))]
        if len(values) < 5:
            continue
        low, middle, high = np.percentile(values, [0.0, 50.0, 100.0])
        if kind == "magnitude" and (abs(middle) < 0.05 or middle > 45.0):
            said, other = "fluxes", "flux"
        elif kind == "flux" and low > 2.0 and high < 40.0:
            said, other = "magnitudes", "magnitude"
        else:
            continue
        raise ConfigError(
            f"The column {column!r} lies between {low:.4g} and {high:.4g} (median {middle:.4g}): "
            f"these look like {said}. Say --kind {other}; or select and scale it yourself."
        )
