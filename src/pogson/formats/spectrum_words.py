"""Spectra by a few words, for configurations and the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.sed import (
    Spectrum,
    dark_sky_spectrum,
    moonlight_spectrum,
    stellar_template,
    twilight_spectrum,
    zodiacal_spectrum,
)

__all__ = ["SPECTRUM_WORDS", "spectrum_from_words"]

SPECTRUM_WORDS = (
    "a temperature such as '5800 K' (stellar template), 'AB' (constant f_nu), 'moonlight', "
    "'twilight', 'zodiacal', 'dark sky', or a table with columns wavelength (vacuum, Angstrom) and "
    "flux (per wavelength)"
)
"""What `spectrum_from_words` understands, for messages."""

_SKIES: dict[str, Any] = {
    "moonlight": moonlight_spectrum,
    "twilight": twilight_spectrum,
    "zodiacal": zodiacal_spectrum,
    "dark sky": dark_sky_spectrum,
}
_TEMPERATURE = re.compile(r"(?:template )?([0-9.]+) ?K")


def spectrum_from_words(
    text: str, *, folder: str | os.PathLike[str] = ".", name: str | None = None
) -> Spectrum:
    """Return the spectrum that a text names.

    Parameters
    ----------
    text : str
        See `SPECTRUM_WORDS`.
    folder : path-like, optional
        Where relative paths start.
    name : str, optional
        Name of a spectrum from a file; by default that of the file.

    Returns
    -------
    Spectrum

    Raises
    ------
    PogsonValueError
        If the text is neither a known word nor a file.
    MissingDataError
        If a table has not the columns.

    Examples
    --------
    >>> spectrum_from_words("5800 K").name, spectrum_from_words("moonlight").name
    ('template 5800 K', 'moonlight')
    """
    words = " ".join(str(text).replace("_", " ").split())
    if words.upper() == "AB":
        return Spectrum.constant_ab(20.0)
    if words.lower() in _SKIES:
        spectrum: Spectrum = _SKIES[words.lower()]()
        return spectrum
    match = _TEMPERATURE.fullmatch(words)
    if match:
        return stellar_template(float(match.group(1)))
    path = Path(folder) / text
    if not path.is_file():
        raise PogsonValueError(
            f"{text!r} is no spectrum: there is no such file, and it is none of: {SPECTRUM_WORDS}."
        )
    return _from_table(path, name)


def _from_table(path: Path, name: str | None) -> Spectrum:
    from pogson.formats.catalogs import read_catalog

    try:
        table = read_catalog(path)
    except FileFormatError as error:
        raise FileFormatError(f"{path} cannot be read as a table of a spectrum: {error}") from None
    columns = {c.lower(): c for c in table.colnames}
    if not {"wavelength", "flux"} <= set(columns):
        raise MissingDataError(
            f"{path} has columns {', '.join(table.colnames)}; a spectrum needs 'wavelength' "
            f"(vacuum, Angstrom) and 'flux'."
        )
    wavelength = table[columns["wavelength"]]
    values = np.asarray(wavelength.to_value("Angstrom") if hasattr(wavelength, "to_value")
                        else wavelength, float)  # fmt: skip
    return Spectrum(values, np.asarray(table[columns["flux"]], float), name=name or path.stem)
