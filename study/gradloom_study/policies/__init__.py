"""What a study compares: which samples get a gradient, and how precise their activations are."""
