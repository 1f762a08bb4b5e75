"""The same work by this library and by what a user would pick instead, for `python bench/compare.py`.

Each module makes rows: it opens the compared sides on the same inputs and measures how far their results are apart.
"""
