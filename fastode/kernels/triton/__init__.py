"""The place of the GPU engine: stage, finish, control and interpolate as Triton kernels, which are not written yet.

It becomes an engine with a class like :class:`~fastode.kernels.torch_step.TorchStep`, a reason why it may not serve,
and its name in ``fastode.kernels.ENGINES``; ``tests/kernels`` then compares it with the reference.
"""
