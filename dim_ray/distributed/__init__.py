"""Ray Train and Ray tasks: the only place in dim_ray that imports ray."""
