"""Files below the storage root, on a disk or an object store."""
