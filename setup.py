"""Packages of the wheel; everything else is in pyproject.toml.

The configs lie in the folder configs/ of a checkout, where people read and edit them;
in a wheel they lie inside the package.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mltrain*"]), "mltrain.configs"],
    package_dir={"mltrain.configs": "configs"},
    package_data={
        "": ["*.yaml"],
        "mltrain": ["py.typed"],
        "mltrain.configs": ["**/*.yaml"],
        "mltrain.report.html": ["templates/*"],
    },
)
