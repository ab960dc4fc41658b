"""The visualizers of all stages.

    visualizer = Stage3Visualizer(output_dir="outputs/stage3/visualizations")
    figure, image = visualizer.plot_robot_confusion_matrix(predictions, labels, fleet.names, step=785)

Every method draws only what it is given, returns the matplotlib figure and the picture, and with `save=True` writes
`<output_dir>/<name>.png` at 300 DPI, `pdf/<name>.pdf` and `svg/<name>.svg`, and a GIF where the figure is an animation.
Figures of single steps go to folders of their own, as PNG. `embervlm.monitoring.gallery` draws a whole run.
"""

from embervlm.monitoring.visualizers.cross import CrossStageVisualizer
from embervlm.monitoring.visualizers.stage1 import Stage1Visualizer
from embervlm.monitoring.visualizers.stage2 import Stage2Visualizer
from embervlm.monitoring.visualizers.stage3 import Stage3Visualizer
from embervlm.monitoring.visualizers.stage4 import Stage4Visualizer

__all__ = ["CrossStageVisualizer", "Stage1Visualizer", "Stage2Visualizer", "Stage3Visualizer", "Stage4Visualizer"]
