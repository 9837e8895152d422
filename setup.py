"""What pyproject.toml cannot say: every package of the folder, and docs/ as one more."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["densenb", "densenb.*"]), "densenb.docs"])
