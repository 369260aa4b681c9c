"""Inspection of images: exposures, masks, weight maps, and images of unknown meaning."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import PogsonError, PogsonValueError, UnitMismatchError
from pogson.fields import Box
from pogson.formats.exposures import locate_files, read_geometry, sniff_open
from pogson.formats.fits_access import header_value, is_image, merged_header, pixels
from pogson.formats.header_meaning import decide_measure, decide_unit, read_metadata
from pogson.formats.inspection import Inspection
from pogson.formats.instruments import InstrumentPreset, load_instrument
from pogson.formats.mask_translation import plane_bits
from pogson.units import Measure

__all__ = ["describe_sky", "inspect_image", "inspect_native"]

Facts = list[tuple[str, str]]

_MEASURE_WORDS = {
    Measure.FLUENCE: "fluence: each pixel holds its own light, sums of pixels are fluxes",
    Measure.SURFACE_BRIGHTNESS: (
        "surface brightness: light per unit sky area; multiply by the pixel-area ratio before "
        "summing pixels"
    ),
}


def inspect_native(path: Path, hdus: Any) -> Inspection | None:
    """Inspect an exposure written by pogson."""
    if "POGSON" not in hdus or "SCI" not in hdus:
        return None
    from pogson.formats.native import read_native

    exposure = read_native(path)
    facts: Facts = [
        ("unit", f"{exposure.unit} (stated)"),
        ("measure", f"{_MEASURE_WORDS[exposure.measure]} (stated)"),
    ]
    data: dict[str, Any] = {
        "unit": str(exposure.unit), "measure": exposure.measure.value, "instrument": "native",
        "bandpass": exposure.bandpass, "exposure": exposure.exposure_id,
        "detector": exposure.detector, "shape": list(exposure.box.shape),
        "background_subtracted": exposure.background_subtracted,
    }  # fmt: skip
    calib = exposure.photo_calib
    if calib is None:
        facts.append(("zero point", "none" if data["unit"] != "nJy" else "AB, 1 nJy is 31.4 mag"))
        facts.append(("flux reference", "none stated"))
    else:
        mean = calib.mean(None if calib.is_constant else exposure.box)
        zero = 31.4 - 2.5 * math.log10(mean)
        kind = "constant" if calib.is_constant else "mean of a varying field"
        facts.append(("zero point", f"{zero:.4f} AB mag of 1 {calib.instrument_unit} ({kind})"))
        facts.append(("flux reference", f"{calib.reference.label} (stated)"))
        data.update(zero_point=zero, reference=calib.reference.to_dict())
    facts.append(("bandpass", exposure.bandpass or "unknown"))
    flat = exposure.flattening_sed
    facts.append(("flat for", f"{flat} (stated)" if flat else "an unknown spectrum"))
    data["flattening_sed"] = flat
    facts += describe_sky(exposure.sky, exposure.box, data)
    if exposure.mask is not None:
        facts.append(("mask", _mask_counts_words(exposure.mask, dict(exposure.mask_bits), data)))
    facts.append(("noise", _native_noise(exposure, data)))
    if exposure.background is None:
        state = "none attached"
    else:
        state = "attached, " + ("" if exposure.background_subtracted else "not ") + "subtracted"
    facts.append(("background", state))
    psf = exposure.psf
    facts.append(("PSF", "none" if psf is None else f"{type(psf).__name__} ({psf.identifier})"))
    data["psf"] = None if psf is None else type(psf).__name__
    inputs = exposure.metadata.get("n_inputs")
    title = f"A pogson coadd of {inputs} images"
    if not (data["resampled"] and inputs):
        kind = "warp" if data["resampled"] else "exposure"
        title = f"A pogson {kind}: {exposure.exposure_id or 'unnamed'} {exposure.detector}".rstrip()
    return Inspection(str(path), "image", f"{title}, {_size(exposure.box.shape)}.",
                      tuple(facts), data)  # fmt: skip


def _native_noise(exposure: Any, data: dict[str, Any]) -> str:
    """Say what the errors of pixels are, and whether pixels share them."""
    from pogson.formats.coadd_files import is_resampled

    data["resampled"] = is_resampled(exposure.metadata)
    data["variance"] = exposure.variance is not None
    words = "variance of each pixel (stated)" if data["variance"] else "no variance"
    if data["resampled"]:
        words += (
            "; resampled: neighbouring pixels share noise, so sums need the correlation that "
            "pogson.formats.read_coadd reads from this file"
        )
    return words


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def describe_sky(sky: Any, box: Box, data: dict[str, Any]) -> Facts:
    """Return words about a sky map over a box, and put numbers into ``data``."""
    if sky is None:
        data["wcs"] = None
        return [("WCS", "none: positions on the sky and pixel areas are unknown")]
    x, y = box.center
    ra, dec = sky.sky(x=x, y=y)
    scale = float(sky.pixel_scale(x=x, y=y))
    gx, gy = np.meshgrid(np.linspace(*box.x_bounds, 17), np.linspace(*box.y_bounds, 17))
    area = np.asarray(sky.pixel_area(x=gx, y=gy))
    spread = float(100.0 * (np.nanmax(area) - np.nanmin(area)) / np.nanmean(area))
    kind = _projection(sky)
    data.update(
        wcs=kind, ra=float(ra), dec=float(dec), pixel_scale=scale,
        pixel_area=[float(np.nanmin(area)), float(np.nanmax(area))], area_variation_percent=spread,
    )  # fmt: skip
    return [
        ("WCS", f"{kind}; centre at ra {ra:.5f}, dec {dec:+.5f} degrees"),
        (
            "pixels",
            f"{scale:.5f} arcsec at the centre; pixel area {np.nanmin(area):.6f} to "
            f"{np.nanmax(area):.6f} arcsec2, varying by {spread:.3g} % over the image",
        ),
    ]


def _projection(sky: Any) -> str:
    try:
        ctype = str(sky.to_header()["CTYPE1"])
        return "FITS " + ctype.split("-", 1)[1].strip("-").replace("--", "-")
    except (PogsonError, KeyError, IndexError, NotImplementedError):
        return type(sky).__name__.removesuffix("SkyMap").upper()


def _mask_counts_words(mask: np.ndarray, bits: dict[str, int], data: dict[str, Any]) -> str:
    counts = {n: int(((mask >> np.uint32(b)) & np.uint32(1)).sum()) for n, b in bits.items()}
    counts = {n: c for n, c in counts.items() if c}
    data["mask"] = counts
    if not counts:
        return "no pixel is marked"
    return ", ".join(f"{name} {count}" for name, count in counts.items()) + " pixels"


def _role(path: Path, preset: InstrumentPreset) -> str:
    rule = preset.siblings
    match = re.search(rule.pattern, path.name) if rule else None
    if rule is None or match is None:
        return "image"
    return {rule.mask: "mask", rule.weight: "weight"}.get(match.group(1), "image")


def inspect_image(path: Path, hdus: Any) -> Inspection | None:
    """Inspect the images of a FITS file that is not pogson's own."""
    images = [i for i, hdu in enumerate(hdus) if is_image(hdu)]
    if not images:
        return None
    preset = load_instrument(sniff_open(hdus, path))
    role = _role(path, preset)
    planes = _planes(hdus, images, preset)
    science = planes["image"]
    header = merged_header(hdus, hdus[science])
    data: dict[str, Any] = {
        "instrument": preset.name, "shape": list(hdus[science].shape),
        "extensions": [hdus[i].name or str(hdus[i].header.get("EXTTYPE", i)) for i in images],
    }  # fmt: skip
    if role == "mask":
        return _inspect_mask(path, hdus[science], header, preset, data)
    if role == "weight":
        return _inspect_weight(path, hdus[science], header, preset, data)
    return _inspect_science(path, hdus, planes, header, preset, data)


