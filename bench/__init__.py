"""fastode beside torchdiffeq: ``python -m bench`` prints one table of ratios, measured in one run."""
