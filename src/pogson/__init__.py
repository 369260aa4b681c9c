"""Photometric calibration in which every flux knows what it means.

The names below are imported on first use, so that ``import pogson`` stays fast.

Examples
--------
>>> import pogson
>>> pogson.Box.from_shape((2, 3)).area
6
"""

from __future__ import annotations

import importlib
from typing import Any

from pogson._version import __version__

# public name -> module that defines it; the modules load on first use
_PUBLIC: dict[str, str] = {
    **dict.fromkeys(
        ("Box", "ChebyshevField", "ConstantField", "Field", "GridField", "PixelAreaField",
         "read_field", "write_field"),
        "pogson.fields",
    ),
    **dict.fromkeys(("AstSkyMap", "FitsSkyMap", "GwcsSkyMap", "SkyMap"), "pogson.sky"),
    **dict.fromkeys(
        ("ApertureOperator", "GaussianPSF", "KolmogorovPSF", "MoffatPSF", "PSF", "PixelGridPSF"),
        "pogson.psf",
    ),
    **dict.fromkeys(("Bandpass", "Spectrum", "synthetic_flux"), "pogson.sed"),
    **dict.fromkeys(
        ("ColorTerm", "FluxReference", "PhotoCalib", "ZeroPointFit", "fit_zero_point"),
        "pogson.calib",
    ),
    **dict.fromkeys(
        ("Exposure", "curve_of_growth", "detect", "estimate_background", "fit_aperture_correction",
         "measure_sources", "psf_flux"),
        "pogson.images",
    ),
    **dict.fromkeys(
        ("inspect_file", "read_catalog", "read_exposure", "read_psf", "read_reference_catalog",
         "write_catalog", "write_exposure"),
        "pogson.formats",
    ),
    **dict.fromkeys(("RunConfig", "load_config", "run_survey"), "pogson.run"),
    **dict.fromkeys(("get_executor", "map_tasks"), "pogson.parallel"),
    **dict.fromkeys(("Measure", "flux_to_magnitude", "magnitude_to_flux"), "pogson.units"),
    **dict.fromkeys(("PogsonError", "PogsonWarning"), "pogson.errors"),
}  # fmt: skip

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None and name.startswith("_"):
        raise AttributeError(f"module 'pogson' has no attribute {name!r}")
    if module is None:
        try:
            return importlib.import_module(f"pogson.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"pogson.{name}":
                raise
            raise AttributeError(f"module 'pogson' has no attribute {name!r}") from None
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
