"""Pictures of what a model sees and finds: proposals by pyramid level, and the maps of the levels."""
