"""A small trained network that reads digits in clips and computes the features for distances, and its training.

The weights ship with the package (`oracle.safetensors`, half precision). They were trained by

    python -m fastvgan.metrics.train_oracle

on real clips of the training writers alone, and read 99.56% of clips and 99.33% of frames of unseen writers (4,800
clips). The file's metadata holds the command and these numbers. Fixed rules (`fastvgan.metrics.oracle.rules`) read
colour and motion.
"""

from fastvgan.metrics.oracle.network import ORACLE, Oracle, Reading, load_oracle

__all__ = ["ORACLE", "Oracle", "Reading", "load_oracle"]
