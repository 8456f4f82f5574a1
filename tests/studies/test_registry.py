"""The studies by name."""

import pytest

from passband.studies import list_studies, run_study, study_options
from passband.studies.registry import StudyResult
from passband.studies.specnet import DATA, MODES


def test_every_study_has_a_description() -> None:
    assert all(name and description for name, description in list_studies())


def test_every_study_can_be_run() -> None:
    """Its module is there, and takes what `run_study` gives."""
    import importlib
    import inspect

    for name, _ in list_studies():
        run = importlib.import_module(f"passband.studies.{name}").run
        assert list(inspect.signature(run).parameters)[:2] == ["out", "progress"]
        assert inspect.signature(run).return_annotation is StudyResult


@pytest.mark.parametrize("name", [name for name, _ in list_studies()])
def test_every_option_has_a_meaning(name: str) -> None:
    lines = study_options(name).splitlines()
    assert all(len(line) <= 100 for line in lines)
    for line in lines:
        if line.startswith("  --"):
            assert len(line.split()) > 2, line


def test_the_help_of_specnet_has_every_mode_and_network() -> None:
    text = " ".join(study_options("specnet").split())
    assert all(f'"{mode}"' in text for mode in MODES)
    assert all(network in text for network in DATA)


def test_unknown_study() -> None:
    with pytest.raises(ValueError, match="unknown study 'demmo': did you mean 'demo'"):
        run_study("demmo", "out")


def test_unknown_option() -> None:
    with pytest.raises(ValueError, match="unknown option of the study 'demo' 'seed': did you mean"):
        run_study("demo", "out", seed=1)


@pytest.mark.parametrize("seeds", [0, "many", 1.5])
def test_seeds_are_counted(seeds: object) -> None:
    with pytest.raises(ValueError, match="it must be a whole number, at least 1"):
        run_study("demo", "out", seeds=seeds)
