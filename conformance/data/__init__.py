"""What the networks see: the ImageNet record schema, its preprocessing, and the digits set."""
