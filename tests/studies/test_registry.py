"""The studies by name."""

import pytest

from passband.studies import list_studies, run_study
from passband.studies.registry import StudyResult


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
