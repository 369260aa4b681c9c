"""The configuration: what is accepted, and the words of every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogson.errors import ConfigError, PogsonError
from pogson.run.config import RunConfig, load_config
from pogson.run.toml_lines import key_lines

GOOD = """\
[survey]
name = "test"
output = "out"

[inputs]
exposures = [
    "a_*.fits",   # [brackets] in a comment
    "b.fits",
]

[reference]
catalog = "ref.parquet"
bands = { g = "g", r = "r" }

[measure]
threshold = 4.0
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "survey.toml"
    file.write_text(text)
    return file


def test_good_file(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, GOOD), ["measure.threshold=3", "reference.color=['g','i']"]
    )
    assert config.measure.threshold == 3.0
    assert config.reference is not None
    assert config.reference.color == ["g", "i"]
    assert config.output_folder == tmp_path / "out"
    assert load_config(tmp_path / "survey.toml", output=tmp_path / "x").output_folder == (
        tmp_path / "x"
    )
    with pytest.raises(Exception, match="frozen"):
        config.measure.threshold = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("output =", "outptu ="), ["line 3", "[survey]", "'outptu'", "Did you mean 'output'?"]),
        (("[measure]", "[mesure]"), ["line 15", "'mesure'", "Did you mean 'measure'?"]),
        (("threshold = 4.0", "threshold = -4"), ["line 16", "threshold = -4", "greater than 0"]),
        (("threshold = 4.0", "threshold = 'x'"), ["line 16", "threshold = 'x'", "number"]),
        (("threshold = 4.0", "mode = 'forcd'"),
         ["line 16", "'detect' or 'forced'", "Did you mean 'forced'?"]),
        (("threshold = 4.0", "catalog = 'x'"), ["line 16", "unknown key 'catalog'", "[reference]"]),
        (("threshold = 4.0", "calibration_aperture = 7.0"),
         ["line 15", "calibration_aperture = 7.0", "apertures"]),
        (("exposures", "exposure"), ["line 6", "unknown key 'exposure'", "'exposures'"]),
        (('catalog = "ref.parquet"', ""), ["[reference]", "'catalog'", "missing"]),
        (("[inputs]", "[inputs"), ["not valid TOML", "line 5"]),
        (("[measure]", "[zero_point]\nsource = 'table'\n[measure]"), ["line 15", "table = "]),
        (("bands = {", "bands = 3 #"), ["line 13", "bands = 3"]),
        (("[survey]", "folder = 'x'\n[survey]"), ["folder"]),
    ],
)  # fmt: skip
def test_refusals_name_line_key_value_and_what_is_allowed(
    tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    file = write(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("output", "outptu").replace("4.0", "0"))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("item", "word"),
    [("measure.threshold", "section.key=value"), ("threshold=3", "section.key=value"),
     ("measure.treshold=3", "--set measure.treshold"), ("measure.threshold=no", "--set"),
     ("survey.name.deep=1", "not a section"), ("reference.color=['g']", "at least 2")],
)  # fmt: skip
def test_bad_overrides(tmp_path: Path, item: str, word: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        load_config(write(tmp_path, GOOD), [item])
    assert word in str(caught.value)


def test_zero_points_must_come_from_somewhere(tmp_path: Path) -> None:
    text = "[inputs]\nexposures = 'a.fits'\n"
    with pytest.raises(ConfigError, match="reference"):
        load_config(write(tmp_path, text))
    config = load_config(write(tmp_path, text), ["zero_point.source=header"])
    assert config.zero_point.source == "header"


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path / "bin.toml")
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path)


def test_lines_survive_strings_arrays_and_dots() -> None:
    text = (
        'a.b = 1\n[x]\ns = """\n[not]\nk = 1\n"""\nv = [\n 1, [2],\n "]",\n]\nw = 2\n[[y.z]]\nq=1\n'
    )
    lines = key_lines(text)
    assert lines["a", "b"] == 1
    assert lines["x", "w"] == 11
    assert lines["y", "z", "q"] == 13
    assert ("not",) not in lines


@given(st.text(max_size=200))
def test_any_text_gives_only_config_errors(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "survey.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(PogsonError):
        load_config(file)


@given(
    st.dictionaries(
        st.sampled_from([*RunConfig.model_fields, "x"]),
        st.one_of(st.integers(), st.text(max_size=5), st.dictionaries(
            st.sampled_from(["name", "exposures", "threshold", "bands", "color", "order"]),
            st.one_of(st.integers(), st.lists(st.integers(), max_size=2), st.none(),
                      st.text(max_size=4)), max_size=3)),
        max_size=4,
    )
)  # fmt: skip
def test_any_structure_gives_a_config_or_a_config_error(data: dict) -> None:
    from pydantic import ValidationError

    from pogson.run.config_messages import config_error

    try:
        RunConfig.model_validate(data)
    except ValidationError as error:
        said = str(config_error(error, Path("x.toml"), "", set(), RunConfig))
    else:
        return
    assert said.startswith("x.toml")
