"""Experiments: each is one command with its table, its figures and its HTML report."""

from passband.studies.registry import StudyResult, list_studies, run_study, study_options

__all__ = ["StudyResult", "list_studies", "run_study", "study_options"]
