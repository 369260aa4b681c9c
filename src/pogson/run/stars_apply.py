"""Offsets applied to a catalogue file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        If no column fits, or output and catalogue are one file.
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
    from pogson.formats.star_catalogs import ERROR_NAMES, read_star_table
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
    rest = [b for b in made.bands if b not in chosen]
    if rest:
        lines.append(f"Not applied, no such column: {', '.join(rest)}.")
    return [*lines, f"{len(out)} rows: {target}"]
