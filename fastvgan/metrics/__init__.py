"""Scores of generated clips: condition match, distances from real clips, diversity and copies."""
