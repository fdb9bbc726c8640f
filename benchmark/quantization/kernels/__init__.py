"""Integer kernels of the CPU, and which of them this machine has."""
