"""``pogson inject``: synthetic sources into a calibrated image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pogson.calib import FluxReference
    from pogson.images import Exposure
    from pogson.inject import Injection, InjectionCatalog

__all__ = ["command"]

_SCHEMAS = ("pogson", "lsst", "legacy-radians")
_PATTERNS = ("random", "grid", "hexagonal")


def _catalog_options(function: Any) -> Any:
    """Add the options that say what is injected."""
    for option in reversed((
        click.option("--reference", metavar="REFERENCE",
                     help="What the fluxes are fluxes of, where the catalogue does not say it: "
                     "'total', 'aperture 12 px' or 'aperture 3 arcsec'."),
        click.option("--band", help="Band of the catalogue to use; default: the image's own."),
        click.option("--schema", type=click.Choice(_SCHEMAS), default="pogson", show_default=True,
                     help="Whose column names the catalogue has; never guessed."),
        click.option("--generate", type=click.Choice(_PATTERNS),
                     help="Make up point sources instead of reading a CATALOG."),
        click.option("--number", type=click.IntRange(min=1), default=100, show_default=True,
                     help="How many to make up (at most, for a lattice)."),
        click.option("--magnitudes", metavar="BRIGHT:FAINT", default="18:25", show_default=True,
                     help="Their AB magnitudes, spread evenly."),
        click.option("--separation", type=click.FloatRange(min=0.0), default=50.0,
                     show_default=True, help="Least distance in pixels between them."),
    )):  # fmt: skip
        function = option(function)
    return function


def _image_options(function: Any) -> Any:
    """Add the options that say what the image is, and how sources are drawn."""
    for option in reversed((
        click.option("--instrument", help="Preset of an image that is not pogson's own."),
        click.option("--detector", help="Detector, in a file with several."),
        click.option("--image-psf", metavar="FILE", type=click.Path(path_type=Path),
                     help="PSF of the image, where its file holds none."),
        click.option("--zero-point", type=float,
                     help="AB magnitude of one image unit, where the file holds no calibration."),
        click.option("--psf", metavar="FILE", type=click.Path(path_type=Path),
                     help="Draw with this PSF instead of the image's."),
        click.option("--poisson", is_flag=True, help="Add the sources' photon noise."),
        click.option("--gain", type=click.FloatRange(min=0.0, min_open=True),
                     help="Electrons per image unit, for --poisson; default: the file's."),
        click.option("--accuracy", type=click.FloatRange(0.0, 0.5, min_open=True, max_open=True),
                     default=1e-4, show_default=True,
                     help="Largest fraction of a source's flux that its stamp may miss."),
        click.option("--largest-radius", type=click.FloatRange(min=0.0, min_open=True),
                     help="Largest aperture in pixels that will be measured."),
        click.option("--seed", type=int, default=0, show_default=True,
                     help="Seed of noise, places and magnitudes."),
        click.option("--again", is_flag=True, help="Allow an image that is injected already."),
    )):  # fmt: skip
        function = option(function)
    return function


@click.command(name="inject")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("catalog", type=click.Path(path_type=Path), required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path),
              help="Image to write; default: IMAGE-injected.fits here.")  # fmt: skip
@click.option("--truth", type=click.Path(path_type=Path),
              help="Truth table to write; default: beside the output, -truth.parquet.")  # fmt: skip
@_catalog_options
@_image_options
def command(image: Path, catalog: Path | None, output: Path | None, truth: Path | None,
            **options: Any) -> None:  # fmt: skip
    """Put the sources of CATALOG into IMAGE, so that flux in is flux out under its reference.

    CATALOG has ra, dec (degrees) or x, y, and flux (nJy) or mag (AB), or one column a band; see
    the documentation for shapes. IMAGE is not changed: a new image and a truth table are written.
    Rows that cannot be drawn are flagged, counted, and lose none of the others.
    """
    from pogson.errors import PogsonValueError

    if (catalog is None) == (options["generate"] is None):
        raise PogsonValueError("Give a CATALOG, or --generate a pattern: one of the two.")
    stem = image.name.removesuffix(".gz").removesuffix(".fz").rsplit(".", 1)[0]
    output = output or Path(f"{stem}-injected.fits")
    truth = truth or output.with_name(f"{output.name.split('.fits', maxsplit=1)[0]}-truth.parquet")
    if len({p.resolve() for p in (image, output, truth)}) < 3:
        raise PogsonValueError(f"IMAGE, --output and --truth must be three files; got {image}, "
                               f"{output} and {truth}.")  # fmt: skip
    _check_suffixes(output, truth)
    result = _injected(image, catalog, options)
    _write(result, output, truth)


def _check_suffixes(output: Path, truth: Path) -> None:
    """Refuse file names that cannot be written before any work is done."""
    from pogson.errors import PogsonValueError
    from pogson.formats.catalogs import catalog_format

    if not output.name.endswith((".fits", ".fits.gz", ".fit")):
        raise PogsonValueError(f"--output {output}: exposures are written as .fits or .fits.gz.")
    catalog_format(truth)


def _injected(image: Path, catalog: Path | None, options: dict[str, Any]) -> Injection:
    from pogson.calib.reference_words import reference_from_words
    from pogson.formats import read_catalog, read_psf
    from pogson.inject import InjectionCatalog, inject

    reference = None
    if options["reference"] is not None:
        reference = reference_from_words(options["reference"])
    exposure = _exposure(image, options)
    if catalog is None:
        table = _generated(exposure, reference, options)
        name, schema = f"generated: {options['generate']}", "pogson"
        reference = None
    else:
        table, name, schema = read_catalog(catalog), catalog.name, options["schema"]
    sources = InjectionCatalog.from_table(
        table, band=options["band"], schema=schema, reference=reference, name=name
    )
    if options["band"] is not None:
        sources = _without_band(sources, options["band"])
    psf = None
    if options["psf"] is not None:
        psf = read_psf(options["psf"], detector=exposure.detector or None, sky=exposure.sky)
    return inject(
        exposure, sources, injection_psf=psf, accuracy=options["accuracy"],
        largest_radius=options["largest_radius"], poisson=options["poisson"],
        gain=options["gain"], seed=options["seed"], again=options["again"],
    )  # fmt: skip


def _without_band(sources: InjectionCatalog, band: str) -> InjectionCatalog:
    """Return a catalogue whose fluxes go into an image of whatever band, as the user said."""
    from dataclasses import replace

    table = sources.table.copy(copy_data=False)
    table.rename_column(f"flux_{band}", "flux")
    name = f"{sources.name}, band {band}"
    return replace(sources, table=table, references={"": sources.reference(band)}, name=name)


def _exposure(image: Path, options: dict[str, Any]) -> Exposure:
    from pogson.calib import FluxReference, PhotoCalib
    from pogson.errors import PogsonValueError
    from pogson.formats import read_exposure

    exposure = read_exposure(
        image, instrument=options["instrument"], detector=options["detector"],
        psf=options["image_psf"],
    )  # fmt: skip
    if options["zero_point"] is not None:
        if exposure.photo_calib is not None:
            raise PogsonValueError(
                f"{image} holds its calibration already; leave out --zero-point."
            )
        calib = PhotoCalib.from_zero_point(
            options["zero_point"], unit=exposure.unit.to_string(), reference=FluxReference.total()
        )
        exposure = exposure.with_(photo_calib=calib)
    if exposure.area_ratio is None and exposure.sky is not None:
        exposure = exposure.with_area_ratio()
    return exposure


def _generated(exposure: Exposure, reference: FluxReference | None, options: dict[str, Any]) -> Any:
    from pogson.errors import PogsonValueError, ReferenceMismatchError
    from pogson.inject import place_sources, uniform_magnitudes

    if reference is None:
        raise ReferenceMismatchError(
            "--generate needs --reference: nothing says whether --magnitudes are total or in an "
            "aperture. Write --reference total, or --reference 'aperture 12 px'."
        )
    try:
        bright, faint = (float(part) for part in options["magnitudes"].split(":"))
    except ValueError:
        raise PogsonValueError(
            f"--magnitudes {options['magnitudes']!r} must be BRIGHT:FAINT, such as 18:25."
        ) from None
    spacing = None
    if options["generate"] != "random":
        spacing = max(options["separation"] + 1.5, 2.0)
    table = place_sources(
        exposure, n=options["number"], pattern=options["generate"], spacing=spacing,
        min_separation=options["separation"], seed=options["seed"],
    )  # fmt: skip
    return uniform_magnitudes(table, faint, bright, reference=reference, seed=options["seed"])


def _write(result: Injection, output: Path, truth: Path) -> None:
    from pogson.formats import write_catalog, write_exposure
    from pogson.inject import count_injection_flags
    from pogson.inject.flags import INJECTION_FLAG_DOCS

    write_exposure(output, result.exposure)
    write_catalog(truth, result.truth)
    for line in result.report:
        click.echo(line)
    meanings = {flag.name: text for flag, text in INJECTION_FLAG_DOCS.items()}
    for name, count in count_injection_flags(result.truth["flags"]).items():
        click.echo(f"  {count} {name}: {meanings[name]}")
    if not result.drawn.any():
        click.echo("Warning: nothing was drawn.", err=True)
    click.echo(f"Image: {output}")
    click.echo(f"Truth: {truth}")
