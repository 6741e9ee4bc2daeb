"""The demonstration: a volume is made through CSI, used, loses its primary twice, and is checked on disk."""
