"""Injection: synthetic sources into an exposure, with a truth table."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.fields import Box
from pogson.inject.catalogue import InjectionCatalog
from pogson.inject.flags import InjectionFlag, count_injection_flags
from pogson.inject.noise import GainMap, poisson_light
from pogson.inject.plan import InjectionPlan, make_plan
from pogson.inject.truth import truth_table
from pogson.units import Measure

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import FluxReference
    from pogson.images import Exposure
    from pogson.inject.wings import WingModel
    from pogson.psf import PSF

__all__ = ["Injection", "inject", "is_injected"]

_CHUNK_PIXELS = 2_000_000  # pixels of stamps held at a time
_CORE = 1  # half-size of the box marked INJECTED_CORE


@dataclass(frozen=True, eq=False, repr=False)
class Injection:
    """An exposure with synthetic sources, and the truth about them.

    Parameters
    ----------
    exposure : Exposure
        A new exposure; the one given to `inject` is as it was.
    truth : astropy.table.Table
        One row for each row of the catalogue; see `pogson.inject.truth.TRUTH_COLUMNS`.
    report : tuple of str
        What was done, in words.
    """

    exposure: Exposure
    truth: Table
    report: tuple[str, ...]

    @property
    def drawn(self) -> np.ndarray:
        """Which rows of the truth table were drawn, wholly or in part."""
        from pogson.inject.flags import NOT_DRAWN

        return np.asarray((np.asarray(self.truth["flags"]) & int(NOT_DRAWN)) == 0)

    def __repr__(self) -> str:
        return "<Injection: " + " ".join(self.report) + ">"


def is_injected(exposure: Exposure) -> bool:
    """Return whether an exposure says that it holds synthetic sources.

    By ``metadata["INJECTED"]`` or by a pixel with the mask bit INJECTED.

    Examples
    --------
    >>> from pogson.images import Exposure
    >>> is_injected(Exposure(np.ones((2, 2)), unit="adu", measure="fluence"))
    False
    """
    card = exposure.metadata.get("INJECTED")
    if card not in (None, False, 0, "", "F", "False"):
        return True
    if exposure.mask is None or "INJECTED" not in exposure.mask_bits:
        return False
    return bool((exposure.mask & np.uint32(exposure.mask_bits.value("INJECTED"))).any())


def inject(
    exposure: Exposure,
    catalog: Any,
    *,
    reference: FluxReference | None = None,
    injection_psf: PSF | None = None,
    wing: WingModel | None = None,
    accuracy: float = 1e-4,
    largest_radius: Any = None,
    poisson: bool = False,
    gain: Any = None,
    seed: int = 0,
    image_id: str | None = None,
    again: bool = False,
    threads: int | None = None,
) -> Injection:
    r"""Put synthetic sources into an exposure, so that flux in is flux out under its reference.

    Parameters
    ----------
    exposure : Exposure
        Calibrated (``photo_calib``, or in nJy), with a PSF, in either measure. It is not changed.
    catalog : InjectionCatalog or astropy.table.Table
        What to inject; a table is read by `InjectionCatalog.from_table`.
    reference : FluxReference, optional
        For a table whose flux columns do not say their reference.
    injection_psf : PSF, optional
        Draw with this PSF instead of the exposure's. Fluxes are normalised with the PSF that is
        drawn; the exposure keeps its own for measuring. Both are recorded.
    wing : WingModel, optional
        Extended wings to join to the PSF that is drawn.
    accuracy : float, optional
        Largest fraction of a source's flux that its stamp may miss within ``largest_radius``.
    largest_radius : float, FluxReference, or sequence of these, optional
        The largest aperture that will be measured (pixels, or references); the catalogue's own
        reference is always reached.
    poisson : bool, optional
        Add the photon noise of the sources to the image, and its variance to the variance plane.
    gain : float, Field or "estimate", optional
        Electrons per unit of the fluence image, for ``poisson``; by default from the metadata, see
        `pogson.inject.noise.GainMap`.
    seed : int, optional
        Seed of the noise.
    image_id : str, optional
        Name of the image in the keys of the noise; by default its exposure id and detector. A
        cut-out keeps the name, so that it gets the same noise.
    again : bool, optional
        Allow an exposure that holds injected sources already.
    threads : int, optional
        Threads to draw with; all by default. The result does not depend on it.

    Returns
    -------
    Injection
        The new exposure, the truth table and a report.

    Raises
    ------
    PogsonValueError
        If the exposure is injected already and ``again`` is False, or an option is out of range.
    MissingDataError
        If a calibration, a PSF, or for ``poisson`` the gain is missing.
    ReferenceMismatchError
        If fluxes have no reference, or two.

    Notes
    -----
    A source of flux F is given :math:`F / (c(x, y) E_r(x, y))` units of light, with the
    calibration c and the enclosed energy E of the flux's reference r **at the source**; on a
    surface-brightness image the light of each pixel is divided by the pixel's area ratio. Photon
    noise is Poisson(flux gain) / gain, with variance flux / gain. Sources are added in the order
    of their ids, and each has its own random stream (seed, image id, source id): rows may be
    permuted, the image cut into tiles, and the number of threads changed without changing one
    bit of any pixel.

    The new exposure has the mask bits INJECTED (stamps) and INJECTED_CORE (3 x 3 central pixels),
    ``metadata["INJECTED"]``, and a record of the injection in ``metadata["injections"]`` and
    ``metadata["history"]``.

    Examples
    --------
    >>> from pogson.calib import FluxReference, PhotoCalib
    >>> from pogson.images import Exposure, measure_sources
    >>> from pogson.psf import MoffatPSF
    >>> r12 = FluxReference.aperture(12)
    >>> exposure = Exposure(np.zeros((81, 81)), unit="adu", measure="fluence",
    ...                     psf=MoffatPSF(fwhm=4.0, beta=3.0),
    ...                     photo_calib=PhotoCalib.constant(2.0, reference=r12))
    >>> star = {"id": ["s"], "x": [40.2], "y": [39.7], "flux": [1000.0]}
    >>> result = inject(exposure, star, reference=r12)
    >>> measured = measure_sources(result.exposure, x=[40.2], y=[39.7], references=r12)
    >>> print(f"{measured['flux_aperture_12px_exact'][0] * 2.0:.2f} nJy")
    1000.00 nJy
    """
    if not isinstance(catalog, InjectionCatalog):
        catalog = InjectionCatalog.from_table(catalog, reference=reference)
    elif reference is not None and any(r != reference for r in catalog.references.values()):
        raise PogsonValueError("The catalogue has its references already; leave out reference=.")
    _check(exposure, again, threads)
    drawn_psf = exposure.psf if injection_psf is None else injection_psf
    if wing is not None:
        if drawn_psf is None:
            raise PogsonTypeError("A wing needs a PSF to be joined to.")
        drawn_psf = wing.join(drawn_psf)
    gain_map = GainMap.from_exposure(exposure, gain) if poisson else None
    plan = make_plan(
        exposure,
        catalog,
        psf=drawn_psf,
        accuracy=float(accuracy),
        largest_radius=largest_radius,
        threads=threads,
    )
    name = image_id if image_id is not None else default_image_id(exposure)
    canvas = _Canvas(plan, name, int(seed), gain_map, threads)
    canvas.paint()
    return canvas.finish(catalog.name)


def default_image_id(exposure: Exposure) -> str:
    """Return the name of an exposure in the keys of random streams.

    Examples
    --------
    >>> from pogson.images import Exposure
    >>> default_image_id(Exposure(np.ones((2, 2)), unit="adu", measure="fluence",
    ...                           exposure_id="630780", detector="N2"))
    '630780:N2'
    """
    return ":".join(w for w in (exposure.exposure_id, exposure.detector) if w)


def _check(exposure: Exposure, again: bool, threads: int | None) -> None:
    if is_injected(exposure) and not again:
        raise PogsonValueError(
            f"{exposure._name().capitalize()} holds injected sources already (metadata "
            "'INJECTED' or the mask bit INJECTED), and more on top would not be told apart. "
            "Inject into the original, or pass again=True (--again)."
        )
    if threads is not None and (int(threads) != threads or threads < 1):
        raise PogsonValueError(f"threads={threads!r} must be a whole number of at least 1.")
    if exposure.measure is Measure.SURFACE_BRIGHTNESS:
        exposure.area_ratio_image()  # raises where light cannot be turned into surface brightness


class _Canvas:
    """The pixels of one injection while they are written."""

    def __init__(
        self,
        plan: InjectionPlan,
        image_id: str,
        seed: int,
        gain: GainMap | None,
        threads: int | None,
    ) -> None:
        exposure = plan.exposure
        self.plan, self.image_id, self.seed, self.gain = plan, image_id, seed, gain
        self.threads = threads
        self.exposure, self.box = exposure, exposure.box
        self.image = exposure.image.copy()
        self.ratio: np.ndarray | None = None
        if exposure.measure is Measure.SURFACE_BRIGHTNESS:
            self.ratio = exposure.area_ratio_image()
        includes = bool(exposure.metadata.get("variance_includes_sources", True))
        self.variance: np.ndarray | None = None
        if gain is not None and exposure.variance is not None and includes:
            self.variance = exposure.variance.copy()
        missing = ~np.isfinite(exposure.image)
        self.usable: np.ndarray | None = ~missing if missing.any() else None
        n = len(plan.catalog)
        self.deposited = np.zeros(n)
        self.counted = np.zeros(n)  # what the reference counts of the light deposited, over total
        self.noise_counted = np.zeros(n)  # the same of the noise, in units of the image
        self.lost = np.zeros(n)  # light of the stamp off the image or on pixels without data

    # -- painting ---------------------------------------------------------------------------
    def paint(self) -> None:
        """Draw points, then extended sources, then noise, each in the order of ids."""
        plan = self.plan
        rows = plan.in_order(plan.drawable)
        points = rows[plan.points[rows]]
        if points.size:
            self._paint_points(points)
        for row in rows[~plan.points[rows]].tolist():
            image, box = plan.stamps[row]
            self._add(image * plan.total[row], box)
            self._account(row, image, box)
        if self.gain is not None:
            self._paint_noise(rows)
        clipped = rows[self.lost[rows] > plan.accuracy]
        plan.flags[clipped] |= int(InjectionFlag.CLIPPED)

    def _paint_points(self, rows: np.ndarray) -> None:
        from pogson.inject.render import add_point_sources

        plan = self.plan
        assert plan.psf is not None
        target = self.image
        if self.ratio is not None:
            target = np.zeros(self.box.shape)
        deposited = add_point_sources(
            target,
            plan.psf,
            x=plan.x[rows],
            y=plan.y[rows],
            flux=plan.total[rows],
            half_size=plan.half_size[rows],
            box=self.box,
            threads=self.threads,
        )
        if self.ratio is not None:
            np.divide(target, self.ratio, out=target)
            np.add(self.image, target, out=self.image, casting="same_kind")
        total = plan.total[rows]
        self.deposited[rows] = np.where(total != 0, deposited / np.where(total != 0, total, 1), 1.0)
        is_aperture = plan.reference.kind == "aperture"
        self.counted[rows] = plan.enclosed[rows] if is_aperture else self.deposited[rows]
        # Where the image or its data end within a stamp, the light is counted on the stamp itself.
        partial = np.array([r for r in rows.tolist() if self._is_partial(r)], int)
        for row, image, box in self._drawn(partial):
            self._account(row, image, box)

    def _is_partial(self, row: int) -> bool:
        box = self.plan.stamp_box(row)
        if not self.box.contains_box(box):
            return True
        return self.usable is not None and not self.usable[box.slices(self.box)].all()

    def _drawn(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, Box]]:
        """Yield unit-flux stamps of rows, in their order, drawn some at a time."""
        plan = self.plan
        chunk: list[int] = []
        pixels = 0
        for row in [*rows.tolist(), None]:
            if row is not None:
                chunk.append(row)
                pixels += (2 * int(plan.half_size[row]) + 1) ** 2
            if chunk and (row is None or pixels > _CHUNK_PIXELS):
                yield from self._drawn_chunk(chunk)
                chunk, pixels = [], 0

    def _drawn_chunk(self, chunk: list[int]) -> Iterator[tuple[int, np.ndarray, Box]]:
        plan = self.plan
        stamps: dict[int, tuple[np.ndarray, Box]] = {}
        points = np.array([r for r in chunk if r not in plan.stamps], int)
        for half in np.unique(plan.half_size[points]).tolist():
            some = points[plan.half_size[points] == half]
            assert plan.psf is not None
            images, _, _ = plan.psf.draw_many(x=plan.x[some], y=plan.y[some], half_size=half)
            for row, image in zip(some.tolist(), images, strict=True):
                stamps[row] = (image, plan.stamp_box(row))
        for row in chunk:
            image, box = plan.stamps[row] if row in plan.stamps else stamps[row]
            yield row, image, box

    def _account(self, row: int, image: np.ndarray, box: Box) -> None:
        """Count what of a unit-flux stamp lies on usable pixels."""
        left = self._on_image(image, box)
        self.deposited[row] = left.sum()
        self.lost[row] = 0.0 if left is image else image.sum() - self.deposited[row]
        self.counted[row] = self._count(row, left, box)

    def _on_image(self, values: np.ndarray, box: Box) -> np.ndarray:
        """Return stamp values, 0 where they lie off the image or on pixels without data."""
        inner = self._overlap(box)
        if inner is None:
            return np.zeros_like(values)
        if inner == box and self.usable is None:
            return values
        out = np.zeros_like(values)
        part = inner.slices(box)
        out[part] = values[part]
        if self.usable is not None:
            out[part] *= self.usable[inner.slices(self.box)]
        return out

    def _overlap(self, box: Box) -> Box | None:
        x0, x1 = max(box.x_min, self.box.x_min), min(box.x_max, self.box.x_max)
        y0, y1 = max(box.y_min, self.box.y_min), min(box.y_max, self.box.y_max)
        if x1 < x0 or y1 < y0:
            return None
        return Box(x0, y0, x1 - x0 + 1, y1 - y0 + 1)

    def _count(self, row: int, values: np.ndarray, box: Box) -> float:
        """Return what the flux reference counts of stamp values."""
        plan = self.plan
        if plan.reference.kind != "aperture":
            return float(values.sum())
        assert plan.reference.operator is not None
        sums = plan.reference.operator.sum(
            values, x=plan.x[row], y=plan.y[row], a=plan.a[row], b=plan.b[row],
            theta=plan.theta[row], x_min=box.x_min, y_min=box.y_min,
        )  # fmt: skip
        return float(sums.flux)

    def _add(self, values: np.ndarray, box: Box) -> None:
        """Add stamp values (fluence) to the image."""
        inner = self._overlap(box)
        if inner is None:
            return
        here, there = inner.slices(self.box), inner.slices(box)
        light = values[there] if self.ratio is None else values[there] / self.ratio[here]
        self.image[here] += light

    def _paint_noise(self, rows: np.ndarray) -> None:
        gain, plan = self.gain, self.plan
        assert gain is not None
        ids = plan.catalog.ids

        def noise(item: tuple[int, np.ndarray, Box]) -> tuple[int, np.ndarray, np.ndarray, Box]:
            row, image, box = item
            light = image * plan.total[row]
            electrons = gain.at(box)
            drawn = poisson_light(light, electrons, self.seed, self.image_id, str(ids[row]))
            return row, drawn, np.maximum(light, 0.0) / electrons, box

        with ThreadPoolExecutor(self.threads) as pool:
            for batch in _batches(self._drawn(rows), 64):
                for row, drawn, variance, box in pool.map(noise, batch):
                    self._add(drawn, box)
                    self._add_variance(variance, box)
                    self.noise_counted[row] = self._count(row, self._on_image(drawn, box), box)

    def _add_variance(self, values: np.ndarray, box: Box) -> None:
        inner = self._overlap(box)
        if self.variance is None or inner is None:
            return
        here, there = inner.slices(self.box), inner.slices(box)
        new = values[there] if self.ratio is None else values[there] / self.ratio[here] ** 2
        # a variance of 0 or infinity means no data and stays so
        known = self.variance[here] > 0
        self.variance[here] += np.where(known, new, 0.0)

    # -- result -----------------------------------------------------------------------------
    def finish(self, catalog_name: str) -> Injection:
        """Return the new exposure with its truth."""
        plan, exposure = self.plan, self.exposure
        rows = plan.in_order(plan.drawable)
        drawn = np.zeros(len(plan.catalog), bool)
        drawn[rows] = True
        with np.errstate(invalid="ignore", divide="ignore"):
            kept = self.counted / plan.enclosed
            realised = plan.flux * kept + self.noise_counted * plan.calibration
        values = {
            "flux_realised": np.where(drawn, realised, 0.0),
            "inst_flux_total": np.where(drawn, plan.total, 0.0),
            "enclosed_energy": plan.enclosed,
            "deposited_fraction": np.where(drawn, self.deposited, 0.0),
            "half_size": np.where(drawn, plan.half_size, 0),
        }
        record = self._record(catalog_name, int(drawn.sum()))
        truth = truth_table(
            plan.catalog,
            exposure,
            values=values,
            flags=plan.flags,
            psf_id="" if exposure.psf is None else exposure.psf.identifier,
            injection_psf_id="" if plan.psf is None else plan.psf.identifier,
            image_id=self.image_id,
            meta={"injection": record},
        )
        report = self._report(record)
        metadata = dict(exposure.metadata)
        metadata["INJECTED"] = True
        metadata["injections"] = [*metadata.get("injections", ()), record]
        metadata["history"] = [*metadata.get("history", ()), " ".join(report)]
        changes: dict[str, Any] = {"metadata": metadata}
        bits = exposure.mask_bits.with_names(
            INJECTED="a synthetic source was added here",
            INJECTED_CORE="the central pixels of a synthetic source",
        )
        changes["mask"], changes["mask_bits"] = self._mask(rows, bits), bits
        changes["image"] = self.image
        if self.variance is not None:
            changes["variance"] = self.variance
        for array in (self.image, self.variance, changes["mask"]):
            if array is not None:
                array.flags.writeable = False
        return Injection(exposure.with_(**changes), truth, tuple(report))

    def _mask(self, rows: np.ndarray, bits: Any) -> np.ndarray:
        exposure = self.exposure
        mask = (
            np.zeros(self.box.shape, np.uint32) if exposure.mask is None else exposure.mask.copy()
        )
        stamp, core = (np.uint32(bits.value(n)) for n in ("INJECTED", "INJECTED_CORE"))
        for row in rows.tolist():
            inner = self._overlap(self.plan.stamp_box(row))
            if inner is not None:
                mask[inner.slices(self.box)] |= stamp
            x, y = (int(np.floor(v[row] + 0.5)) for v in (self.plan.x, self.plan.y))
            inner = self._overlap(Box(x - _CORE, y - _CORE, 2 * _CORE + 1, 2 * _CORE + 1))
            if inner is not None:
                mask[inner.slices(self.box)] |= core
        return mask

    def _record(self, catalog_name: str, n_drawn: int) -> dict[str, Any]:
        from pogson import __version__

        plan, exposure = self.plan, self.exposure
        return {
            "software": f"pogson {__version__}",
            "catalog": catalog_name,
            "n_rows": len(plan.catalog),
            "n_drawn": n_drawn,
            "flag_counts": count_injection_flags(plan.flags),
            "reference": plan.reference.to_dict(),
            "reference_label": plan.reference.label,
            "psf": "" if exposure.psf is None else exposure.psf.identifier,
            "injection_psf": "" if plan.psf is None else plan.psf.identifier,
            "accuracy": plan.accuracy,
            "seed": self.seed,
            "image_id": self.image_id,
            "photon_noise": "none" if self.gain is None else self.gain.describe(),
            "variance_updated": self.variance is not None,
        }

    def _report(self, record: dict[str, Any]) -> list[str]:
        out = [
            f"{record['n_drawn']} of {record['n_rows']} sources injected by {record['software']}, "
            f"fluxes in '{record['reference_label']}', PSF {record['injection_psf'] or 'none'}"
            + (
                ""
                if record["psf"] == record["injection_psf"]
                else f" (the image's own is {record['psf'] or 'none'})"
            )
            + f", seed {record['seed']}."
        ]
        counts = record["flag_counts"]
        if counts:
            out.append("Flags: " + ", ".join(f"{k} {v}" for k, v in counts.items()) + ".")
        if self.gain is None:
            out.append("No photon noise added.")
        else:
            plane = "updated" if record["variance_updated"] else "not there or without sources"
            out.append(f"Photon noise with {record['photon_noise']}; variance plane {plane}.")
            if not self.image_id:
                out.append("The image has no id: give image_id= so that images differ in noise.")
        return out


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
