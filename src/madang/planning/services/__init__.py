"""What a service needs next: how many replicas of which revision, and where they move."""
