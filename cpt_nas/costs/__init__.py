"""What a gated network costs: multilinear MACs, parameters and seconds."""
