"""What an answer is worth: correctness, the format gate, the rubric that adds them up, and the episode that runs the line."""
