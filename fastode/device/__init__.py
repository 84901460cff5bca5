"""Solves that live on the device: time, step sizes, accept flags and counts stay in its memory.

The host queues attempts of steps and looks at the outcome every few of them. ``lockstep`` is the loop of ``odeint`` and
``rows`` that of ``solve``; both queue the same attempts (``attempt``) of the kernels in :mod:`fastode.kernels.triton`.
"""
