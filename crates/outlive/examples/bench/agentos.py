"""The benchmark's workflows on AgentOS: the other half of `bench beside`, whose own half is in `beside.rs`.

PORT is where it serves, PEER_DIR the folder of its database, STEP_LOG the file that the steps of `slow3` append to.
Everything else is as Agno ships it; the benchmark lifts the cap on background runs by
AGNO_BACKGROUND_MAX_CONCURRENCY=0.
"""

import asyncio
import os

import uvicorn
from agno.db.sqlite import SqliteDb
from agno.os import AgentOS
from agno.workflow import Step, StepInput, StepOutput, Workflow


def no_op(number):
    async def executor(step_input: StepInput) -> StepOutput:
        return StepOutput(content=step_input.previous_step_content or step_input.input)

    executor.__name__ = f"no_op_{number}"  # AgentOS lists functions by name, and warns when two share one.
    return Step(name=f"s{number}", executor=executor)


async def wait(step_input: StepInput) -> StepOutput:
    """Sleeps as many seconds as the input says."""
    await asyncio.sleep(float(step_input.input))
    return StepOutput(content=step_input.input)


def note(line):
    with open(os.environ["STEP_LOG"], "a", encoding="utf-8") as log:
        log.write(line + "\n")


def slow(number):
    """Half a second, written down when it starts and when it ends."""

    async def executor(step_input: StepInput) -> StepOutput:
        note(f"start {step_input.input}/{number}")
        await asyncio.sleep(0.5)
        note(f"end {step_input.input}/{number}")
        return StepOutput(content=step_input.input)

    executor.__name__ = f"slow_{number}"
    return Step(name=f"s{number}", executor=executor)


db = SqliteDb(db_file=os.path.join(os.environ["PEER_DIR"], "agentos.db"))


def workflow(name, steps):
    return Workflow(id=name, name=name, db=db, steps=steps, telemetry=False)


workflows = [
    workflow("noop3", [no_op(1), no_op(2), no_op(3)]),
    workflow("wait", [Step(name="wait", executor=wait)]),
    workflow("slow3", [slow(1), slow(2), slow(3)]),
]
app = AgentOS(id="bench", workflows=workflows, db=db, telemetry=False).get_app()

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", access_log=False)
