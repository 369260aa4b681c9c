"""``pogson image``: states of images, backgrounds, resampling and coadds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pogson.cli.run import ProgressBars, parallel_options

if TYPE_CHECKING:
    from pogson.images import CoaddOptions, Exposure
    from pogson.run.coadd_tiles import CoaddFile
    from pogson.sed import Spectrum

__all__ = ["command"]

_PATH = click.Path(path_type=Path)
_POSITIVE = click.FloatRange(min=0.0, min_open=True)
_KERNELS = ("lanczos3", "lanczos2", "lanczos4", "exact")
_SPECTRUM = "'5800 K', 'moonlight', 'twilight', 'zodiacal', 'dark sky', 'AB', or a table"


@click.group(name="image")
def command() -> None:
    """Change the state of images, fit backgrounds, resample and add.

    An image is in a measure (fluence, or surface brightness) and flat for a spectrum. Photometry
    and coadds need fluence and the survey's fiducial spectrum; backgrounds are smooth in surface
    brightness and the spectrum of the night sky.
    """


def _add(function: Any, options: tuple[Any, ...]) -> Any:
    for option in reversed(options):
        function = option(function)
    return function


def _reading(function: Any) -> Any:
    """Add the options that say what an image that is not pogson's own means."""
    return _add(function, (
        click.option("--instrument", help="Preset of an image that is not pogson's own."),
        click.option("--detector", help="Detector, in a file with several."),
        click.option("--measure", type=click.Choice(["fluence", "surface_brightness"]),
                     help="What the pixels are, where the file does not say it."),
        click.option("--reference-pixel-area", type=_POSITIVE, metavar="ARCSEC2",
                     help="Pixel area to which surface brightness is scaled."),
    ))  # fmt: skip


def _flattening(function: Any) -> Any:
    """Add the options that say what an image has been flattened with."""
    return _add(function, (
        click.option("--flat", type=_PATH, metavar="FILE",
                     help="Flat as a function of wavelength that the image was divided by."),
        click.option("--flattened-for", metavar="SPECTRUM",
                     help=f"Spectrum for which it was: {_SPECTRUM}. Never assumed."),
        click.option("--fiducial", metavar="SPECTRUM",
                     help="The survey's fiducial spectrum; default: that of --flattened-for."),
        click.option("--bandpass", metavar="NAME", help="Bandpass, such as decam2014-r."),
    ))  # fmt: skip


def _output_plane(function: Any) -> Any:
    """Add the options that say on which pixels the output lies."""
    return _add(function, (
        click.option("--like", type=_PATH, metavar="FILE", help="Take mapping and pixels of FILE."),
        click.option("--center", type=float, nargs=2, metavar="RA DEC",
                     help="Tangent point in degrees; with --size."),
        click.option("--size", type=_POSITIVE, nargs=2, metavar="WIDTH HEIGHT",
                     help="Size in arcmin."),
        click.option("--scale", type=_POSITIVE, metavar="ARCSEC",
                     help="Pixel scale; default: the finest of the inputs."),
        click.option("--kernel", type=click.Choice(_KERNELS), default="lanczos3",
                     show_default=True, help="Interpolation, or exact overlap."),
    ))  # fmt: skip


def _open(image: Path, options: dict[str, Any]) -> Exposure:
    """Read an image as the options say."""
    from pogson.errors import PogsonValueError
    from pogson.run.coadd_states import flattened_exposure, open_image

    told = options.get("flattened_for")
    exposure = open_image(
        image, flat=None if told is not None else options.get("flat"),
        instrument=options["instrument"], detector=options["detector"],
        measure=options["measure"], reference_pixel_area=options["reference_pixel_area"],
    )  # fmt: skip
    if told is None:
        if options.get("fiducial") is not None or options.get("bandpass") is not None:
            raise PogsonValueError("--fiducial and --bandpass go with --flattened-for.")
        return exposure
    if options["flat"] is None:
        raise PogsonValueError("--flattened-for needs --flat: the flat that was used.")
    fiducial = options["fiducial"]
    return flattened_exposure(
        exposure, flat=options["flat"], sed=_spectrum(told),
        fiducial=None if fiducial is None else _spectrum(fiducial), bandpass=options["bandpass"],
    )  # fmt: skip


