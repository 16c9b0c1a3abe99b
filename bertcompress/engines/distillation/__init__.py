"""What distillation is built from: teachers, objectives, settings."""
