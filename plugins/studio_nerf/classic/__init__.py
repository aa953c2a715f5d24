"""The classic neural radiance field (Mildenhall et al., *NeRF: Representing Scenes as Neural Radiance Fields for View
Synthesis*, ECCV 2020): one multilayer perceptron from position and viewing direction to density and colour."""