def _planes(hdus: Any, images: list[int], preset: InstrumentPreset) -> dict[str, int]:
    """Return which extension is image, mask and weight, by name where names tell."""
    named = {
        "image": {"SCI", "IMAGE", "SCIENCE", (preset.image_extension or "SCI").upper()},
        "mask": {"MASK", "MSK", "DQ", (preset.mask_extension or "MASK").upper()},
        "weight": {
            "WGT", "WHT", "WEIGHT", "VARIANCE", "VAR", "IVAR", "ERR",
            (preset.weight_extension or "WGT").upper(),
        },
    }  # fmt: skip
    found: dict[str, int] = {}
    for i in images:
        names = {hdus[i].name.upper(), str(hdus[i].header.get("EXTTYPE", "")).strip().upper()}
        for plane, words in named.items():
            if names & words and plane not in found:
                found[plane] = i
    found.setdefault("image", next((i for i in images if i not in found.values()), images[0]))
    return found


def _exposure_title(meta: dict[str, Any], preset: InstrumentPreset) -> str:
    words = []
    if meta.get("exposure") is not None:
        words.append(f"exposure {meta['exposure']}")
    if meta.get("detector"):
        words.append(f"detector {meta['detector']}")
    if not words:
        return ""
    return " of " + ", ".join(words)


