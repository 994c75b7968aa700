"""Sphinx settings. `make docs` builds; warnings are errors."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS / "_ext"))

# The operators' reference imports Airflow, which writes its settings wherever this points.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-for-docs-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

from airflow_ensemble import __version__  # noqa: E402

project = "airflow-provider-ensemble"
author = "the airflow-provider-ensemble authors"
copyright = f"2026, {author}"
release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton", "ensemble_reference"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sourcelink = False

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_default_options = {"show-inheritance": True}

copybutton_prompt_text = "$ "
