"""Images taken from one state to another, as the commands ``pogson image`` and the run do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.errors import MissingDataError, PogsonValueError

if TYPE_CHECKING:
    from pogson.images import CoaddGrid, Exposure
    from pogson.sed import Spectrum

__all__ = [
    "flattened_exposure",
    "in_state",
    "open_image",
    "output_grid",
    "state_words",
    "with_sky",
]

_MOST_PIXELS = 2**31
_MOST_TILES = 1_000_000


def open_image(
    path: str | os.PathLike[str],
    *,
    flat: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Exposure:
    """Read an image of any known format, with the flat that it was divided by where it is given.

    Parameters
    ----------
    path : path-like
        The image.
    flat : path-like, optional
        Flat of an image in pogson's format that names its flat but does not hold it.
    **options
        As `pogson.formats.read_exposure`.

    Raises
    ------
    MissingDataError
        If a flat is given for an image that was not written by pogson; see `flattened_exposure`.
    """
    from pogson.formats import read_chromatic_flat, read_exposure, sniff_instrument

    given = {k: v for k, v in options.items() if v is not None}
    native = not given and sniff_instrument(path) == "native"
    if native:
        from pogson.formats.native import read_native

        exposure = read_native(path, flat=None if flat is None else read_chromatic_flat(flat))
    else:
        exposure = read_exposure(path, **given)
    if exposure.area_ratio is None and exposure.sky is not None:
        exposure = exposure.with_area_ratio()
    return exposure


def flattened_exposure(
    exposure: Exposure, *, flat: str | os.PathLike[str], sed: Spectrum, fiducial: Spectrum | None,
    bandpass: str | None,
) -> Exposure:  # fmt: skip
    """Attach what an image was flattened with, as the user says it; no pixel changes.

    Parameters
    ----------
    exposure : Exposure
        Divided by the flat already.
    flat : path-like
        The flat as a function of wavelength.
    sed, fiducial : Spectrum
        For which it was flattened, and the survey's fiducial one.
    bandpass : str or None
        speclite's name; by default the exposure's own.

    Raises
    ------
    MissingDataError
        If the bandpass is not known.
    PogsonValueError
        If the exposure says that it is flat for something else.
    """
    from pogson.formats import read_chromatic_flat
    from pogson.images import Flattening
    from pogson.sed import Bandpass

    name = bandpass or exposure.bandpass
    if name is None:
        raise MissingDataError(
            "The bandpass of the image is not known, and the flat has to be integrated through it; "
            "give its name (such as 'decam2014-r')."
        )
    known = exposure.flattening_sed
    if exposure.flattening is None and known is not None and known != sed.name:
        raise PogsonValueError(
            f"The image says that it is flat for {known!r}, not for {sed.name!r}."
        )
    read = read_chromatic_flat(flat, box=exposure.box)
    state = Flattening(read, Bandpass.from_speclite(name), sed, fiducial or sed)
    return exposure.with_(flattening=state)


def in_state(
    exposure: Exposure, *, measure: str | None = None, sed: Spectrum | str | None = None
) -> Exposure:
    """Return the exposure in a state; messages say what the command line has to give.

    Parameters
    ----------
    exposure : Exposure
        The image.
    measure : str, optional
        As it is by default.
    sed : Spectrum or "fiducial", optional
        As it is by default.

    Raises
    ------
    MissingDataError
        If the spectrum is to change and it is not known for which one the image is flat.
    """
    if sed is not None and exposure.flattening is None:
        said = (
            ""
            if exposure.flattening_sed is None
            else f" beyond the name {exposure.flattening_sed!r}"
        )
        raise MissingDataError(
            f"It is not known with which flat, for which spectrum, the image was flattened{said}, "
            f"and it is not assumed: give --flat FILE and --flattened-for SPECTRUM."
        )
    return exposure.to_state(measure=measure, sed=sed)


def state_words(exposure: Exposure) -> str:
    """Return the state of an exposure in a few words.

    Examples
    --------
    >>> import numpy as np
    >>> from pogson.images import Exposure
    >>> state_words(Exposure(np.ones((2, 2)), unit="adu", measure="fluence"))
    'fluence in adu, flat for an unknown spectrum, no background attached'
    """
    sed = exposure.flattening_sed
    flat = "an unknown spectrum" if sed is None else repr(sed)
    if exposure.background is None:
        sky = "no background attached"
    else:
        sky = f"background {'' if exposure.background_subtracted else 'not '}subtracted"
    measure = exposure.measure.value.replace("_", " ")
    unit = exposure.unit.to_string() or "no unit"
    return f"{measure} in {unit}, flat for {flat}, {sky}"


def with_sky(exposure: Exposure, path: object) -> Exposure:
    """Return the exposure, refused where it has no sky mapping."""
    if exposure.sky is None:
        raise MissingDataError(f"{path} has no WCS: its place on the sky is unknown.")
    return exposure


def output_grid(
    images: Sequence[tuple[Any, Any]],
    *,
    like: str | os.PathLike[str] | None = None,
    center: Sequence[float] | None = None,
    size: Sequence[float] | None = None,
    scale: float | None = None,
    tile_size: int = 2048,
    overlap: int = 100,
) -> CoaddGrid:
    """Return the grid of an output: like a file, given by numbers, or covering the inputs.

    Parameters
    ----------
    images : sequence of (SkyMap, Box)
        Inputs, which the grid covers if nothing else is said.
    like : path-like, optional
        FITS file whose mapping and pixels are taken.
    center, size : (float, float), optional
        Tangent point (degrees) and size (arcmin) of a plane with north up; both or none.
    scale : float, optional
        Pixel scale in arcsec; by default the finest of the inputs.
    tile_size, overlap : int, optional
        Of tiles.

    Raises
    ------
    PogsonValueError
        If the options exclude each other, or ask for more pixels than can be made.
    """
    grid = _asked_grid(images, like, center, size, scale, (tile_size, min(overlap, tile_size)))
    nx, ny = grid.box.nx, grid.box.ny
    tile = min(nx, tile_size) * min(ny, tile_size)
    if tile > _MOST_PIXELS or grid.n_columns * grid.n_rows > _MOST_TILES:
        raise PogsonValueError(
            f"The output would have {nx} x {ny} pixels, in {grid.n_columns} x {grid.n_rows} tiles: "
            f"more than can be made (a tile of {_MOST_PIXELS} pixels, {_MOST_TILES} tiles). Make "
            f"the pixels larger (scale, in arcsec) or the size (in arcmin) smaller."
        )
    return grid


def _asked_grid(
    images: Sequence[tuple[Any, Any]],
    like: str | os.PathLike[str] | None,
    center: Sequence[float] | None,
    size: Sequence[float] | None,
    scale: float | None,
    tiles: tuple[int, int],
) -> CoaddGrid:
    from pogson.fields import Box
    from pogson.images import CoaddGrid
    from pogson.sky import FitsSkyMap

    tile_size, overlap = tiles
    if like is not None:
        if center is not None or scale is not None or size is not None:
            raise PogsonValueError("Give a file to be like, or center, size and scale: not both.")
        return CoaddGrid(*_mapping_of(like), tile_size=tile_size, overlap=overlap)
    if (center is None) != (size is None):
        raise PogsonValueError("Center and size of the output go together: give both or none.")
    if center is None or size is None:
        return CoaddGrid.covering(images, scale_arcsec=scale, tile_size=tile_size, overlap=overlap)
    if scale is None:
        scale = min(float(s.pixel_scale(x=b.center[0], y=b.center[1])) for s, b in images)
    nx, ny = (max(1, round(60.0 * float(v) / scale)) for v in size)
    sky = FitsSkyMap.tan(
        float(center[0]), float(center[1]), x=0.5 * (nx - 1), y=0.5 * (ny - 1), scale_arcsec=scale
    )
    return CoaddGrid(sky, Box(0, 0, nx, ny), tile_size=tile_size, overlap=overlap)


def _mapping_of(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return mapping and box of a FITS image of any kind."""
    from pogson.fields import Box
    from pogson.formats import sniff_instrument
    from pogson.formats.fits_access import find_image_hdu, merged_header, open_fits
    from pogson.formats.json_values import from_json_value
    from pogson.formats.native import read_native_description
    from pogson.sky import FitsSkyMap, skymap_from_dict

    if sniff_instrument(path) == "native":
        data = read_native_description(path)
        if data["sky"] is None:
            raise MissingDataError(f"{os.fspath(path)} has no WCS that the output could be like.")
        return skymap_from_dict(from_json_value(data["sky"])), Box(*data["box"])
    with open_fits(path) as hdus:
        hdu = hdus[find_image_hdu(hdus, Path(path), None)]
        header, shape = merged_header(hdus, hdu), hdu.shape
    return FitsSkyMap.from_header(header), Box.from_shape(shape)
