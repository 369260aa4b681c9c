"""The truth table of an injection: what was asked for and what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.inject.flags import INJECTION_FLAG_DOCS, NOT_DRAWN, count_injection_flags

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.images import Exposure
    from pogson.inject.catalogue import InjectionCatalog

__all__ = ["TRUTH_COLUMNS", "truth_table"]

TRUTH_COLUMNS = {
    "id": "id of the source",
    "x": "position in pixels, 0-based, centres on integers",
    "y": "position in pixels, 0-based, centres on integers",
    "ra": "right ascension, degrees",
    "dec": "declination, degrees",
    "flux_requested": "flux of the catalogue, nJy",
    "flux_realised": "flux that the reference counts of the light put on the image, photon noise "
    "included, nJy",
    "inst_flux_total": "all the light of the source, in units of the fluence image",
    "enclosed_energy": "fraction of all the light that the reference counts",
    "deposited_fraction": "fraction of all the light expected on usable pixels of the image",
    "half_size": "half-size of the stamp, pixels",
    "psf_id": "PSF of the image",
    "injection_psf_id": "PSF the source was drawn with",
    "flags": "InjectionFlag bits",
    "source_type": "kind of source",
    "band": "bandpass of the flux",
    "image_id": "image the source was put into",
}
"""Columns of the truth table and what they mean."""


def truth_table(
    catalog: InjectionCatalog,
    exposure: Exposure,
    *,
    values: dict[str, np.ndarray],
    flags: np.ndarray,
    psf_id: str,
    injection_psf_id: str,
    image_id: str,
    meta: dict[str, Any],
) -> Table:
    """Build the truth table of an injection.

    Parameters
    ----------
    catalog : InjectionCatalog
        With the positions and the one band of the exposure.
    exposure : Exposure
        The exposure injected into.
    values : dict of numpy.ndarray
        ``flux_realised``, ``inst_flux_total``, ``enclosed_energy``, ``deposited_fraction`` and
        ``half_size``.
    flags : numpy.ndarray of int32
        `InjectionFlag` bits.
    psf_id, injection_psf_id, image_id : str
        Identifiers.
    meta : dict
        For ``table.meta``.

    Returns
    -------
    astropy.table.Table
        One row for each row of the catalogue, in its order; see `TRUTH_COLUMNS`. Flux columns
        carry their reference in ``info.meta``; the meanings of the flags are in ``table.meta``.
    """
    from astropy.table import Table

    band = next(iter(catalog.references))
    reference = catalog.references[band]
    n = len(catalog)
    columns: dict[str, Any] = {name: catalog.table[name] for name in ("id", "x", "y", "ra", "dec")}
    columns["flux_requested"] = catalog.flux(band)
    columns.update(values)
    columns["flags"] = flags.astype(np.int32)
    columns["source_type"] = catalog.table["source_type"]
    texts = {
        "psf_id": psf_id,
        "injection_psf_id": injection_psf_id,
        "band": band or exposure.bandpass or "",
        "image_id": image_id,
    }
    columns.update(
        {name: np.full(n, text, f"U{max(len(text), 1)}") for name, text in texts.items()}
    )
    table = Table({name: np.asarray(columns[name]) for name in TRUTH_COLUMNS})
    for name, doc in TRUTH_COLUMNS.items():
        table[name].info.description = doc
    for names, unit in (
        (("x", "y", "half_size"), "pixel"),
        (("ra", "dec"), "deg"),
        (("flux_requested", "flux_realised"), "nJy"),
        (("inst_flux_total",), exposure.unit),
    ):
        for name in names:
            table[name].unit = unit
    for name in ("flux_requested", "flux_realised"):
        table[name].info.meta = {"reference": reference.to_dict(), "measure": "fluence"}
    drawn = (flags & int(NOT_DRAWN)) == 0
    table.meta.update(
        meta,
        n_rows=n,
        n_drawn=int(drawn.sum()),
        flag_counts=count_injection_flags(flags),
        flag_meanings={f.name: text for f, text in INJECTION_FLAG_DOCS.items()},
    )
    return table
