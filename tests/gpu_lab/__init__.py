"""Proves GPU kernels without a GPU: compiles them for real targets, reads the machine code, executes the PTX."""
