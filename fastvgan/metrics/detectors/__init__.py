"""Scores by networks that the user provides as TorchScript files: FVD, KVD, JEDi and inception score."""
