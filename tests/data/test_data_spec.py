import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssl_sat.data import SOURCES
from ssl_sat.spec import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "data"


@pytest.mark.parametrize("name", SOURCES.names())
def test_yaml_states_every_field_with_its_default(name: str) -> None:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    spec = SOURCES.parse(values)
    assert spec == SOURCES[name].spec()
    assert set(values) == set(type(spec).model_fields)


def test_paths_are_not_science() -> None:
    one = SOURCES.parse({"name": "eurosat_rgb", "root": "/a", "splits_dir": "/b"})
    assert one.science() == SOURCES.parse({"name": "eurosat_rgb"}).science()
    assert one.science() != SOURCES.parse({"name": "eurosat_rgb", "split": "spatial"}).science()


@pytest.mark.parametrize(
    "values, said",
    [
        ({"name": "eurosat"}, "no 'eurosat'.*did you mean 'eurosat_"),
        ({"name": "eurosat_rgb", "splits": "spatial"}, "unknown key 'splits'; did you mean 'split'"),
        ({"name": "eurosat_rgb", "split": "spacial"}, "did you mean 'spatial'"),
        ({"name": "npy", "bands": ["B02", "B8a"]}, "no band 'B8a'.*did you mean 'B8A'"),
        ({"name": "npy", "bands": ["B02", "B02"]}, "named once each"),
        ({"name": "ucmerced", "val_fraction": 0.6, "test_fraction": 0.4}, "leaves no train"),
        ({"name": "geotiff", "split": "meta"}, "set labels=meta"),
        ({"name": "scenes", "classes": ["cloud", "sea"]}, "sea"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SOURCES.parse(values)


def test_importing_data_costs_no_heavy_library() -> None:
    code = (
        "import sys, ssl_sat.data, ssl_sat.data.spec; "
        "print([m for m in ('torch', 'rasterio', 'PIL', 'numpy', 'pyarrow', 'hydra') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