def _spectrum(text: str) -> Spectrum:
    from pogson.formats.spectrum_words import spectrum_from_words

    return spectrum_from_words(text)


def _target(image: Path, output: Path | None, ending: str) -> Path:
    """Return the file to write, refused where it is the input."""
    from pogson.errors import PogsonValueError

    stem = image.name.removesuffix(".gz").removesuffix(".fz").rsplit(".", 1)[0]
    target = output or Path(f"{stem}-{ending}.fits")
    if not target.name.endswith((".fits", ".fits.gz", ".fit")):
        raise PogsonValueError(f"--output {target}: exposures are written as .fits or .fits.gz.")
    if target.exists() and target.resolve() == image.resolve():
        raise PogsonValueError(f"--output {target} is the input; give another name.")
    return target


def _write_state(target: Path, before: Exposure, after: Exposure) -> None:
    from pogson.formats import write_exposure
    from pogson.run.coadd_states import state_words

    write_exposure(target, after)
    click.echo(f"From:  {state_words(before)}")
    click.echo(f"To:    {state_words(after)}")
    click.echo(f"Image: {target}")


def _measure_command(name: str, measure: str) -> None:
    words = measure.replace("_", " ")

    @command.command(
        name=name, short_help=f"Take IMAGE to {words}.",
        help=f"Take IMAGE to {words}; pixels stay as they are where it is in it already.",
    )  # fmt: skip
    @click.argument("image", type=_PATH)
    @click.option("--output", "-o", type=_PATH, help=f"Default: IMAGE-{name[3:]}.fits here.")
    @_reading
    def change(image: Path, output: Path | None, **options: Any) -> None:
        from pogson.run.coadd_states import in_state

        target = _target(image, output, name[3:])
        before = _open(image, options)
        _write_state(target, before, in_state(before, measure=measure))


_measure_command("to-fluence", "fluence")
_measure_command("to-surface-brightness", "surface_brightness")


@command.command(name="reflatten", short_help="Take IMAGE to the flat for another spectrum.")
@click.argument("image", type=_PATH)
@click.option("--sed", required=True, metavar="SPECTRUM",
              help=f"'fiducial', or: {_SPECTRUM}.")  # fmt: skip
@click.option("--output", "-o", type=_PATH, help="Default: IMAGE-reflattened.fits here.")
@_flattening
@_reading
def reflatten(image: Path, sed: str, output: Path | None, **options: Any) -> None:
    """Take IMAGE to the flat for the light of another spectrum.

    The image has to know the flat that it was divided by and for which spectrum; an image that
    does not is told by --flat and --flattened-for.
    """
    from pogson.run.coadd_states import in_state

    target = _target(image, output, "reflattened")
    wanted = sed if sed == "fiducial" else _spectrum(sed)
    before = _open(image, options)
    _write_state(target, before, in_state(before, sed=wanted))


@command.command(name="background", short_help="Fit and subtract the sky of a visit.")
@click.argument("images", metavar="IMAGE...", type=_PATH, nargs=-1, required=True)
@click.option("--output", "-o", type=_PATH, required=True, help="Folder of the images written.")
@click.option("--focal-plane/--per-detector", default=True, show_default=True,
              help="One smooth sky over all IMAGEs, or a mesh for each.")  # fmt: skip
@click.option("--order", type=click.IntRange(0, 12), default=4, show_default=True,
              help="Order of the smooth sky over the focal plane.")  # fmt: skip
@click.option("--pedestals/--no-pedestals", default=True, show_default=True,
              help="Fit a constant for each detector.")  # fmt: skip
@click.option("--mesh", type=click.IntRange(min=4), default=64, show_default=True,
              help="Size of the mesh in pixels.")  # fmt: skip
@click.option("--sky-sed", metavar="SPECTRUM",
              help=f"Fit in the flat for the sky's spectrum: {_SPECTRUM}.")  # fmt: skip
@click.option("--subtract/--attach", default=True, show_default=True,
              help="Subtract the background, or only attach it.")  # fmt: skip
