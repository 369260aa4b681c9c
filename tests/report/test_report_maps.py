"""Maps over detectors: no text of one panel lies on another."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pogson.report import PixelMap
from pogson.report.plots import plot_maps


def texts_of(figure):
    """Return (text, box) of every title, axis label and tick label that is drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    out = []
    for ax in figure.axes:
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label]
        texts += ax.get_xticklabels() + ax.get_yticklabels()
        out += [(t.get_text(), t.get_window_extent(renderer)) for t in texts
                if t.get_text() and t.get_visible()]  # fmt: skip
    return out


@pytest.mark.parametrize("n", [1, 5, 6, 12])
def test_titles_and_labels_do_not_overlap(n):
    rng = np.random.default_rng(1)
    maps = tuple(
        PixelMap(f"100{k // 4} D{k % 4} g", rng.normal(size=(16, 16)), (0, 1024, 0, 1024))
        for k in range(n)
    )
    titles = {m.key for m in maps}
    figure = plot_maps(maps, "background / its median")
    texts = texts_of(figure)
    for (a, box_a), (b, box_b) in itertools.combinations(texts, 2):
        if a in titles or b in titles:
            assert not box_a.overlaps(box_b), (a, b)
    columns = min(4, n)
    assert sum(t == "x [pixel]" for t, _ in texts) == columns