_NAMES = {
    "decam-cp": "A DECam Community Pipeline image (ooi)",
    "hsc": "An LSST-stack exposure (image, mask, variance)",
    "pogson-sim": "A simulated image (pogson.simulate)",
    "generic": "An image",
}


def _inspect_science(
    path: Path,
    hdus: Any,
    planes: dict[str, int],
    header: Any,
    preset: InstrumentPreset,
    data: dict[str, Any],
) -> Inspection:
    facts: Facts = []
    unit, unit_why = _unit(header, preset, path)
    measure, measure_why = decide_measure(header, preset, None)
    meta, gain_problem = _metadata(header, preset, path, unit)
    facts.append(_unit_fact(unit, unit_why, preset, meta))
    words = "unknown" if measure is None else _MEASURE_WORDS[measure]
    facts.append(("measure", f"{words} ({measure_why})"))
    facts.append(("zero point", _zero_point(header, preset, meta, data)))
    facts.append(("flux reference", "unknown: the header names no aperture, operator or PSF"))
    facts.append(("gain", gain_problem or _gain(meta, preset)))
    filter_name = meta.get("filter")
    band = meta.get("band")
    known = preset.bandpasses.get(str(band))
    facts.append(("bandpass", _bandpass(known or band, filter_name)))
    image = pixels(hdus[planes["image"]], path, "image")
    box, sky, wcs_problem = _sky_of(header, preset, image.shape)
    facts += [("WCS", wcs_problem)] if wcs_problem else describe_sky(sky, box, data)
    facts += _mask_facts(path, hdus, planes, preset, data)
    facts += _weight_facts(path, hdus, planes, image, preset, data)
    facts.append(("background", _background(image, preset, data)))
    facts.append(("PSF", _psf(path, preset, meta, header)))
    data.update(
        unit=None if unit is None else str(unit), unit_because=unit_why,
        unit_stated=unit is not None and not unit_why.startswith("assumed"),
        measure=None if measure is None else measure.value, measure_because=measure_why,
        measure_stated=measure is not None and not measure_why.startswith("assumed"),
        reference=None, bandpass=known or band, exposure_time=meta.get("exposure_time"),
        gain=meta.get("gain"), exposure=meta.get("exposure"), detector=meta.get("detector"),
    )  # fmt: skip
    title = f"{_NAMES.get(preset.name, 'An image')}{_exposure_title(meta, preset)}"
    return Inspection(str(path), "image", f"{title}, {_size(image.shape)}.", tuple(facts), data)


def _unit(header: Any, preset: InstrumentPreset, path: Path) -> tuple[Any, str]:
    """Return the unit and why; a card that cannot be used makes it unknown, not an error."""
    try:
        return decide_unit(header, preset, None, path)
    except UnitMismatchError as error:
        return None, str(error).removeprefix(f"{path}: ").rstrip(".")


