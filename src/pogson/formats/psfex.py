"""PSFEx files, as PSFEx writes them and as the Legacy Surveys table them.

A PSFEx file (Bertin 2011, ASP Conf. 442, 435) has a table PSF_DATA with one row: PSF_MASK holds
the samples of every polynomial term, header cards say how they vary. The Legacy Surveys keep the
same numbers in a table with one row per detector, the cards as columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, MissingDataError, PogsonValueError, choices
from pogson.fields import Box
from pogson.formats.fits_access import open_fits
from pogson.psf import PSF, PixelFrame, PixelGridPSF, PsfNormalization
from pogson.psf.pixel_grid import INTERPOLATIONS, polynomial_powers
from pogson.psf.sampling import GridApproximation, sample_psf

__all__ = ["read_psfex", "write_psfex"]

_MAX_DEGREE = 20


def read_psfex(
    path: str | os.PathLike[str],
    *,
    detector: str | None = None,
    exposure: str | int | None = None,
    extension: int | None = None,
    interpolation: str | None = None,
    normalization: PsfNormalization | None = None,
    box: Box | None = None,
) -> PixelGridPSF:
    """Read a PSFEx file.

    Parameters
    ----------
    path : path-like
        A ``.psf`` file of PSFEx, or a FITS table with a column ``psf_mask`` and a row per detector.
    detector, exposure : str, optional
        Detector name and exposure number the PSF must be of. They pick the row of a table; a file
        of another detector is refused. Files that do not say what they are of are not checked.
    extension : int, optional
        Which of several PSF_DATA extensions to take, from 0.
    interpolation : {"lanczos3", "lanczos4", "lanczos5", "lagrange6"}, optional
        How samples are joined; by default what the file says (files of `write_psfex` do), else
        "lanczos3", as PSFEx itself.
    normalization : PsfNormalization, optional
        By default what the file says (files of `write_psfex` do), else the samples at each
        position sum to 1: the sum of PSF_MASK varies by per cents over a detector as fitted.
    box : Box, optional
        Pixels for which the PSF is valid.

    Returns
    -------
    psf : pogson.psf.PixelGridPSF
        With ``metadata`` naming the file, the detector and the FWHM that PSFEx states.

    Raises
    ------
    FileFormatError
        If the file is not a PSFEx file, is damaged, or varies with anything but x and y.
    MissingDataError
        If the file has no PSF of that detector or exposure, or several to choose from.

    Notes
    -----
    POLZERO counts pixels from 1 and is shifted here; the star sits on sample ``n // 2``; values
    per pixel are samples divided by PSF_SAMP squared.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.psf import MoffatPSF
    >>> path = Path(tempfile.mkdtemp()) / "star.psf"
    >>> box = Box(0, 0, 500, 500)
    >>> _ = write_psfex(MoffatPSF(4.0, 3.0), path, box=box, degree=1, detector="N4")
    >>> psf = read_psfex(path, box=box)
    >>> psf.detector, round(float(psf.fwhm(x=250.0, y=250.0)), 1)
    ('N4', 4.1)
    """
    target = Path(path)
    with open_fits(target) as hdus:
        tables = [
            hdu
            for hdu in hdus[1:]
            if getattr(hdu, "columns", None) is not None
            and "psf_mask" in {str(name).lower() for name in hdu.columns.names}
        ]
        if not tables:
            raise FileFormatError(
                f"{target} is not a PSFEx file: no table in it has a column PSF_MASK."
            )
        if "psf_samp" in {name.lower() for name in tables[0].columns.names}:
            get, mask = _table_row(target, tables[0], detector, exposure)
        else:
            get, mask = _extension(target, tables, extension, detector, exposure)
        mask = np.array(mask, np.float64)
        try:
            return _build(target, get, mask, interpolation, normalization, box, detector)
        except PogsonValueError as error:
            raise FileFormatError(f"{target} holds an impossible PSF: {error}") from error


Getter = Callable[[str], Any]


def _table_row(
    path: Path, hdu: Any, detector: str | None, exposure: str | int | None
) -> tuple[Getter, np.ndarray]:
    """Return a getter of values and PSF_MASK of the row asked for."""
    names = {str(name).lower(): name for name in hdu.columns.names}
    rows = np.ones(len(hdu.data), bool)
    for column, wanted, word in (
        ("ccdname", detector, "detector"),
        ("expnum", exposure, "exposure"),
    ):
        if wanted is None or column not in names:
            continue
        held = np.array([str(v).strip() for v in hdu.data[names[column]]])
        match = held == str(wanted).strip()
        if not (rows & match).any():
            raise MissingDataError(
                f"{path} holds the PSF of {word} {choices(sorted(set(held[rows])))}, not of "
                f"{str(wanted)!r}; use the PSF of the same {word}."
            )
        rows &= match
    if rows.sum() != 1:
        all_held = (
            [str(v).strip() for v in hdu.data[names["ccdname"]]] if "ccdname" in names else []
        )
        raise MissingDataError(
            f"{path} has {int(rows.sum())} PSFs to choose from; say which with detector= "
            f"({choices(all_held) or 'the table names none'})."
        )
    row = hdu.data[int(np.flatnonzero(rows)[0])]

    def get(key: str) -> Any:
        if key.lower() not in names:
            raise FileFormatError(f"{path} is not a PSFEx table: it has no column {key.lower()!r}.")
        return row[names[key.lower()]]

    return get, row[names["psf_mask"]]


def _extension(
    path: Path,
    tables: list[Any],
    extension: int | None,
    detector: str | None,
    exposure: str | int | None,
) -> tuple[Getter, np.ndarray]:
    """Return a getter of cards and PSF_MASK of a file that PSFEx wrote."""
    if extension is None and len(tables) > 1:
        raise MissingDataError(
            f"{path} has {len(tables)} PSF_DATA extensions; say which with extension=0..."
            f"{len(tables) - 1}."
        )
    number = 0 if extension is None else int(extension)
    if not 0 <= number < len(tables):
        raise MissingDataError(
            f"{path} has no PSF_DATA extension {number}; it has {len(tables)}, from 0."
        )
    hdu = tables[number]
    for keys, wanted, word in (
        (("DETECTOR", "CCDNAME", "DETPOS"), detector, "detector"),
        (("EXPOSURE", "EXPNUM"), exposure, "exposure"),
    ):
        held = next((str(hdu.header[k]).strip() for k in keys if k in hdu.header), None)
        if wanted is not None and held is not None and held != str(wanted).strip():
            raise MissingDataError(
                f"{path} holds the PSF of {word} {held!r}, not of {str(wanted)!r}; use the PSF of "
                f"the same {word}."
            )
    if len(hdu.data) < 1:
        raise FileFormatError(f"{path}: the table PSF_DATA has no row.")

    def get(key: str) -> Any:
        if key not in hdu.header:
            raise FileFormatError(f"{path} is not a PSFEx file: its header has no card {key}.")
        return hdu.header[key]

    name = next(n for n in hdu.columns.names if n.lower() == "psf_mask")
    return get, hdu.data[name][0]


def _optional(get: Getter, key: str) -> Any:
    try:
        return get(key)
    except FileFormatError:
        return None


def _layout(
    path: Path, get: Getter, n_values: int
) -> tuple[int, list[int], np.ndarray, tuple[int, int, int]]:
    """Return the number of axes, their order, the exponents and the array shape of PSF_MASK."""
    axes, groups = int(get("POLNAXIS")), int(get("POLNGRP")) if int(get("POLNAXIS")) else 0
    degree = int(get("POLDEG1")) if axes else 0
    if axes not in (0, 2) or groups > 1 or not 0 <= degree <= _MAX_DEGREE:
        raise FileFormatError(
            f"{path}: a PSF with POLNAXIS={axes}, POLNGRP={groups}, POLDEG1={degree} cannot be "
            f"read; allowed are none or two axes (X_IMAGE, Y_IMAGE) in one group of degree up to "
            f"{_MAX_DEGREE}."
        )
    powers = polynomial_powers(degree)
    order = [0, 1]
    if axes:
        names = [str(get(f"POLNAME{i}")).strip().upper() for i in (1, 2)]
        known = {"X_IMAGE": 0, "XWIN_IMAGE": 0, "Y_IMAGE": 1, "YWIN_IMAGE": 1}
        order = [known.get(name, -1) for name in names]
        if sorted(order) != [0, 1]:
            raise FileFormatError(
                f"{path}: the PSF varies with {choices(names)}; pogson reads PSFs that vary with "
                f"X_IMAGE and Y_IMAGE."
            )
        powers = powers[:, np.argsort(order)]
    shape = [int(get(f"PSFAXIS{i}")) for i in range(1, int(get("PSFNAXIS")) + 1)]
    if len(shape) == 2:
        shape.append(1)
    if len(shape) != 3 or shape[2] != len(powers) or min(shape) < 1:
        raise FileFormatError(
            f"{path}: PSFAXIS {shape} does not fit a polynomial of degree {degree}, which has "
            f"{len(powers)} terms."
        )
    if n_values != shape[0] * shape[1] * shape[2]:
        raise FileFormatError(
            f"{path}: PSF_MASK has {n_values} values, PSFAXIS {shape} ask for "
            f"{shape[0] * shape[1] * shape[2]}."
        )
    return axes, order, powers, (shape[2], shape[1], shape[0])


def _build(
    path: Path,
    get: Getter,
    mask: np.ndarray,
    interpolation: str | None,
    normalization: PsfNormalization | None,
    box: Box | None,
    detector: str | None,
) -> PixelGridPSF:
    """Make the PSF from the values of one PSF."""
    axes, order, powers, shape = _layout(path, get, mask.size)
    zero, scale = [0.0, 0.0], [1.0, 1.0]
    for i in range(axes):
        # FITS counts pixels from 1
        zero[order[i]] = float(get(f"POLZERO{i + 1}")) - 1.0
        scale[order[i]] = float(get(f"POLSCAL{i + 1}"))
    if normalization is None:
        word = str(_optional(get, "PSFNORM") or "box").strip().lower()
        normalization = PsfNormalization(word if word in ("total", "box") else "box")
    if interpolation is None:
        word = str(_optional(get, "PSFINTRP") or "").strip().lower()
        interpolation = word if word in INTERPOLATIONS else "lanczos3"
    return PixelGridPSF(
        mask.reshape(shape),
        powers,
        PixelFrame(float(get("PSF_SAMP")), zero[0], zero[1], scale[0], scale[1]),
        interpolation=interpolation,
        normalization=normalization,
        box=box,
        metadata=_metadata(path, get, detector),
    )


def _metadata(path: Path, get: Getter, detector: str | None) -> Mapping[str, Any]:
    """Return the facts of the file that a reader may want to see."""
    found: dict[str, Any] = {"format": "PSFEx", "file": path.name}
    width = _optional(get, "PSF_FWHM")
    if width is not None and np.isfinite(float(width)):
        found["psfex_fwhm"] = float(width)
    for key, name in (("ccdname", "detector"), ("expnum", "exposure"), ("DETECTOR", "detector"),
                      ("EXPOSURE", "exposure")):  # fmt: skip
        value = _optional(get, key)
        if value is not None:
            found[name] = str(value).strip()
    if detector is not None:
        found.setdefault("detector", str(detector))
    return found


def write_psfex(
    psf: PSF,
    path: str | os.PathLike[str],
    *,
    box: Box | None = None,
    oversampling: int = 2,
    half_size: int = 20,
    degree: int = 2,
    interpolation: str = "lagrange6",
    detector: str | None = None,
    exposure: str | None = None,
) -> GridApproximation:
    """Write any PSF as a PSFEx file.

    A `PixelGridPSF` whose samples lie along the pixels is written as it is; any other PSF is
    sampled first.

    Parameters
    ----------
    psf : PSF
        PSF to write.
    path : path-like
        File to make; it appears only when complete.
    box : Box, optional
        Pixels to represent; that of the PSF by default.
    oversampling, half_size, degree : int, optional
        Sampling, as for `pogson.psf.sampling.sample_psf`.
    interpolation : str, optional
        Kernel for which the error is stated, and which `read_psfex` will use; other readers use
        Lanczos kernels, with errors of 0.3 % of the peak at 2 samples a pixel and FWHM 4.
    detector, exposure : str, optional
        Written as cards DETECTOR and EXPOSURE and checked by `read_psfex`.

    Returns
    -------
    approximation : pogson.psf.sampling.GridApproximation
        The PSF written, with the error of the approximation.

    Raises
    ------
    PogsonValueError
        If no box is known, or a grid PSF lives on the sky or is normalised in an aperture.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from pogson.psf import MoffatPSF
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "star.psf"
    >>> written = write_psfex(MoffatPSF(4.0, 3.0), path, box=Box(0, 0, 500, 500), degree=1)
    >>> back = read_psfex(path)
    >>> round(float(back.enclosed_energy(12.0, x=250.0, y=250.0)), 4)
    0.9906
    """
    if isinstance(psf, PixelGridPSF) and isinstance(psf.frame, PixelFrame):
        if psf.normalization.radius is not None:
            raise PogsonValueError(
                f"A PSFEx file cannot say {psf.normalization!r}; use 'box' without radius or "
                "'total'."
            )
        written = GridApproximation(psf, 0.0, 0.0, 0.0)
    else:
        region = psf.box if box is None else box
        if region is None:
            raise PogsonValueError("Say which pixels the PSFEx file is for: box=Box(...).")
        written = sample_psf(
            psf,
            region,
            oversampling=oversampling,
            half_size=half_size,
            degree=degree,
            interpolation=interpolation,
        )
    table = _table(written.psf, detector, exposure)
    from astropy.io import fits

    with atomic_path(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(temporary, overwrite=True)
    return written


def _table(psf: PixelGridPSF, detector: str | None, exposure: str | None) -> Any:
    """Return the PSF_DATA extension."""
    from astropy.io import fits

    frame = psf.frame
    if not isinstance(frame, PixelFrame):
        raise PogsonValueError("Only samples along the pixels fit a PSFEx file.")
    terms, ny, nx = psf.coefficients.shape
    degree = int(psf.powers.sum(axis=1).max())
    full = polynomial_powers(degree)
    values = np.zeros((len(full), ny, nx), np.float32)
    for k, power in enumerate(full):
        for t in range(terms):
            if (psf.powers[t] == power).all():
                values[k] += psf.coefficients[t].astype(np.float32)
    column = fits.Column(
        name="PSF_MASK",
        format=f"{values.size}E",
        dim=f"({nx},{ny},{len(full)})",
        array=values[None],
    )
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    where = psf.box.center if psf.box is not None else (frame.x_zero, frame.y_zero)
    cards: list[tuple[str, Any, str]] = [
        ("LOADED", 0, "Number of loaded sources"),
        ("ACCEPTED", 0, "Number of accepted sources"),
        ("CHI2", 0.0, "Final reduced chi2"),
        ("POLNAXIS", 2, "Number of context parameters"),
        ("POLGRP1", 1, "Polynom group for this context parameter"),
        ("POLNAME1", "X_IMAGE", "Name of this context parameter"),
        ("POLZERO1", frame.x_zero + 1.0, "Offset value for this context parameter"),
        ("POLSCAL1", frame.x_scale, "Scale value for this context parameter"),
        ("POLGRP2", 1, "Polynom group for this context parameter"),
        ("POLNAME2", "Y_IMAGE", "Name of this context parameter"),
        ("POLZERO2", frame.y_zero + 1.0, "Offset value for this context parameter"),
        ("POLSCAL2", frame.y_scale, "Scale value for this context parameter"),
        ("POLNGRP", 1, "Number of context groups"),
        ("POLDEG1", degree, "Polynom degree for this context group"),
        ("PSF_FWHM", float(psf.fwhm(x=where[0], y=where[1])), "PSF FWHM in image pixels"),
        ("PSF_SAMP", frame.sampling, "Sampling step of the PSF data in image pixels"),
        ("PSFNAXIS", 3, "Dimensionality of the PSF data"),
        ("PSFAXIS1", nx, "Number of element along this axis"),
        ("PSFAXIS2", ny, "Number of element along this axis"),
        ("PSFAXIS3", len(full), "Number of element along this axis"),
        ("PSFNORM", psf.normalization.kind, "Meaning of the sum: total, or 1 in the box"),
        ("PSFINTRP", psf.interpolation, "Interpolation between samples"),
    ]
    if detector is not None:
        cards.append(("DETECTOR", str(detector), "Detector of the PSF"))
    if exposure is not None:
        cards.append(("EXPOSURE", str(exposure), "Exposure of the PSF"))
    hdu.header.extend(cards)
    return hdu
