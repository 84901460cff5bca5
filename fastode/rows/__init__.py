"""Solves in which every row of the batch has its own steps, span, times and outcome.

``clock`` is where each row is in time; ``outputs``, ``events`` and ``dense`` are what is made of accepted steps;
``times`` checks what the user says about time; ``run`` puts a solve together and returns a ``solution``. The step loop
is :mod:`fastode.loop`, gradients are in :mod:`fastode.gradients`.
"""
