"""Posteriors in files: Parquet, written in parts that a killed job leaves whole.

Each part is a Parquet file of its own, put in place atomically; when all are there they are joined
into one file, in order, a row group a part, and removed. A job started again keeps the parts that
are there, so the result is the same file whether it was interrupted or not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pogson.atomic import atomic_path, atomic_write_text
from pogson.errors import FileFormatError, PogsonValueError, ReferenceMismatchError
from pogson.stars.posteriors import DRAW_COLUMNS, STAR_COLUMNS, StarPosteriors

__all__ = ["PosteriorWriter", "read_posteriors", "write_posteriors"]

_KEY = b"pogson"
_SCHEMA = "pogson.stars.posteriors/1"
_UNITS = {"distance_kpc": "kpc", "av": "mag"}


class PosteriorWriter:
    """Writes posteriors part by part; see the module.

    Parameters
    ----------
    path : path-like
        The file to make in the end. Parts are kept in a folder of the same name with ``.parts``.
    plan : mapping
        What the result depends on (grid, catalogue, priors, configuration, seed, parts), JSON-like.
    n_parts : int
        How many parts there will be.

    Raises
    ------
    ReferenceMismatchError
        If parts of another plan are there already.
    PogsonValueError
        If there are no parts.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> writer = PosteriorWriter(folder / "fit.parquet", {"seed": 1}, 2)
    >>> writer.missing()
    [0, 1]
    """

    def __init__(self, path: Any, plan: Mapping[str, Any], n_parts: int) -> None:
        if n_parts < 1:
            raise PogsonValueError(f"A result needs at least one part, not {n_parts}.")
        self.path = Path(path)
        self.folder = self.path.with_name(self.path.name + ".parts")
        self.n_parts = int(n_parts)
        text = json.dumps({**plan, "n_parts": self.n_parts}, sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        note = self.folder / "plan.json"
        if note.exists():
            if _digest_of(note) != self.digest:
                raise ReferenceMismatchError(
                    f"{self.folder} holds parts of another fit (grid, catalogue, priors, "
                    "configuration or seed differ); remove that folder, or write to another file."
                )
        else:
            atomic_write_text(note, json.dumps({"digest": self.digest, "plan": json.loads(text)}))

    def part(self, k: int) -> Path:
        """Return the path of a part."""
        return self.folder / f"part-{k:06d}.parquet"

    def missing(self) -> list[int]:
        """Return the parts that are not there yet."""
        return [k for k in range(self.n_parts) if not self.part(k).exists()]

    def write(self, k: int, posteriors: StarPosteriors) -> Path:
        """Write a part, whole or not at all."""
        return write_posteriors(self.part(k), posteriors)

    def finish(self) -> Path:
        """Join the parts into the file and remove them.

        Raises
        ------
        FileFormatError
            If parts are missing, or the file cannot be written.
        """
        import pyarrow.parquet as pq

        gone = self.missing()
        if gone:
            raise FileFormatError(
                f"{len(gone)} of {self.n_parts} parts of {self.path} are missing, the first is "
                f"{gone[0]}; run again to fit them."
            )
        schema = pq.read_schema(self.part(0))
        with atomic_path(self.path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for k in range(self.n_parts):
                table = pq.read_table(self.part(k))
                if table.schema.metadata != schema.metadata:
                    raise ReferenceMismatchError(
                        f"{self.part(k)} comes from another fit than part 0; remove it, run again."
                    )
                writer.write_table(table)
        shutil.rmtree(self.folder)
        return self.path


def _digest_of(note: Path) -> Any:
    """Return the digest that a plan says, None if it cannot be read."""
    try:
        return json.loads(note.read_text()).get("digest")
    except (OSError, ValueError, AttributeError):
        return None


def write_posteriors(path: Any, posteriors: StarPosteriors) -> Path:
    """Write posteriors to a Parquet file, atomically.

    Parameters
    ----------
    path : path-like
        The file.
    posteriors : StarPosteriors
        What to write: one row a star, draws in columns of lists of fixed length, provenance in
        the metadata of the schema.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileFormatError
        If it cannot be written.

    Examples
    --------
    >>> from pogson.stars import read_posteriors, write_posteriors
    >>> callable(write_posteriors) and callable(read_posteriors)
    True
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"id": pa.array(posteriors.ids)}
    kept: list[Any] = [pa.field("id", columns["id"].type)]
    for name, kind in {**STAR_COLUMNS, **DRAW_COLUMNS}.items():
        values = np.ascontiguousarray(getattr(posteriors, name), kind)
        array = pa.array(values.ravel())
        if name in DRAW_COLUMNS:
            array = pa.FixedSizeListArray.from_arrays(array, posteriors.n_draws)
        columns[name] = array
        unit = {b"unit": _UNITS[name].encode()} if name in _UNITS else None
        kept.append(pa.field(name, array.type, metadata=unit))
    header = {
        "schema": _SCHEMA,
        "grid_digest": posteriors.grid_digest,
        "bands": list(posteriors.bands),
        "provenance": dict(posteriors.provenance),
    }
    text = json.dumps(header, sort_keys=True, default=str)
    schema = pa.schema(kept, metadata={_KEY: text.encode()})
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(list(columns.values()), schema=schema), temporary)
    return Path(path)


def read_posteriors(path: Any) -> StarPosteriors:
    """Read posteriors written by `write_posteriors` or `fit_catalog`.

    Parameters
    ----------
    path : path-like
        The Parquet file.

    Raises
    ------
    FileFormatError
        If it is not such a file.

    Examples
    --------
    >>> from pogson.stars import read_posteriors
    >>> read_posteriors("no-such-file.parquet")
    Traceback (most recent call last):
        ...
    pogson.errors.FileFormatError: Cannot read posteriors from no-such-file.parquet: ...
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[_KEY])
        if header["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {header['schema']!r}, not {_SCHEMA!r}")
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise FileFormatError(f"Cannot read posteriors from {path}: {error}.") from error
    out: dict[str, Any] = {"ids": table["id"].to_numpy()}
    for name, kind in STAR_COLUMNS.items():
        out[name] = table[name].to_numpy().astype(kind)
    for name, kind in DRAW_COLUMNS.items():
        chunk = table[name].combine_chunks()
        if isinstance(chunk, pa.ChunkedArray):
            chunk = pa.concat_arrays(chunk.chunks)
        values = chunk.flatten().to_numpy(zero_copy_only=False).astype(kind)
        out[name] = values.reshape(table.num_rows, chunk.type.list_size)
    return StarPosteriors(
        bands=tuple(header["bands"]), grid_digest=header["grid_digest"],
        provenance=header["provenance"], **out,
    )  # fmt: skip
