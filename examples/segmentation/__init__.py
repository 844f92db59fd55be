"""What the example trainers share: data, views, networks, the loop, and the figures. Not part of the library."""
