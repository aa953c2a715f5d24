"""Sparse points of a scene that came without any: features of its posed photos, matched and triangulated.

Structure from motion finds poses and points together; here the poses are known, which makes the points a matter of
seconds. A feature's counterpart in another photo lies along a line, so little is compared, and what three photos agree
on is hardly ever wrong.
"""

from studio.triangulation.points import triangulate
from studio.triangulation.scenes import with_points

__all__ = ["triangulate", "with_points"]
