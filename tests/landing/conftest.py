from .hand_landing import bench

__all__ = ["bench"]
