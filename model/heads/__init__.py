"""The ROI heads: class and box, mask and keypoints of each region of interest."""
