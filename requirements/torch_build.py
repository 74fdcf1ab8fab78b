"""Prints which build of torch the environment has, and what it takes on disk, without importing it."""

from importlib.metadata import files, version

size = sum(file.size or 0 for file in files("torch") or ())
print(f"           torch {version('torch')}: {size / 2**20:.0f} MiB on disk")
