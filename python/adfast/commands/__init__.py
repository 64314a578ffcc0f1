"""One module per command: `add_arguments(parser)` and `run(args) -> int`. No heavy imports on top."""
