"""What OCNOpt would do with a model: found, examined, tried on random input, and told in plain words."""
