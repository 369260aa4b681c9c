r"""The calibration model: a sum of named terms, each linear (or linearised) in a few parameters.

The model of a detection is

.. math:: m_\\mathrm{inst} = m_\\mathrm{star} + \\sum_t T_t(\\mathrm{detection}),

in magnitudes. A term touches a detection through one run of neighbouring parameters: the first
one's number (``base``, a multiple of the width) and one value for each of ``width`` parameters.
That is all the solver needs, and it is what makes it fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError, PogsonValueError
from pogson.fields import Box, Field
from pogson.survey.observations import Observations, SurveyTables

__all__ = ["Constraint", "Design", "LocalTerm", "Model", "PackedDesign", "Term"]


@dataclass(frozen=True, eq=False)
class Design:
    """How one term touches detections.

    Parameters
    ----------
    base : numpy.ndarray of int32, shape (n,)
        Number of the first parameter touched, within the term, a multiple of the width; -1: not
        touched.
    values : numpy.ndarray of float, shape (n, width), or None
        Derivatives of the term by the parameters ``base ... base + width - 1``; None: the
        constant ``constant`` (width 1).
    constant : float
        The derivative where ``values`` is None.

    Examples
    --------
    >>> import numpy as np
    >>> Design(np.array([0, 1], np.int32), None, -1.0).width
    1
    """

    base: np.ndarray
    values: np.ndarray | None = None
    constant: float = 1.0

    @property
    def width(self) -> int:
        """Number of parameters touched by a detection."""
        return 1 if self.values is None else int(self.values.shape[1])


@dataclass(frozen=True, eq=False)
class LocalTerm:
    """A term on one detector of one exposure, as fields of pixels.

    Parameters
    ----------
    base : int
        Number of the first parameter, within the term; -1: no parameter acts here.
    fields : tuple of Field or None
        Derivative of the term in magnitudes by each parameter, over the detector's box; None: no
        effect on the calibration of a star of the pivot colour.
    factor : Field or None
        Known flux factor ``10**(0.4 T)`` that multiplies the calibration.
    constant : float
        Magnitudes that the term has beyond derivatives times parameters (non-linear terms).

    Examples
    --------
    >>> LocalTerm(-1, ()).fields
    ()
    """

    base: int
    fields: tuple[Field | None, ...]
    factor: Field | None = None
    constant: float = 0.0


@dataclass(frozen=True, eq=False)
class Constraint:
    """A linear condition on parameters, such as the choice of a gauge.

    Parameters
    ----------
    name : str
        What it fixes.
    columns : numpy.ndarray of int
        Parameters of the model (global numbers).
    values : numpy.ndarray of float
        Their coefficients.
    target, sigma : float
        ``sum(values * p) = target`` to within ``sigma``.

    Examples
    --------
    >>> Constraint("mean", [0, 1], [0.5, 0.5]).sigma
    1e-06
    """

    name: str
    columns: np.ndarray
    values: np.ndarray
    target: float = 0.0
    sigma: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", np.asarray(self.columns, np.int64))
        object.__setattr__(self, "values", np.asarray(self.values, np.float64))
        if self.columns.shape != self.values.shape or not self.sigma > 0:
            raise PogsonValueError(
                f"Constraint {self.name!r} needs one value a column and a positive sigma, not "
                f"{self.columns.shape}, {self.values.shape} and {self.sigma!r}."
            )


class Term(ABC):
    """One named part of the calibration model.

    Subclasses are frozen dataclasses whose first field is ``name``. They hold settings only; tables
    of exposures and detectors are passed in.

    Attributes
    ----------
    name : str
        Unique in a model.
    linear : bool
        Whether `design` does not depend on the parameters.
    unit : str
        Unit of the parameters.

    Notes
    -----
    A new kind of term implements `size`, `parameter_names` and `design`; those with an effect on
    the calibration of an image also `local`; non-linear ones `evaluate`.

    Examples
    --------
    >>> from pogson.survey import ExposureZeroPoint
    >>> isinstance(ExposureZeroPoint(), Term)
    True
    """

    name: str
    linear: bool = True
    unit: str = "mag"

    @abstractmethod
    def size(self, tables: SurveyTables) -> int:
        """Return the number of parameters."""

    @abstractmethod
    def parameter_names(self, tables: SurveyTables) -> list[str]:
        """Return a name for each parameter, without the term's own name."""

    @abstractmethod
    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Design:
        """Return how the term touches each detection.

        Parameters
        ----------
        observations : Observations
            Detections.
        parameters : numpy.ndarray, optional
            Current parameters of the term, for terms that are not linear.
        """

    def prior(self, tables: SurveyTables) -> tuple[np.ndarray, np.ndarray]:
        """Return prior means and standard deviations (infinite: none), shape (size,)."""
        n = self.size(tables)
        mean, sigma = getattr(self, "prior_mean", 0.0), getattr(self, "prior_sigma", np.inf)
        shapes = [np.shape(mean), np.shape(sigma)]
        if any(s not in ((), (1,), (n,)) for s in shapes):
            raise ConfigError(
                f"Term {self.name!r}: prior_mean and prior_sigma have shapes {shapes[0]} and "
                f"{shapes[1]}; give one number, or one for each of the {n} parameters."
            )
        mean = np.array(np.broadcast_to(np.asarray(mean, np.float64), (n,)))
        sigma = np.array(np.broadcast_to(np.asarray(sigma, np.float64), (n,)))
        if not (np.all(sigma > 0) and np.isfinite(mean).all()):
            raise ConfigError(
                f"Term {self.name!r}: prior means must be finite and prior sigmas positive "
                "(infinite for none)."
            )
        return mean, sigma

    def start(self, tables: SurveyTables) -> np.ndarray:
        """Return parameters to start from; the prior means by default."""
        return self.prior(tables)[0]

    def limit_step(self, step: np.ndarray, tables: SurveyTables) -> np.ndarray:
        """Return how far parameters may go in one step of a fit; terms that are not linear."""
        return step

    def constraints(self, tables: SurveyTables) -> list[Constraint]:
        """Return the term's own gauge conditions (columns within the term)."""
        return []

    def offset(self, observations: Observations) -> np.ndarray | None:
        """Return known magnitudes that the term adds to detections, or None."""
        return None

    def evaluate(self, observations: Observations, parameters: np.ndarray) -> np.ndarray:
        """Return the term at detections, magnitudes, shape (n,), without `offset`."""
        d = self.design(observations, parameters)
        safe = np.maximum(d.base, 0)
        if d.values is None:
            out = d.constant * parameters[safe] if parameters.size else np.zeros(safe.shape)
        else:
            out = np.zeros(safe.shape)
            for j in range(d.width):
                out += d.values[:, j] * parameters[safe + j]
        return np.where(d.base >= 0, out, 0.0)

    def local(self, exposure: int, detector: int, tables: SurveyTables) -> LocalTerm:
        """Return the term on one detector of one exposure (row numbers) as fields.

        Terms without effect on the calibration of an image return ``LocalTerm(-1, ())``.
        """
        return LocalTerm(-1, ())

    def local_at(
        self, exposure: int, detector: int, tables: SurveyTables, parameters: np.ndarray
    ) -> LocalTerm:
        """Return `local` about given parameters of the term (other than `local` if non-linear)."""
        return self.local(exposure, detector, tables)

    def describe(self, tables: SurveyTables) -> str:
        """Return one line of text: name, kind, number and unit of parameters."""
        return f"{self.name}: {type(self).__name__}, {self.size(tables)} parameters [{self.unit}]"


