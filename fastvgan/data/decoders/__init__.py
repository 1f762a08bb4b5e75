"""The decoders `pyav`, `dali` and `shards`, and the choice among them; see `fastvgan.data.readers`."""
