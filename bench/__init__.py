"""Benchmarks, as a package so that their modules may have the names of those in tests/."""