def _metadata(
    header: Any, preset: InstrumentPreset, path: Path, unit: Any
) -> tuple[dict[str, Any], str]:
    """Return what the header says of the exposure, and what is wrong with its gain."""
    try:
        return read_metadata(header, preset, path, unit), ""
    except PogsonValueError as error:
        bare = header.copy()
        for keyword in preset.keywords.get("gain", []):
            bare.remove(keyword, ignore_missing=True, remove_all=True)
        reason = str(error).removeprefix(f"{path}: ").split(";")[0]
        return read_metadata(bare, preset, path, unit), f"unknown ({reason})"


def _unit_fact(
    unit: Any, why: str, preset: InstrumentPreset, meta: dict[str, Any]
) -> tuple[str, str]:
    if unit is None:
        return ("unit", f"unknown ({why})")
    seconds = meta.get("exposure_time")
    rate = "s" in [str(b) for b in unit.bases]
    per = ", a rate per second" if rate else ", of the whole exposure"
    if not rate and seconds is not None:
        per += f" of {seconds:g} s"
    if unit.is_equivalent("nJy"):
        per = ", calibrated flux density"
    return ("unit", f"{unit}{per} ({why})")


def _zero_point(
    header: Any, preset: InstrumentPreset, meta: dict[str, Any], data: dict[str, Any]
) -> str:
    data["zero_point"] = None
    value = meta.get("zero_point_magnitude")
    flux0 = meta.get("flux_of_magnitude_0")
    if isinstance(value, (int, float)) and preset.name == "decam-cp":
        data.update(zero_point=float(value), zero_point_includes={"EXPTIME": True, "GAIN": False})
        rate = meta.get("zero_point_magnitude_per_second")
        check = ""
        if isinstance(rate, (int, float)) and meta.get("exposure_time"):
            step = 2.5 * math.log10(meta["exposure_time"])
            agree = "agrees" if abs(value - rate - step) < 0.002 else "does NOT agree"
            check = (
                f" MAGZPT = {rate:g} per second {agree}: MAGZERO - MAGZPT = {value - rate:.3f}, "
                f"2.5 log10(EXPTIME) = {step:.3f}."
            )
        return f"MAGZERO = {value:g} mag. {preset.zero_point}{check}"
    if isinstance(value, (int, float)):
        keyword = next(k for k in preset.keywords["zero_point_magnitude"] if k in header)
        data["zero_point"] = float(value)
        time = header_value(header, ["MAGZTIME"])
        said = (
            f"per {time} (card MAGZTIME)"
            if time
            else "whether EXPTIME and GAIN are in it is unknown"
        )
        return f"{keyword} = {value:g} mag; {said}"
    if isinstance(flux0, (int, float)):
        if flux0 > 0:
            data["zero_point"] = 2.5 * math.log10(flux0)
            return (
                f"FLUXMAG0 = {flux0:g}, that is {data['zero_point']:.4f} mag; {preset.zero_point}"
            )
        return "none: FLUXMAG0 = 0 means that the file is not calibrated"
    return "none in the header"


def _gain(meta: dict[str, Any], preset: InstrumentPreset) -> str:
    gain = meta.get("gain")
    if gain is None:
        return "unknown"
    keywords = " and ".join(preset.keywords.get("gain", []))
    return f"{gain:.5g} electron per unit ({keywords}{', averaged' if preset.average_gain else ''})"


def _bandpass(band: Any, filter_name: Any) -> str:
    if band is None:
        return "unknown" if filter_name is None else f"filter {filter_name!r}"
    return f"{band} (filter {filter_name!r})"


def _sky_of(
    header: Any, preset: InstrumentPreset, shape: tuple[int, ...]
) -> tuple[Box, Any, str | None]:
    try:
        box, sky = read_geometry(header, preset, shape, Path("this file"))
        return box, sky, None
    except PogsonError as error:
        return Box.from_shape(shape), None, f"unusable: {error}"


