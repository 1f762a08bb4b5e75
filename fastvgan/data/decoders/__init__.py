"""Ways to get a batch's frames: `pyav`, `dali` and `shards`, and the choice among them; see `fastvgan.data.readers`."""
