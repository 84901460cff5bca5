"""The field compiler: a vector field as a program, its derivatives, and the engine that runs it."""
