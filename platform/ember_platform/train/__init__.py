"""Training: one loop for every stage, the DeepSpeed engine under it, Ray Train around it.

`plan` says what a run will do, `pipeline` does it stage by stage, `stage_run` starts one stage's workers, `worker` is
what runs in them, `loop` is the training loop, `engine` the optimizer, precision and partitioning beneath it.
"""
