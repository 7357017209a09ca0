"""What a training step costs before it runs: FLOPs, memory, and traffic between devices."""
