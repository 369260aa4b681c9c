"""The real-data part of the tutorial: its own code blocks, run where the data is."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "scene.rst"


def code_blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index("Real data: Eris") :]
    pattern = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    return [textwrap.dedent(block) for block in re.findall(pattern, text, re.M)]


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """Execute all code blocks in a folder with the data beside it."""
    data = shared_data("des-smp/exposures.ecsv").parent
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "des-smp").symlink_to(data, target_is_directory=True)
    (toml,) = code_blocks("toml")
    (folder / "des.toml").write_text(toml)
    said = io.StringIO()
    names: dict[str, object] = {}
    blocks = code_blocks("python")
    assert len(blocks) == 2
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        for block in blocks:
            code = block.replace("run_scene(load_scene_config", "run_scene(workers=1, config="
                                 "load_scene_config")  # fmt: skip
            exec(compile(code, str(PAGE), "exec"), names)
    print(said.getvalue())
    return names, said.getvalue()


def test_fluxes_agree_with_the_published_ones_and_have_smaller_errors(run):
    found = re.findall(r"(\w+): (\d+) \+- (\d+) \(zero point 30\)", run[1])
    numbers = {name: (float(flux), float(error)) for name, flux, error in found}
    for name, flux, error in (("eris", 37942.36, 924.97), ("2014vv39", 930.03, 76.99)):
        assert abs(numbers[name][0] - flux) < 0.5 * error
        assert 0.8 * error < numbers[name][1] <= error + 0.5


def test_one_stamp_is_moved_and_null_tests_hold(run):
    targets = {t["name"]: t for t in run[0]["job"].summary["targets"]}
    origins = targets["2014vv39"]["origins"]
    assert [name for name, o in origins.items() if o["applied"]] == ["372125"]
    assert (origins["372125"]["dx"], origins["372125"]["dy"]) == (0, 1)
    for target in targets.values():
        assert 0.85 < target["null_rms"] < 1.15


def test_published_geometry_fits_worse(run):
    chi2 = run[0]["chi2"]
    assert chi2["published"]["2014vv39"] == pytest.approx(6746.6, abs=3.0)
    assert chi2["published"]["eris"] == pytest.approx(5071.2, abs=3.0)
    assert chi2["upright"]["2014vv39"] < 6620.0
