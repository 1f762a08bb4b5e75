"""Convolutions by stock PyTorch: which are left to it, how it is called directly, and which it computes wrong."""