@dataclass(frozen=True, eq=False)
class PackedDesign:
    """Designs of all terms as the plain arrays that kernels take.

    Parameters
    ----------
    base : numpy.ndarray of int32, shape (n, terms)
        Global number of the first parameter; -1: not touched.
    width : numpy.ndarray of int32, shape (terms,)
        Parameters touched.
    column : numpy.ndarray of int32, shape (terms,)
        First column of ``values``; -1: the constant.
    constant : numpy.ndarray of float64, shape (terms,)
        The constant values.
    values : numpy.ndarray of float64, shape (n, sum of widths with values)
        Derivatives.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.zeros(1, np.int32)
    >>> PackedDesign(np.zeros((3, 1), np.int32), one + 1, one - 1, np.ones(1),
    ...              np.zeros((3, 0))).nonzeros
    1
    """

    base: np.ndarray
    width: np.ndarray
    column: np.ndarray
    constant: np.ndarray
    values: np.ndarray

    @property
    def nonzeros(self) -> int:
        """Parameters touched by a detection, over all terms."""
        return int(self.width.sum())


class Model:
    """An ordered sum of terms over the tables of a survey.

    Parameters
    ----------
    terms : sequence of Term
        With distinct names.
    tables : SurveyTables
        Exposures and detectors.
    constraints : sequence of Constraint, optional
        Further conditions (global parameter numbers), such as a gauge.

    Raises
    ------
    ConfigError
        If there is no term with parameters or a name repeats.

    Examples
    --------
    >>> from pogson.survey import Detectors, ExposureZeroPoint, Exposures
    >>> model = Model([ExposureZeroPoint()], SurveyTables(Exposures([11, 12]), Detectors([0])))
    >>> model.size, model.parameter_name(1)
    (2, 'exposure_zero_point[12]')
    """

    def __init__(
        self,
        terms: Sequence[Term],
        tables: SurveyTables,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self.terms = tuple(terms)
        self.tables = tables
        names = [t.name for t in self.terms]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise ConfigError(
                f"Two terms are called {', '.join(map(repr, repeated))}; give each its own name."
            )
        self.sizes = tuple(t.size(tables) for t in self.terms)
        self.size = sum(self.sizes)
        if self.size == 0:
            raise ConfigError("The model has no parameters; give at least one term that has some.")
        self.first = tuple(int(v) for v in np.cumsum((0, *self.sizes[:-1])))
        self.extra = tuple(constraints)

    def __repr__(self) -> str:
        return f"<Model: {self.size} parameters in {[t.name for t in self.terms]}>"

    # -- naming -------------------------------------------------------------------------------
    def term(self, name: str) -> Term:
        """Return a term by name.

        Raises
        ------
        MissingDataError
            If the model has none of that name.
        """
        return self.terms[self._index(name)]

    def _index(self, name: str) -> int:
        for i, t in enumerate(self.terms):
            if t.name == name:
                return i
        raise MissingDataError(
            f"No term {name!r} in the model; it has {', '.join(repr(t.name) for t in self.terms)}."
        )

    def slice(self, name: str) -> slice:
        """Return the global parameter numbers of a term."""
        i = self._index(name)
        return slice(self.first[i], self.first[i] + self.sizes[i])

    @cached_property
    def parameter_names(self) -> list[str]:
        """Names of all parameters, ``term[parameter]``."""
        return [f"{t.name}[{p}]" for t in self.terms for p in t.parameter_names(self.tables)]

    def parameter_name(self, index: int) -> str:
        """Return the name of one parameter by global number."""
        return self.parameter_names[index]

    def describe(self) -> str:
        """Return the terms as text, one a line."""
        return "\n".join(t.describe(self.tables) for t in self.terms)

    # -- numbers ------------------------------------------------------------------------------
    def split(self, parameters: np.ndarray) -> list[np.ndarray]:
        """Return the parameters of each term as views."""
        return [parameters[a : a + n] for a, n in zip(self.first, self.sizes, strict=True)]

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """Return prior means and standard deviations of all parameters."""
        parts = [t.prior(self.tables) for t in self.terms]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def start(self) -> np.ndarray:
        """Return parameters to start from."""
        return np.concatenate([t.start(self.tables) for t in self.terms])

    def limited(self, step: np.ndarray) -> np.ndarray:
        """Return a step of a fit with the parts of terms that are not linear kept short."""
        if self.linear:
            return step
        parts = [t.limit_step(v, self.tables)
                 for t, v in zip(self.terms, self.split(step), strict=True)]  # fmt: skip
        return np.concatenate(parts)

    @property
    def linear(self) -> bool:
        """Whether every term is linear."""
        return all(t.linear for t in self.terms)

    def constraints(self) -> list[Constraint]:
        """Return all conditions with global parameter numbers."""
        out = list(self.extra)
        for first, t in zip(self.first, self.terms, strict=True):
            out += [
                Constraint(f"{t.name}: {c.name}", c.columns + first, c.values, c.target, c.sigma)
                for c in t.constraints(self.tables)
            ]
        return out

    def design(self, observations: Observations, parameters: np.ndarray | None = None) -> Any:
        """Return the `PackedDesign` of detections."""
        n = len(observations)
        parts = [None] * len(self.terms) if parameters is None else self.split(parameters)
        kept = [
            (first, t.design(observations, p))
            for first, size, t, p in zip(self.first, self.sizes, self.terms, parts, strict=True)
            if size
        ]
        width = np.array([d.width for _, d in kept], np.int32)
        column = np.full(len(kept), -1, np.int32)
        base = np.empty((n, len(kept)), np.int32)
        total = sum(d.width for _, d in kept if d.values is not None)
        values = np.empty((n, total))
        at = 0
        for i, (first, d) in enumerate(kept):
            base[:, i] = d.base if first == 0 else np.where(d.base >= 0, d.base + first, -1)
            if d.values is not None:
                column[i] = at
                values[:, at : at + d.width] = d.values
                at += d.width
        constant = np.array([d.constant for _, d in kept])
        return PackedDesign(base, width, column, constant, values)

    def offset(self, observations: Observations) -> np.ndarray | None:
        """Return the known magnitudes of all terms at detections, or None if there are none."""
        out: np.ndarray | None = None
        for t in self.terms:
            o = t.offset(observations)
            if o is not None:
                out = o if out is None else out + o
        return out

    def evaluate(self, observations: Observations, parameters: np.ndarray) -> np.ndarray:
        """Return the whole model without the star, magnitudes, shape (n,)."""
        out = np.zeros(len(observations))
        for t, p in zip(self.terms, self.split(parameters), strict=True):
            if p.size:
                out += t.evaluate(observations, p)
        known = self.offset(observations)
        return out if known is None else out + known

    def box(self, detector: int) -> Box:
        """Return the pixel box of a detector (row number)."""
        return self.tables.detectors.boxes[detector]
