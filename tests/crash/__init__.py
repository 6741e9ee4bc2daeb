"""What a power loss at any moment leaves of a replica's directory, and whether the store keeps its promises on it."""
