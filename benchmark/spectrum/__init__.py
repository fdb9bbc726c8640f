"""The spectral study: into which directions of the features quantization noise falls."""
