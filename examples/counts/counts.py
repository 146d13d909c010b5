"""A stand-in for training: it takes its time, and its state depends on every step before."""

import time

from madang import job

run = job.start(total=60, save_every_steps=10)
state = int((run.resume_from / "state").read_text()) if run.resume_from else 1
for step in run.steps():
    time.sleep(0.2)
    state = (state * 7 + step) % 1_000_003
    run.step(step, loss=1 / step)
    if run.should_save(step):
        with run.checkpoint(step) as folder:
            (folder / "state").write_text(str(state))
print("the end is", state, flush=True)
run.done()
