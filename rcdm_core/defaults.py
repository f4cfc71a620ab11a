"""What several modules and the command line take where nothing else was asked for; imports no torch."""

SAMPLER = "dpm++"  # of samplers.SAMPLERS
SAMPLING_STEPS = 20  # evaluations of the network
