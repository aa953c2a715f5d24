"""What leaves the studio: pictures, videos, Gaussian splats and point clouds, in formats that others read."""
