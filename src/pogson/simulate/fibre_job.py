"""Files of a simulated multi-fibre frame: all that `pogson fluxcal` needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pogson.simulate.fibres import FibreSimulation, simulate_fibres
from pogson.spectro import FibreSpectra, Photometry, TemplateLibrary
from pogson.streams import stream

__all__ = ["write_fibre_frame", "write_fibre_job"]


def write_fibre_frame(
    path: str | os.PathLike[str],
    frame: FibreSpectra,
    *,
    ra: Any = None,
    dec: Any = None,
) -> Path:
    """Write a frame of counts in the plain FITS layout that `read_fibre_spectra` reads.

    Parameters
    ----------
    path : path-like
        The file.
    frame : FibreSpectra
        The frame.
    ra, dec : array_like, shape (n_fibre,), optional
        Places of the fibres, degrees.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.formats import read_fibre_spectra
    >>> frame = FibreSpectra([5000.0, 5001.0], [[1.0, 2.0]], [[1.0, 1.0]], names=["a"])
    >>> path = write_fibre_frame(tempfile.mkdtemp() + "/frame.fits", frame)
    >>> read_fibre_spectra(path).names
    ('a',)
    """
    from astropy.io import fits
    from astropy.table import Table

    from pogson.atomic import atomic_path

    primary = fits.PrimaryHDU()
    counts = fits.ImageHDU(np.asarray(frame.counts), name="COUNTS")
    counts.header["BUNIT"] = frame.unit
    for key, value in (("EXPTIME", frame.exposure_time), ("AIRMASS", frame.airmass)):
        if np.isfinite(value):
            primary.header[key] = value
    primary.header["AIRORVAC"] = "vac"
    hdus = fits.HDUList([primary, counts])
    for name, values in (
        ("IVAR", frame.ivar),
        ("MASK", frame.mask.astype(np.int32)),
        ("WAVELENGTH", frame.wavelength),
        ("LSF_SIGMA", frame.lsf_sigma),
    ):
        if values is not None:
            hdus.append(fits.ImageHDU(np.asarray(values), name=name))
    columns = {"FIBRE": np.asarray(frame.fibre_ids), "NAME": np.array(frame.names, "S")}
    if ra is not None and dec is not None:
        columns |= {"RA": np.asarray(ra, float), "DEC": np.asarray(dec, float)}
    hdus.append(fits.BinTableHDU(Table(columns), name="FIBRES"))
    with atomic_path(path) as temporary:
        hdus.writeto(temporary)
    return Path(path)


def write_fibre_job(
    folder: str | os.PathLike[str],
    *,
    seed: int = 1,
    simulation: FibreSimulation | None = None,
    system: str = "AB",
    **options: Any,
) -> tuple[Path, FibreSimulation]:
    """Simulate a frame and write it with its standards, templates and configuration.

    Parameters
    ----------
    folder : path-like
        Where ``frame.fits``, ``standards.ecsv``, ``templates.fits`` and ``fluxcal.toml`` go.
    seed : int, optional
        Everything follows from it.
    simulation : FibreSimulation, optional
        One made already; then ``options`` must be empty.
    system : str, optional
        What the table says that its magnitudes are in; they are in AB.
    **options
        As for `simulate_fibres`.

    Returns
    -------
    config : pathlib.Path
        ``fluxcal.toml``.
    simulation : FibreSimulation
        The truth.

    Examples
    --------
    >>> import tempfile
    >>> config, truth = write_fibre_job(tempfile.mkdtemp(), seed=3, n_stars=2, n_fibres=3)
    >>> sorted(p.name for p in config.parent.iterdir())
    ['fluxcal.toml', 'frame.fits', 'standards.ecsv', 'templates.fits']
    """
    from dataclasses import replace

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    sim = simulation or simulate_fibres(seed, **options)
    # fibres are numbered from 1, as on most spectrographs
    frame = replace(sim.frame, fibre_ids=np.arange(1, sim.frame.n_fibres + 1))
    sim = replace(sim, frame=frame)
    rng = stream(seed, "places")
    ra = 150.0 + rng.uniform(-0.7, 0.7, frame.n_fibres)
    dec = 2.0 + rng.uniform(-0.7, 0.7, frame.n_fibres)
    write_fibre_frame(root / "frame.fits", frame, ra=ra, dec=dec)
    _write_standards(root / "standards.ecsv", frame, sim.standards, ra, dec, system, rng)
    _write_templates(root / "templates.fits", sim.library)
    config = root / "fluxcal.toml"
    config.write_text(
        '[frame]\npath = "frame.fits"\n\n[standards]\ntable = "standards.ecsv"\n\n'
        '[templates]\npath = "templates.fits"\n',
        encoding="utf-8",
    )
    return config, sim


def _write_standards(
    path: Path,
    frame: FibreSpectra,
    standards: dict[str, Photometry],
    ra: np.ndarray,
    dec: np.ndarray,
    system: str,
    rng: np.random.Generator,
) -> None:
    """Write the table in an order that is not that of the fibres."""
    from astropy.table import Table

    names = list(standards)
    order = rng.permutation(len(names))
    rows = [frame.row(names[i]) for i in order]
    bands = standards[names[0]].filter_names
    table = Table(
        {
            "fibre": np.asarray(frame.fibre_ids)[rows],
            "name": [names[i] for i in order],
            "ra": ra[rows],
            "dec": dec[rows],
        }
    )
    for k, band in enumerate(bands):
        table[band] = [float(standards[names[i]].magnitudes[k]) for i in order]
        table[f"{band}_err"] = [float(standards[names[i]].mag_errors[k]) for i in order]
        table[band].format = table[f"{band}_err"].format = ".4f"
    for key in ("ebv", "ebv_error"):
        table[key] = [float(standards[names[i]].meta.get(key, np.nan)) for i in order]
        table[key].format = ".4f"
    table.meta["system"] = system
    table.write(path, format="ascii.ecsv")


def _write_templates(path: Path, library: TemplateLibrary) -> None:
    from astropy.io import fits
    from astropy.table import Table

    parameters = {"TEFF": library.teff, "LOGG": library.logg, "FEH": library.feh}
    primary = fits.PrimaryHDU()
    primary.header["AIRORVAC"] = "vac"
    lam = fits.ImageHDU(np.asarray(library.wavelength), name="WAVELENGTH")
    lam.header["AIRORVAC"] = "vac"
    fits.HDUList(
        [primary, fits.ImageHDU(np.asarray(library.flux, np.float32), name="FLUX"), lam,
         fits.BinTableHDU(Table(parameters), name="PARAMETERS")]
    ).writeto(path)  # fmt: skip
