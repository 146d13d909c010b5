"""What a replica is: how it is launched, and how its metrics are read. Pure; one file each."""
