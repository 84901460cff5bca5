"""What the pictures show: points, paths and densities of a flow, seen in the plane."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...nn import CNF
from ..data import Data

Array = NDArray[np.float64]
N_POINTS = 4000


@dataclass(frozen=True)
class Scene:
    """A flow and its data, and the plane they are drawn in.

    Attributes:
        flow: from base to data.
        name: of the data.
        data: ``[N, D]``; at most 4000 rows.
        center: ``[D]``; a point of the plane.
        axes: ``[D, 2]``; its coordinates are ``(x - center) @ axes``.
        labels: of the two axes.
        limits: left, right, bottom, top.
        note: said in the titles when the plane shows a part of the space only.
    """

    flow: CNF
    name: str
    data: Tensor
    center: Tensor
    axes: Tensor
    labels: tuple[str, str]
    limits: tuple[float, float, float, float]
    note: str

    @property
    def planar(self) -> bool:
        """Whether the plane is the whole space."""
        return self.flow.dim == 2

    def project(self, x: Tensor) -> Array:
        """Points ``[..., D]`` as points of the plane ``[..., 2]``."""
        plane: Array = ((x - self.center) @ self.axes).double().numpy()
        return plane

    def base_points(self, n: int, seed: int = 0) -> Tensor:
        """``n`` points of the base as ``[n, D]``, the same for every picture."""
        return torch.randn(n, self.flow.dim, generator=torch.Generator().manual_seed(seed))

    def grid(self, n: int) -> Tensor:
        """``n x n`` points that fill the plane, as ``[n * n, 2]``; rows from bottom to top."""
        left, right, bottom, top = self.limits
        y, x = torch.meshgrid(torch.linspace(bottom, top, n), torch.linspace(left, right, n), indexing="ij")
        return torch.stack([x.reshape(-1), y.reshape(-1)], 1)

    def density(self, n: int, t: float = 1.0) -> Array:
        """The density at time ``t`` (0: base, 1: data) on :meth:`grid`, as ``[n, n]``; for planar scenes."""
        x = self.grid(n)
        flow = copy.copy(self.flow)
        t0, t1 = self.flow.t_span
        with torch.no_grad():
            if t == 0:
                assert flow.affine is not None
                log_prob = flow.base.log_prob(flow.affine.inverse(x)) - flow.affine.log_det()
            else:
                flow.t_span = (t0, t0 + t * (t1 - t0))
                log_prob = flow.log_prob(x)
        return log_prob.double().exp().reshape(n, n).numpy()


def make_scene(flow: CNF, data: Data) -> Scene:
    """The scene of a trained flow: the plane of the data, or of its first two principal components."""
    rows = torch.cat([data.train, data.val, data.test])[:N_POINTS]
    if flow.dim == 2:
        center, axes, note = torch.zeros(2), torch.eye(2), ""
        labels = (data.columns[0], data.columns[1])
    else:
        # of standardised columns: the one with the largest unit would be all there is to see
        center, scale = data.train.mean(0), data.train.std(0)
        _, spread, directions = torch.linalg.svd((data.train - center) / scale, full_matrices=False)
        axes = (directions[:2] / scale).T.contiguous()
        share = spread.square() / spread.square().sum()
        percent = 100 * float(share[:2].sum())
        note = f"first two of {flow.dim} principal components: {percent:.0f} % of the standardised variance"
        labels = ("principal component 1", "principal component 2")
    plane = ((rows - center) @ axes).double().numpy()
    low, high = np.quantile(plane, 0.002, axis=0), np.quantile(plane, 0.998, axis=0)
    middle, half = (low + high) / 2, 0.62 * (high - low)
    if flow.dim == 2 and half.max() < 2 * half.min():
        half[:] = half.max()  # one scale for both axes, unless that would flatten the picture
    (left, bottom), (right, top) = (middle - half).tolist(), (middle + half).tolist()
    return Scene(flow, data.name, rows, center, axes, labels, (left, right, bottom, top), note)
