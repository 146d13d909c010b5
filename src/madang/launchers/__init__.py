"""Where LaunchPlans are carried out: one file per way, one contract suite for all of them."""
