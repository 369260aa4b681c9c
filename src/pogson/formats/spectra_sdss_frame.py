"""SDSS plate frames (spFrame): all fibres of one camera and exposure, in counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, UnitMismatchError
from pogson.formats.fits_access import describe_hdus, open_fits
from pogson.formats.spectra_targets import table_labels
from pogson.spectro import FibreSpectra, PixelMask

__all__ = ["evaluate_trace_set", "read_sdss_frame"]

_STEP = 1e-4 * np.log(10.0)


def is_sdss_frame(hdus: Any) -> bool:
    """Return whether a file has the extensions of a spFrame or spCFrame, which have no names."""
    if len(hdus) < 6 or hdus[0].data is None or np.ndim(hdus[0].data) != 2:
        return False
    plug = getattr(hdus[5], "columns", None)
    return plug is not None and {"FIBERID", "OBJTYPE"} <= {c.upper() for c in plug.names}


def evaluate_trace_set(table: Any, n_pixels: int) -> np.ndarray:
    r"""Evaluate a trace set of SDSS: one polynomial a fibre.

    Parameters
    ----------
    table : numpy record array of one row
        FUNC ("legendre" or "chebyshev"), XMIN, XMAX and COEFF (n_fibre, n_coefficient); perhaps
        XJUMPVAL, XJUMPLO and XJUMPHI, a step of the detector between two of its pixels.
    n_pixels : int
        Pixels 0 to n_pixels - 1 are evaluated.

    Returns
    -------
    values : ndarray, shape (n_fibre, n_pixels)

    Raises
    ------
    FileFormatError
        If the function is unknown.

    Notes
    -----
    :math:`\sum_k c_k P_k(\hat x)`, :math:`\hat x = 2 (x - (x_{min} + x_{max})/2)/(x_{max} -
    x_{min})`; x is first stretched by XJUMPVAL, linearly between XJUMPLO and XJUMPHI.

    Examples
    --------
    >>> row = np.zeros(1, [("FUNC", "U8"), ("XMIN", "f8"), ("XMAX", "f8"), ("COEFF", "f8", (1, 2))])
    >>> row["FUNC"], row["XMAX"], row["COEFF"] = "legendre", 4.0, [[3.6, 0.1]]
    >>> evaluate_trace_set(row, 5)
    array([[3.5 , 3.55, 3.6 , 3.65, 3.7 ]])
    """
    names = {n.upper(): n for n in table.dtype.names}

    def value(name: str) -> Any:
        return table[names[name]][0]

    kind = str(value("FUNC")).strip().lower()
    series = {
        "legendre": np.polynomial.legendre.legval,
        "chebyshev": np.polynomial.chebyshev.chebval,
    }
    if kind not in series:
        raise FileFormatError(f"A trace set of function {kind!r} is not understood.")
    x = np.arange(n_pixels, dtype=np.float64)
    if {"XJUMPVAL", "XJUMPLO", "XJUMPHI"} <= set(names):
        low, high = float(value("XJUMPLO")), float(value("XJUMPHI"))
        part = np.clip((x - low) / max(high - low, 1e-9), 0.0, 1.0)
        x = x + part * float(value("XJUMPVAL"))
    low, high = float(value("XMIN")), float(value("XMAX"))
    unit = 2.0 * (x - 0.5 * (low + high)) / (high - low)
    return np.asarray(series[kind](unit, np.asarray(value("COEFF"), np.float64).T))


def read_sdss_frame(path: str | os.PathLike[str]) -> FibreSpectra:
    """Read a spFrame file of SDSS or BOSS: extracted, flat-fielded, sky-subtracted counts.

    Parameters
    ----------
    path : path-like
        ``spFrame-b1-00123456.fits`` (or ``.fits.gz``).

    Returns
    -------
    frame : FibreSpectra
        One wavelength grid a fibre (vacuum), the line spread from the dispersion, fibres that are
        marked as standard stars in ``meta["standard"]``, places in ``meta["ra"]``, ``meta["dec"]``.

    Raises
    ------
    FileFormatError
        If it is no spFrame.
    UnitMismatchError
        If it is a spCFrame: calibrated already.

    Notes
    -----
    Extensions by number, as the data model of SDSS has them: 0 counts, 1 inverse variance, 2 mask,
    3 log10 of the wavelength (trace set), 4 dispersion in pixels (trace set), 5 plug map. In a
    spCFrame 3 and 4 are images. The airmass is that of the header (AIRMASS); older files have none.

    Examples
    --------
    >>> read_sdss_frame("spFrame-b1-00123456.fits")
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: spFrame-b1-00123456.fits does not exist.
    """
    with open_fits(path) as hdus:
        if not is_sdss_frame(hdus):
            raise FileFormatError(f"{path} is no spFrame of SDSS: it has {describe_hdus(hdus)}.")
        header = hdus[0].header
        unit = str(header.get("BUNIT", "")).lower()
        if "erg" in unit or getattr(hdus[3], "columns", None) is None:
            raise UnitMismatchError(
                f"{path} is a spCFrame, calibrated already (unit {header.get('BUNIT')!r}); the "
                f"spFrame of the same exposure has the counts."
            )
        counts = np.asarray(hdus[0].data, np.float64)
        ivar = np.asarray(hdus[1].data, np.float64)
        flagged = np.asarray(hdus[2].data) != 0
        log_lam = evaluate_trace_set(hdus[3].data, counts.shape[1])
        width = np.abs(np.gradient(10.0**log_lam, axis=1))
        sigma = evaluate_trace_set(hdus[4].data, counts.shape[1]) * width
        labels = table_labels({c: hdus[5].data[c] for c in hdus[5].columns.names})
        labels["names"] = _names(hdus[5].data, labels)
        n = counts.shape[0]
        for name, values in (("wavelengths", log_lam), ("plug map", labels["fibre_ids"])):
            if len(values) != n:
                raise FileFormatError(f"{path}: {n} spectra but {len(values)} rows of {name}.")
        if header.get("VACUUM") is False:
            raise FileFormatError(f"{path} says VACUUM = F; spFrame files are in vacuum.")
        if log_lam[0, 0] > log_lam[0, -1]:
            counts, ivar, flagged, log_lam, sigma = (
                a[:, ::-1] for a in (counts, ivar, flagged, log_lam, sigma)
            )
        return FibreSpectra(
            10.0**log_lam,
            counts,
            ivar,
            np.where(flagged, int(PixelMask.FLAGGED), 0),
            np.maximum(sigma, 1e-3),
            exposure_time=float(header.get("EXPTIME", np.nan)),
            airmass=float(header.get("AIRMASS", np.nan)),
            fibre_ids=labels["fibre_ids"],
            names=labels["names"],
            meta={
                **{k: labels[k] for k in ("ra", "dec", "standard") if k in labels},
                "camera": str(header.get("CAMERAS", "")).strip(),
                "source": Path(path).name,
            },
        )


def _names(plug: Any, labels: dict[str, Any]) -> tuple[str, ...]:
    """Names of targets: OBJID where it is a number or a text, else none."""
    columns = {c.upper(): c for c in plug.dtype.names}
    if "names" in labels:
        return tuple(labels["names"])
    if "OBJID" not in columns or np.ndim(plug[columns["OBJID"]]) != 1:
        return ("",) * len(plug)
    return tuple(str(v).strip() for v in plug[columns["OBJID"]])
