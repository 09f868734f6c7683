"""What each kind of command adds to its stream: the parts of `services.core.decide`."""
