"""What every package uses and no mathematics is in: files, digests, random numbers, copies to a device."""
