"""Files: exposures, catalogues, PSFs and calibrations of many projects, read into typed objects.

Everything is imported on first use, so that ``import pogson`` and the command line stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pogson.formats.catalogs import read_catalog, write_catalog
    from pogson.formats.coadd_files import read_coadd, write_coadd
    from pogson.formats.exposures import read_exposure, sniff_instrument, write_exposure
    from pogson.formats.flat_files import read_chromatic_flat, write_chromatic_flat
    from pogson.formats.inspection import Inspection, inspect_file
    from pogson.formats.instruments import (
        InstrumentPreset,
        available_instruments,
        load_instrument,
    )
    from pogson.formats.lsst_background import read_lsst_background, read_lsst_background_layers
    from pogson.formats.lsst_catalogs import (
        read_lsst_catalog,
        read_lsst_reference_catalog,
        read_lsst_visit_summary,
    )
    from pogson.formats.lsst_fields import (
        read_lsst_field,
        read_lsst_photo_calib,
        read_lsst_photo_calib_parts,
        read_meas_mosaic_fcr,
    )
    from pogson.formats.lsst_sky import read_lsst_sky_map
    from pogson.formats.piff import read_piff
    from pogson.formats.psf_files import find_psf_file, read_psf
    from pogson.formats.psfex import read_psfex, write_psfex
    from pogson.formats.reference import ReferenceCatalog, read_reference_catalog
    from pogson.formats.spectra_desi import read_desi_frame
    from pogson.formats.spectra_sdss import read_sdss_coadd, read_sdss_exposures
    from pogson.formats.spectra_sdss_frame import read_sdss_frame
    from pogson.formats.spectra_table import from_specutils, read_fibre_spectra
    from pogson.formats.spectra_write import write_calibrated_spectra
    from pogson.formats.spectrum_words import spectrum_from_words
    from pogson.formats.stamps import read_sky_header, read_stamp

_WHERE = {
    "read_catalog": "catalogs",
    "write_catalog": "catalogs",
    "read_coadd": "coadd_files",
    "write_coadd": "coadd_files",
    "read_exposure": "exposures",
    "sniff_instrument": "exposures",
    "write_exposure": "exposures",
    "read_chromatic_flat": "flat_files",
    "write_chromatic_flat": "flat_files",
    "Inspection": "inspection",
    "inspect_file": "inspection",
    "InstrumentPreset": "instruments",
    "available_instruments": "instruments",
    "load_instrument": "instruments",
    "find_psf_file": "psf_files",
    "read_psf": "psf_files",
    "ReferenceCatalog": "reference",
    "read_reference_catalog": "reference",
    "read_lsst_background": "lsst_background",
    "read_lsst_background_layers": "lsst_background",
    "read_lsst_catalog": "lsst_catalogs",
    "read_lsst_reference_catalog": "lsst_catalogs",
    "read_lsst_visit_summary": "lsst_catalogs",
    "read_lsst_field": "lsst_fields",
    "read_lsst_photo_calib": "lsst_fields",
    "read_lsst_photo_calib_parts": "lsst_fields",
    "read_meas_mosaic_fcr": "lsst_fields",
    "read_lsst_sky_map": "lsst_sky",
    "read_psfex": "psfex",
    "write_psfex": "psfex",
    "read_piff": "piff",
    "read_sdss_coadd": "spectra_sdss",
    "read_sdss_exposures": "spectra_sdss",
    "read_sdss_frame": "spectra_sdss_frame",
    "read_desi_frame": "spectra_desi",
    "from_specutils": "spectra_table",
    "read_fibre_spectra": "spectra_table",
    "write_calibrated_spectra": "spectra_write",
    "spectrum_from_words": "spectrum_words",
    "read_sky_header": "stamps",
    "read_stamp": "stamps",
}

__all__ = [
    "Inspection",
    "InstrumentPreset",
    "ReferenceCatalog",
    "available_instruments",
    "find_psf_file",
    "from_specutils",
    "inspect_file",
    "load_instrument",
    "read_catalog",
    "read_chromatic_flat",
    "read_coadd",
    "read_desi_frame",
    "read_exposure",
    "read_fibre_spectra",
    "read_lsst_background",
    "read_lsst_background_layers",
    "read_lsst_catalog",
    "read_lsst_field",
    "read_lsst_photo_calib",
    "read_lsst_photo_calib_parts",
    "read_lsst_reference_catalog",
    "read_lsst_sky_map",
    "read_lsst_visit_summary",
    "read_meas_mosaic_fcr",
    "read_piff",
    "read_psf",
    "read_psfex",
    "read_reference_catalog",
    "read_sdss_coadd",
    "read_sdss_exposures",
    "read_sdss_frame",
    "read_sky_header",
    "read_stamp",
    "sniff_instrument",
    "spectrum_from_words",
    "write_calibrated_spectra",
    "write_catalog",
    "write_chromatic_flat",
    "write_coadd",
    "write_exposure",
    "write_psfex",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
