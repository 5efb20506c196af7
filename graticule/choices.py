"""The words that recipes, functions and commands choose from, each list written once."""

from typing import Literal

PartitionKind = Literal["s2", "grid", "kmeans", "gaussian", "semantic", "label", "points"]
Keep = Literal["planet", "nested"]  # which S2 cells stay: PlaNet's leaves, or every fitting one at any level
Resize = Literal["squash", "fit", "crop"]
Interpolation = Literal["bilinear", "bicubic"]
Pooling = Literal["own", "average", "average+gem", "salad"]
Root = Literal["matrix", "elements"]  # of second moments: of the matrix as a whole, or of each number in it
TokenPosition = Literal["none", "learned"]  # position embedding of a transformer on a feature map
HeadKind = Literal["cells", "position", "both", "matching", "offsets", "none"]  # the last three are imported
Coordinates = Literal["plane", "sphere"]
TargetKind = Literal["one_cell", "smoothed", "distance"]
ScheduleName = Literal["onecycle", "cosine", "constant", "plateau"]
Optimizer = Literal["adamw", "adam"]
Precision = Literal["float32", "bfloat16"]
Runtime = Literal["onnx", "openvino"]
Engine = Literal["here", "ray"]  # who makes the parts of a job
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Answer = Literal["median", "score", "densest", "mode", "center", "regressed"]
Together = Literal["place", "sequence"]
MapScale = Literal["given", "world", "positions"]
