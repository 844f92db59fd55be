"""What a command needs that is run in a terminal."""
