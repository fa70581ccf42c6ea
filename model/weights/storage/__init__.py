"""Where weights are stored, and in which formats."""

# The two files of a folder that ``save_detector`` writes.
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"

# In the folder of a training: names the best checkpoint.
BEST_FILE = "best.json"
