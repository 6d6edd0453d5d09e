"""Random networks, faults that strike them in training, and what is left standing afterwards."""
