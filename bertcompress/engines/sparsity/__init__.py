"""What sparse training is built from: how many weights are zero when, and which."""
