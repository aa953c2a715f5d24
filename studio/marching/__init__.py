"""The ray-marching engine: sampling along rays, empty space, scene contraction, and volume rendering.

Knows no network: a field enters as a function of points, or as tensors of densities and colours. Distances t are along
the unit direction of a ray (``depth = t * rays.depth_scale`` is the z-depth of the rest of the studio).

Dense functions take (…, s) samples, the same number for every ray; packed ones a `PackedSamples` with as many as each
ray needs. Everything is differentiable torch on any device; on the CPU in float32 the grid and the packed functions
run as compiled kernels.
"""

from studio.marching.compositing import (
    composite,
    distortion_loss,
    expected_depth,
    median_depth,
    opacity,
    weights_from_density,
)
from studio.marching.contraction import contract, uncontract
from studio.marching.grid import OccupancyGrid
from studio.marching.ndc import ndc_points, ndc_points_inverse, ndc_rays, ndc_scale, world_to_front, z_from_ndc
from studio.marching.near_far import ray_box, ray_sphere
from studio.marching.packed import (
    PackedRender,
    PackedSamples,
    packed_composite,
    packed_distortion_loss,
    packed_expected_depth,
    packed_median_depth,
    packed_opacity,
    packed_render,
    packed_sum,
    packed_weights,
    visible,
)
from studio.marching.proposal import Proposal, ProposalSampler, annealing, interlevel_loss
from studio.marching.rendering import MarchedRays, Shade, march_rays, render_camera, z_depth
from studio.marching.sampling import (
    Spacing,
    distance_to_unit,
    edges_of_points,
    midpoints,
    sample_pdf,
    stratified,
    stratified_points,
    unit_to_distance,
)

__all__ = [
    "MarchedRays",
    "OccupancyGrid",
    "PackedRender",
    "PackedSamples",
    "Proposal",
    "ProposalSampler",
    "Shade",
    "Spacing",
    "annealing",
    "composite",
    "contract",
    "distance_to_unit",
    "distortion_loss",
    "edges_of_points",
    "expected_depth",
    "interlevel_loss",
    "march_rays",
    "median_depth",
    "midpoints",
    "ndc_points",
    "ndc_points_inverse",
    "ndc_rays",
    "ndc_scale",
    "opacity",
    "packed_composite",
    "packed_distortion_loss",
    "packed_expected_depth",
    "packed_median_depth",
    "packed_opacity",
    "packed_render",
    "packed_sum",
    "packed_weights",
    "ray_box",
    "ray_sphere",
    "render_camera",
    "sample_pdf",
    "stratified",
    "stratified_points",
    "uncontract",
    "unit_to_distance",
    "visible",
    "weights_from_density",
    "world_to_front",
    "z_depth",
    "z_from_ndc",
]