def _mask_facts(
    path: Path, hdus: Any, planes: dict[str, int], preset: InstrumentPreset, data: dict[str, Any]
) -> Facts:
    sibling = locate_files(path, preset).mask
    if sibling is not None:
        return [("mask", f"in {sibling.name}")]
    if "mask" not in planes:
        return [("mask", "none")]
    hdu = hdus[planes["mask"]]
    values = pixels(hdu, path, "mask")
    named = plane_bits(hdu.header)
    if named:
        words = _mask_counts_words(values.astype(np.uint32), named, data)
        return [("mask", f"planes named in the header (MP_ cards): {words}")]
    found, counts = np.unique(values, return_counts=True)
    data["mask"] = {str(v): int(c) for v, c in zip(found, counts, strict=True) if v}
    listed = ", ".join(f"{v} ({c} pixels)" for v, c in zip(found[:12], counts, strict=False))
    return [("mask", f"values {listed}; what they mean is not in the file, so unknown")]


def _noise(image: np.ndarray) -> tuple[float, float]:
    good = image[np.isfinite(image)].astype(np.float64)
    if good.size == 0:
        return math.nan, math.nan
    median = float(np.median(good))
    return median, float(1.4826 * np.median(np.abs(good - median)))


def _weight_facts(
    path: Path,
    hdus: Any,
    planes: dict[str, int],
    image: np.ndarray,
    preset: InstrumentPreset,
    data: dict[str, Any],
) -> Facts:
    sibling = locate_files(path, preset).weight
    if sibling is not None:
        return [("weight", f"{preset.weight_kind.replace('_', ' ')}, in {sibling.name}")]
    if "weight" not in planes:
        return [("weight", "none: the noise is not in the file")]
    hdu = hdus[planes["weight"]]
    weight = pixels(hdu, path, "weight").astype(np.float64)
    name = hdu.name or str(hdu.header.get("EXTTYPE", ""))
    good = weight[np.isfinite(weight) & (weight > 0)]
    _, noise = _noise(image)
    if good.size == 0:
        return [("weight", f"{name}: no positive value, so nothing is usable")]
    typical = float(np.median(good))
    predictions = {
        "variance": math.sqrt(typical),
        "inverse variance": 1.0 / math.sqrt(typical),
        "standard deviation": typical,
    }
    stated = name.upper() in ("VARIANCE", "VAR")
    kind = min(predictions, key=lambda k: abs(math.log(predictions[k] / max(noise, 1e-300))))
    if stated:
        kind = "variance"
    ratio = noise / predictions[kind]
    data["weight"] = {"kind": kind, "stated": stated, "noise_over_predicted": ratio}
    if not stated and not 0.5 < ratio < 2.0:
        return [("weight", f"{name}: unknown kind; it predicts none of the noise seen")]
    origin = "stated by the name" if stated else "concluded: it predicts the noise that is seen"
    return [("weight", f"{name}: {kind} ({origin}; measured over predicted noise {ratio:.2f})")]


def _background(image: np.ndarray, preset: InstrumentPreset, data: dict[str, Any]) -> str:
    median, noise = _noise(image)
    data.update(median=median, noise=noise)
    if not (math.isfinite(median) and noise > 0):
        return "unknown: the image has no usable noise"
    sigma_mean = noise / math.sqrt(max(np.isfinite(image).sum(), 1))
    if abs(median) > max(3.0 * noise, 10 * sigma_mean):
        state = "the sky is in the image"
    elif abs(median) < noise:
        state = "the sky has been subtracted, or is below the noise"
    else:
        state = "unclear whether the sky has been subtracted"
    data["background"] = state
    said = f"; {preset.background}" if preset.background and preset.name != "hsc" else ""
    return f"{state}: median {median:.6g}, noise {noise:.4g} per pixel{said}"


