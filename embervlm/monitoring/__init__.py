"""From what a run recorded to figures and a report.

`data` says what each figure is drawn from and keeps it in the run's folder; `stage_visualizations` draws; `gallery`
draws everything that a run recorded, again and without training.
"""
