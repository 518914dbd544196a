"""Packages of the wheel; all else is in pyproject.toml.

``ds_configs/`` and ``launchers/`` are directories of the checkout; in the wheel they lie in ``mnmt_ds/_shipped``, where
``mnmt_ds/shipped_files.py`` finds them.
"""

from setuptools import find_packages, setup

SHIPPED = {f"mnmt_ds._shipped.{name}": name for name in ("ds_configs", "launchers")}

setup(
    packages=[*find_packages(include=["mnmt_ds", "mnmt_ds.*"]), *SHIPPED],
    package_dir=SHIPPED,
    include_package_data=False,
    package_data={
        "mnmt_ds": ["py.typed", "**/csrc/*", "**/*.html", "bench/results/*"],
        "mnmt_ds._shipped.ds_configs": ["*.json"],
        "mnmt_ds._shipped.launchers": ["**/*.sh", "**/*.py", "**/*.yaml", "**/*.json"],
    },
)