def _psf(path: Path, preset: InstrumentPreset, meta: dict[str, Any], header: Any) -> str:
    seeing = meta.get("seeing_pixels")
    width = f"; the header gives FWHM {seeing:.2f} pixels" if isinstance(seeing, float) else ""
    if preset.name == "decam-cp":
        from pogson.formats.psf_files import find_psf_file

        try:
            where = find_psf_file(path, str(meta.get("detector") or ""))
            return f"not in this file; PSFEx model in {where.name}{width}"
        except PogsonError:
            pass
    return f"not in this file{width}"


def _inspect_mask(
    path: Path, hdu: Any, header: Any, preset: InstrumentPreset, data: dict[str, Any]
) -> Inspection:
    meta, _ = _metadata(header, preset, path, None)
    rule = preset.mask_rule(meta.get("pipeline_version"))
    values = pixels(hdu, path, "mask")
    found, counts = np.unique(values, return_counts=True)
    listed = []
    for value, count in zip(found.tolist(), counts.tolist(), strict=True):
        if value == 0:
            listed.append(f"0 good ({count} pixels)")
        elif rule is not None and rule.kind == "codes":
            listed.append(f"{value} {rule.values.get(str(value), 'not documented')} ({count})")
        else:
            listed.append(f"{value} ({count})")
    data.update(
        mask={str(v): int(c) for v, c in zip(found, counts, strict=True)},
        exposure=meta.get("exposure"), detector=meta.get("detector"), measure=None, unit=None,
        mask_kind=None if rule is None else rule.kind,
    )  # fmt: skip
    how = "" if rule is None else f"{rule.source} (pipeline {meta.get('pipeline_version')})"
    coded = rule is not None and rule.kind == "codes"
    facts = (
        ("values", "not a flux: " + ("one integer code a pixel" if coded else "bits added up")),
        ("meaning", how or "unknown"),
        ("found", ", ".join(listed)),
        ("belongs to", _belongs(path, preset)),
    )
    title = f"A data-quality mask{_exposure_title(meta, preset)}, {_size(values.shape)}."
    return Inspection(str(path), "mask", title, facts, data)


def _belongs(path: Path, preset: InstrumentPreset) -> str:
    try:
        return locate_files(path, preset).image.name
    except PogsonError:
        return "an image that is not beside it"


def _inspect_weight(
    path: Path, hdu: Any, header: Any, preset: InstrumentPreset, data: dict[str, Any]
) -> Inspection:
    unit, _ = _unit(header, preset, path)
    meta, _ = _metadata(header, preset, path, unit)
    weight = pixels(hdu, path, "weight map").astype(np.float64)
    good = weight[np.isfinite(weight) & (weight > 0)]
    zero, negative = int((weight == 0).sum()), int((weight < 0).sum())
    power = {"inverse_variance": -2, "variance": 2, "standard_deviation": 1}[preset.weight_kind]
    weight_unit = "unknown" if unit is None else str(unit**power)
    data.update(
        weight={"kind": preset.weight_kind.replace("_", " "), "zero": zero, "negative": negative},
        unit=weight_unit, measure=None, exposure=meta.get("exposure"),
        detector=meta.get("detector"),
    )  # fmt: skip
    facts: Facts = [
        ("values", f"{preset.weight_kind.replace('_', ' ')} of the image's pixels"),
        ("unit", weight_unit),
        ("no information", f"{zero} pixels have weight 0; {negative} are negative"),
    ]
    if good.size and preset.weight_kind == "inverse_variance":
        sigma = 1.0 / math.sqrt(float(np.median(good)))
        sky = meta.get("sky_noise")
        said = f"; the header says {sky:.4g} (AVSIG)" if isinstance(sky, (int, float)) else ""
        facts.append(("typical noise", f"{sigma:.4g} {unit or ''} per pixel{said}"))
        data["typical_noise"] = sigma
    facts.append(("belongs to", _belongs(path, preset)))
    title = f"A weight map{_exposure_title(meta, preset)}, {_size(weight.shape)}."
    return Inspection(str(path), "weight", title, tuple(facts), data)
