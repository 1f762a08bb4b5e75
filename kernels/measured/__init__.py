"""What was measured on GPUs, and what `auto` makes of it there: rules for implementations, and Triton's tiles.

bench/gpu_rules.py writes one module per GPU from the measurements in bench/results; the rules are pure functions of
the device's capability and the problem's sizes, so that a choice can be repeated and shown without a GPU.
"""
