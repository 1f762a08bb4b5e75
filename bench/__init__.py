"""Benchmarks. This folder is a package, so that its modules may have the same names as modules in tests/."""
