"""What the commands show of one and the same cluster, word by word."""
