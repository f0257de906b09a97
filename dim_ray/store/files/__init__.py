"""Files below a storage's root, on a disk or an object store."""
