"""Integer kernels for CPUs and CUDA, and the selection of one for this machine."""
