"""Methods by name: stored and read back, and where a reader finds them."""

import re
from pathlib import Path

import pytest

import seka_rag
from seka_rag import Seka
from seka_rag.errors import SettingError
from seka_rag.steering.registry import METHODS, as_steering, steering_as_dict


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_stored_and_read_back(name):
    layers = {"layers": (1,)} if "layers" in METHODS[name].model_fields else {}
    method = METHODS[name](**layers).with_strength(0.3)
    assert method.strength == 0.3
    assert as_steering(steering_as_dict(method)) == method
    assert as_steering(method) is method


def test_every_method_is_at_the_root_and_in_the_reference():
    """What CONTRIBUTING asks of a new one."""
    reference = Path(__file__).resolve().parents[2] / "docs" / "reference"
    rows = re.findall(r"^\| \[?`(\w+)`", (reference / "methods.md").read_text(encoding="utf-8"), re.M)
    assert set(METHODS) == set(rows)
    assert set(METHODS) <= set(seka_rag.__all__)
    shown = re.findall(r"^::: (\S+)$", (reference / "model.md").read_text(encoding="utf-8"), re.M)
    modules = {name: method.__module__ for name, method in METHODS.items()}
    assert [name for name, module in modules.items() if not {module, f"{module}.{name}"} & set(shown)] == []


def test_auto_and_none_stay():
    assert as_steering("auto") == steering_as_dict("auto") == "auto"
    assert as_steering(None) is steering_as_dict(None) is None


@pytest.mark.parametrize("bad", ["Seka", Seka, 0.5, {"method": "Nothing"}, {"gain": 1}, {"method": []}, {"method": {}}])
def test_anything_else_is_refused(bad):
    with pytest.raises(SettingError, match="use 'auto'"):
        as_steering(bad)


@pytest.mark.parametrize("wrong", [{"gain": "much"}, {"gain": 10**400}, {"layers": 3}, {"path": "/etc"}, {5: 1}])
def test_a_wrong_setting_of_a_method_is_named(wrong):
    with pytest.raises(SettingError, match=f"steering=Seka: {next(iter(wrong))}"):
        as_steering({"method": "Seka", **wrong})
