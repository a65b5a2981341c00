"""Registries: by name, each once, with the spec of its own."""

from typing import Literal, get_args

import pytest

from ssl_sat.registry import Registry
from ssl_sat.spec import ConfigError, Spec


class KeyedSpec(Spec):
    name: Literal["keyed"] = "keyed"
    seed: int = 3


@pytest.fixture
def keys() -> Registry:
    registry = Registry("key")
    registry.add("keyed", "ssl_sat.precision:nowhere", KeyedSpec, version=4)
    return registry


def test_a_mapping_becomes_the_spec_of_its_name(keys: Registry) -> None:
    assert keys.parse({"name": "keyed", "seed": 5}) == KeyedSpec(seed=5)
    assert keys.parse(KeyedSpec(seed=6)) == KeyedSpec(seed=6)


def test_unknown_names_and_keys_get_suggestions(keys: Registry) -> None:
    with pytest.raises(ConfigError, match=r"^key: no 'kyed' \(there are: keyed\); did you mean 'keyed'\?$"):
        keys.parse({"name": "kyed"})
    with pytest.raises(ConfigError, match=r"^key: unknown key 'sed'; did you mean 'seed'\?$"):
        keys.parse({"name": "keyed", "sed": 1})
    for nameless in ({"seed": 1}, "keyed", 3):
        with pytest.raises(ConfigError, match="a name is needed, one of keyed"):
            keys.parse(nameless)


def test_a_name_is_taken_once_and_a_spec_has_a_name(keys: Registry) -> None:
    with pytest.raises(ValueError, match="registered twice"):
        keys.add("keyed", "a:b", KeyedSpec, version=1)
    with pytest.raises(ValueError, match="no field `name`"):
        keys.add("nameless", "a:b", Spec, version=1)


def test_the_builder_gets_spec_and_context() -> None:
    registry = Registry("thing")
    registry.add("keyed", "builtins:dict", KeyedSpec, version=1)
    spec = KeyedSpec(seed=8)
    assert registry.build(spec, a=1) == {**dict(spec), "a": 1}
    assert registry["keyed"].module == "builtins"


def test_every_shipped_component_is_there_to_import() -> None:
    from ssl_sat.augment import AUGMENTS
    from ssl_sat.data import SOURCES
    from ssl_sat.encoders import ENCODERS
    from ssl_sat.methods import METHODS
    from ssl_sat.ood import DETECTORS
    from ssl_sat.optim import OPTIMIZERS

    for registry in (SOURCES, ENCODERS, METHODS, DETECTORS, OPTIMIZERS, AUGMENTS):
        assert registry.names()
        for entry in registry:
            assert callable(entry.load()), entry
            names = get_args(entry.spec.model_fields["name"].annotation)
            assert not names or entry.name in names, entry
