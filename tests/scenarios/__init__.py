"""What a failure does, told by the simulator in plain words: one text file for each story, reviewed when it changes."""
