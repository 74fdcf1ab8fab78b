"""Delta to integers to bytes, and back: the ring of 2^b, its packing, and the rounding."""
