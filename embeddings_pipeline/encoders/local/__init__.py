"""Models that run on this machine: their files, devices and forward passes."""
