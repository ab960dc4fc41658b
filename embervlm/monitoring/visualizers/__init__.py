"""One visualizer per stage; `embervlm.monitoring.stage_visualizations` has them all."""
