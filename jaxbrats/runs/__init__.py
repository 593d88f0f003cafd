"""What a run's folder is: its record, and the whole job from raw files to results."""
