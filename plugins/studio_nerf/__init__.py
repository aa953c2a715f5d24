"""Neural radiance fields: the classic 5D network (`nerf`) and a hash grid that trains in minutes on a CPU (`ngp`)."""