@click.option("--restore", is_flag=True, help="Add a subtracted background back; fit nothing.")
@_flattening
@_reading
def background(images: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Fit the sky of the detectors of one visit, in surface brightness; subtract it exactly.

    A subtracted background stays in the file: --restore adds it back.
    """
    from pogson.errors import PogsonValueError
    from pogson.formats import write_exposure

    names = [p.name.removesuffix(".gz").removesuffix(".fz").rsplit(".", 1)[0] for p in images]
    if len(set(names)) < len(names):
        raise PogsonValueError(f"Two of the images have one name: {', '.join(sorted(names))}.")
    targets = [output / f"{name}.fits" for name in names]
    for target in targets:
        if target.exists() and target.resolve() in {p.resolve() for p in images}:
            raise PogsonValueError(f"{target} is an input; give another folder.")
    if output.exists() and not output.is_dir():
        raise PogsonValueError(f"--output {output} is a file; give the name of a folder.")
    exposures = [_open(image, options) for image in images]
    if options["restore"]:
        done = [e.restore_background() for e in exposures]
    else:
        done = _with_backgrounds([e.restore_background() for e in exposures], names, options)
    for target, exposure in zip(targets, done, strict=True):
        click.echo(f"Image: {write_exposure(target, exposure)}")


def _with_backgrounds(
    exposures: list[Exposure], names: list[str], options: dict[str, Any]
) -> list[Exposure]:
    from pogson.errors import MissingDataError
    from pogson.images import estimate_background
    from pogson.run.coadd_background import focal_plane_fit

    sed = None if options["sky_sed"] is None else _spectrum(options["sky_sed"])
    if sed is not None:
        for name, exposure in zip(names, exposures, strict=True):
            if exposure.flattening is None:
                raise MissingDataError(
                    f"{name}: --sky-sed needs to know with which flat, for which spectrum, the "
                    f"image was flattened: give --flat FILE and --flattened-for SPECTRUM."
                )
    if options["focal_plane"]:
        attached, words = focal_plane_fit(
            exposures, names, order=options["order"], pedestals=options["pedestals"],
            mesh=options["mesh"], sky_sed=sed,
        )  # fmt: skip
        click.echo(words)
    else:
        attached = [
            e.with_background(
                estimate_background(e, mesh=options["mesh"], mask_sources=True, sky_sed=sed)
            )
            for e in exposures
        ]
    return [e.subtract_background() for e in attached] if options["subtract"] else attached


@command.command(name="warp", short_help="Resample IMAGE onto other pixels.")
@click.argument("image", type=_PATH)
@click.option("--output", "-o", type=_PATH, help="Default: IMAGE-warp.fits here.")
@_output_plane
@_reading
def warp_command(image: Path, output: Path | None, **options: Any) -> None:
    """Resample IMAGE, in fluence, onto other pixels; flux and noise covariance are kept.

    The correlation of the noise is in the file, for `pogson.formats.read_coadd`.
    """
    from pogson.errors import CalibrationError
    from pogson.formats.coadd_files import is_resampled, write_coadd
    from pogson.images import warp
    from pogson.run.coadd_states import output_grid, with_sky

    target = _target(image, output, "warp")
    exposure = with_sky(_open(image, options), image)
    if is_resampled(exposure.metadata):
        raise CalibrationError(
            f"{image} is a warp or coadd already, whose pixels share noise; resample the image "
            f"that it was made from."
        )
    grid = _grid([(exposure.sky, exposure.box)], options, output_grid)
    made = warp(exposure, grid.sky, grid.box, kernel=options["kernel"])
    write_coadd(target, made)
    n = made.exposure
    click.echo(f"Pixels: {n.box.nx} x {n.box.ny} by {options['kernel']}; {made.noise!r}")
    click.echo(f"Image:  {target}")


def _grid(images: list[Any], options: dict[str, Any], output_grid: Any) -> Any:
    return output_grid(
        images, like=options["like"], center=options["center"] or None,
        size=options["size"] or None, scale=options["scale"],
        tile_size=options.get("tile_size", 1 << 16), overlap=options.get("overlap", 0),
    )  # fmt: skip


@command.command(name="coadd", short_help="Add IMAGEs tile by tile.")
@click.argument("images", metavar="IMAGE...", type=_PATH, nargs=-1, required=True)
@click.option("--output", "-o", type=_PATH, required=True, help="Folder of the tiles.")
@_output_plane
@click.option("--tile-size", type=click.IntRange(min=16), default=2048, show_default=True,
              help="Pixels of a tile's side.")  # fmt: skip
@click.option("--overlap", type=click.IntRange(min=0), default=100, show_default=True,
              help="Pixels by which tiles overlap.")  # fmt: skip
@click.option(
    "--weights",
    type=click.Choice(["inverse_variance", "uniform"]),
    default="inverse_variance",
    show_default=True,
    help="Constant for an image.",
)
@click.option("--clip/--no-clip", default=True, show_default=True,
              help="Leave out outliers; never stars.")  # fmt: skip
@click.option("--match-backgrounds", is_flag=True,
              help="Take out the smooth levels by which visits differ.")  # fmt: skip
@click.option("--match-degree", type=click.IntRange(0, 6), default=1, show_default=True,
              help="Total degree of these levels.")  # fmt: skip
@click.option("--match-bin", type=click.IntRange(min=8), default=64, show_default=True,
              help="Output pixels a side of the bins that are compared.")  # fmt: skip
@click.option("--flattening-sed", metavar="NAME",
              help="Spectrum for which images that do not say so are flat.")  # fmt: skip
@parallel_options
def coadd(images: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Add IMAGEs - calibrated, in nJy and fluence, background subtracted - tile by tile.

    Finished tiles stay: another call with the same arguments makes only what is missing. Exit
    code 1: some tiles failed; 2: the input is wrong, or no tile could be made.
    """
    from pogson.parallel import get_executor
    from pogson.run.coadd_matching import MatchingOptions, matched_groups
    from pogson.run.coadd_states import output_grid
    from pogson.run.coadd_tiles import check_coadd_files, coadd_file, tiles_stage
    from pogson.run.stages import StagedRun, locked, logging_to

    files = [coadd_file(p, weights=options["weights"]) for p in images]
    check_coadd_files(files, options["flattening_sed"])
    grid = _grid([(f.sky, f.box) for f in files], options, output_grid)
    with (
        locked(output), logging_to(output / "run.log"),
        ProgressBars(quiet=options["quiet"]) as bars,
        get_executor(options["workers"], scheduler=options["scheduler"]) as executor,
    ):  # fmt: skip
        run = StagedRun(output, executor, bars)
        groups: dict[str, list[CoaddFile]] = {"": files}
        levels: dict[str, str] = {}
        if options["match_backgrounds"]:
            matching = MatchingOptions(options["match_degree"], options["match_bin"])
            groups, levels = matched_groups(run, groups, grid, output / "matched", matching)
        made = tiles_stage(run, groups, grid, output, _options(options), matching=levels)
    _say(run, made, output)


def _options(options: dict[str, Any]) -> CoaddOptions:
    from pogson.images import Clipping, CoaddOptions

    return CoaddOptions(
        clip=Clipping() if options["clip"] else None, kernel=options["kernel"],
        flattening_sed=options["flattening_sed"],
    )  # fmt: skip


def _say(run: Any, made: dict[str, Any], output: Path) -> None:
    """Print what became of the tiles, and leave with the fitting exit code."""
    from pogson.cli import EXIT_PARTIAL
    from pogson.run.coadd_summary import matching_of

    tiles = made["bands"][""]["tiles"]
    done = [t for t in tiles if t["status"] == "made"]
    tiles_made = f"{len(done)} tile{'s' * (len(done) != 1)}"
    click.echo(f"{tiles_made}, {run.n_computed} computed now, {len(tiles) - len(done)} empty.")
    for failure in run.failures.values():
        click.echo(f"Error: {failure.stage} {failure.key}: {failure.reason}", err=True)
    matched = matching_of(made["bands"][""])
    if matched and matched["n_visits"]:
        click.echo(
            f"Backgrounds of {matched['n_visits']} visits matched: differences of "
            f"{matched['rms_before']:.2f} of their error before, {matched['rms_after']:.2f} after."
        )
    if matched and matched["unmatched"]:
        click.echo(
            f"Not matched, for they share too little sky with others: "
            f"{', '.join(matched['unmatched'])}."
        )
    click.echo(f"Tiles: {output}")
    if run.failures:
        click.echo("Finished tiles are kept; run again to resume.", err=True)
        click.get_current_context().exit(EXIT_PARTIAL)
