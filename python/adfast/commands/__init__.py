"""One module per command: `add_arguments(parser)` and `run(args) -> int`. Light imports only."""
