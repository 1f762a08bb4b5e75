"""Measurements on GPUs, the rules by which `auto` chooses implementations from them, and Triton's tiles.

bench/gpu_rules.py writes one module per GPU from the measurements in bench/results. The rules are pure functions of the
device's capability and the problem's sizes, so that a choice is reproducible and can be shown without a GPU.
"""
