"""CPU kernels of the hash-grid field: the encoding, the two small networks, their gradients and Adam."""
