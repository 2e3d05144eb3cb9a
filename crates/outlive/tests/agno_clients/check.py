"""Holds a server against Agno's own client classes and against what its WebSocket clients rely on.

    python check.py http://127.0.0.1:7777

The server is the example `agno_app`, on a model server that answers at once unless a message says `DELAY=seconds`.
Prints one line a check. The exit code is 0 when all of them hold.
"""

import asyncio
import json
import sys
import time
import traceback
import uuid

import httpx
import websockets
from agno.client import AgentOSClient
from agno.db.base import SessionType
from agno.run.workflow import WorkflowRunOutput
from agno.workflow.remote import RemoteWorkflow

BASE = sys.argv[1]
SOCKET = BASE.replace("http", "ws", 1) + "/workflows/ws"
CONTENT = "content-creation-workflow"
PATIENCE = 30
OVER = {"COMPLETED", "CANCELLED", "ERROR"}
CHECKS = []
# A session of this run of the script alone: the server may be an old one.
MARK = uuid.uuid4().hex[:8]


def check(function):
    CHECKS.append(function)
    return function


def session(name):
    return f"{name}-{MARK}"


def text(status):
    return getattr(status, "value", status)


def same(actual, expected, what):
    assert actual == expected, f"{what}: expected {expected!r}, is {actual!r}"


async def names(stream):
    return [event.event async for event in stream]


async def polled(workflow, run_id, until=OVER):
    """What a poll says once the run has one of these statuses, and the statuses seen on the way."""
    seen = []
    deadline = time.monotonic() + PATIENCE
    async with httpx.AsyncClient(base_url=BASE) as http:
        while True:
            answer = await http.get(f"/workflows/{workflow}/runs/{run_id}")
            answer.raise_for_status()
            run = WorkflowRunOutput.from_dict(answer.json())
            if text(run.status) not in seen:
                seen.append(text(run.status))
            if text(run.status) in until:
                return run, seen
            assert time.monotonic() < deadline, f"run {run_id} stays {seen}"
            await asyncio.sleep(0.02)


@check
async def the_configuration_names_what_is_served(client):
    config = await client.aget_config()
    same(config.os_id, "contract-os", "os_id")
    assert {CONTENT, "fn-pipeline", "slow"} <= {workflow.id for workflow in config.workflows}
    same(sorted(agent.id for agent in config.agents), ["careful-agent", "plain-agent", "solo-agent"], "agents")
    same([team.id for team in config.teams], ["research-team"], "teams")
    same(client.get_config().os_id, "contract-os", "os_id without asyncio")


@check
async def workflows_are_listed_and_described(client):
    listed = await client.list_workflows()
    assert CONTENT in {workflow.id for workflow in listed}
    workflow = await client.aget_workflow(CONTENT)
    same(workflow.name, "Content Creation Workflow", "name")
    same([step["name"] for step in workflow.steps], ["Research Step", "Content Planning Step"], "steps")


@check
async def an_unknown_workflow_is_a_404_with_a_detail(client):
    try:
        await client.aget_workflow("nope")
    except httpx.HTTPStatusError as error:
        same(error.response.status_code, 404, "status")
        same(error.response.json(), {"detail": "Workflow not found"}, "body")
    else:
        raise AssertionError("no error")


@check
async def a_run_is_waited_for(client):
    run = await client.run_workflow(CONTENT, "AI trends", session_id=session("run"), user_id="u1")
    same(text(run.status), "COMPLETED", "status")
    same(run.session_id, session("run"), "session")
    same([step.step_name for step in run.step_results], ["Research Step", "Content Planning Step"], "steps")
    kinds = [type(executed).__name__ for executed in run.step_executor_runs]
    same(kinds, ["TeamRunOutput", "RunOutput"], "runs of the steps")
    same(run.content, run.step_results[-1].content, "content")


@check
async def a_run_is_streamed(client):
    events = [event async for event in client.run_workflow_stream(CONTENT, "AI trends", session_id=session("stream"))]
    told = [event.event for event in events]
    same((told[0], told[-1]), ("WorkflowStarted", "WorkflowCompleted"), "ends")
    for name in ("TeamRunStarted", "TeamToolCallCompleted", "RunContent", "TeamRunCompleted", "RunCompleted"):
        assert name in told, f"{name} is not told"
    assert events[-1].content, "the end has no content"


@check
async def steps_in_sequence_tell_what_they_do(client):
    run = await client.run_workflow("fn-pipeline", "hello")
    same((text(run.status), run.content), ("COMPLETED", "HELLO!"), "result")
    assert run.session_id, "a session is made"
    step = ["StepStarted", "StepOutput", "StepCompleted"]
    expected = ["WorkflowStarted", *step, *step, "WorkflowCompleted"]
    same(await names(client.run_workflow_stream("fn-pipeline", "hello")), expected, "events")
    same(await names(client.run_workflow_stream("generator", "hello")), expected, "events of a generator")
    stopped = ["WorkflowStarted", "StepStarted", "StepOutput", "WorkflowCompleted"]
    same(await names(client.run_workflow_stream("early-stop", "hello")), stopped, "events of a stop")


@check
async def a_background_run_is_accepted_and_polled(client):
    run = await client.run_workflow("slow", "sleep=0.3", session_id=session("poll"), background="true")
    same((text(run.status), run.session_id), ("PENDING", session("poll")), "acceptance")
    run, seen = await polled("slow", run.run_id)
    same((seen[-1], run.content), ("COMPLETED", "second sleep done"), "end")
    assert "RUNNING" in seen, f"only {seen} was seen"


@check
async def a_background_run_is_cancelled(client):
    run = await client.run_workflow("slow", "sleep=20", session_id=session("cancel"), background="true")
    await polled("slow", run.run_id, {"RUNNING"})
    await client.cancel_workflow_run("slow", run.run_id)
    run, _ = await polled("slow", run.run_id)
    same((text(run.status), run.cancellation_stage), ("CANCELLED", "EXECUTING"), "end")


@check
async def sessions_are_listed_read_renamed_and_deleted(client):
    name = session("session")
    for message in ("first", "second"):
        await client.run_workflow("fn-pipeline", message, session_id=name, user_id=MARK)
    listed = await client.get_sessions(user_id=MARK)
    same([(one.session_id, one.session_name) for one in listed.data], [(name, "first")], "list")
    one = await client.get_session(name, session_type=SessionType.WORKFLOW)
    same((one.session_id, one.workflow_id), (name, "fn-pipeline"), "session")
    runs = await client.get_session_runs(name, session_type=SessionType.WORKFLOW)
    same([(type(run).__name__, run.status) for run in runs], [("WorkflowRunSchema", "COMPLETED")] * 2, "runs")
    renamed = await client.rename_session(name, "renamed", session_type=SessionType.WORKFLOW)
    same(renamed.session_name, "renamed", "new name")
    await client.delete_session(name)
    try:
        await client.get_session(name, session_type=SessionType.WORKFLOW)
    except httpx.HTTPStatusError as error:
        same(error.response.status_code, 404, "status after the deletion")
    else:
        raise AssertionError("the session is still there")


@check
async def agents_run_by_themselves(client):
    run = await client.run_agent("plain-agent", "hello", session_id=session("agent"))
    same(text(run.status), "COMPLETED", "status")
    assert run.content, "no content"
    told = await names(client.run_agent_stream("solo-agent", "hello", session_id=session("solo")))
    same((told[0], told[-1]), ("RunStarted", "RunCompleted"), "ends")
    assert {"ToolCallStarted", "ToolCallCompleted", "RunContent"} <= set(told), told


@check
async def a_team_runs_by_itself(client):
    run = await client.run_team("research-team", "hello", session_id=session("team"))
    same(text(run.status), "COMPLETED", "status")
    assert run.content, "no content"


@check
async def a_remote_workflow_behaves_like_a_local_one(client):
    remote = RemoteWorkflow(base_url=BASE, workflow_id=CONTENT)
    same((remote.id, remote.name), (CONTENT, "Content Creation Workflow"), "description")
    run = await remote.arun("AI trends", session_id=session("remote"))
    same(text(run.status), "COMPLETED", "status")
    told = await names(remote.arun("AI trends", stream=True, session_id=session("remote-stream")))
    same((told[0], told[-1]), ("WorkflowStarted", "WorkflowCompleted"), "ends")
    same(await remote.acancel_run("no-such-run"), True, "cancelling an unknown run")


@check
async def a_run_that_asks_for_a_confirmation_is_continued(client):
    run = await client.run_workflow("hitl-confirm", "go", session_id=session("confirm"))
    same((text(run.status), run.is_paused, text(run.pause_kind)), ("PAUSED", True, "step"), "pause")
    same([asked.step_name for asked in run.steps_requiring_confirmation], ["guarded"], "what is asked")
    for asked in run.step_requirements:
        asked.confirm()
    run = await client.continue_workflow_run(
        "hitl-confirm", run.run_id, run.step_requirements, session_id=session("confirm")
    )
    same((text(run.status), run.content), ("COMPLETED", "plain:go"), "end")


@check
async def a_run_that_asks_for_input_is_continued_in_a_stream(client):
    run = await client.run_workflow("hitl-input", "go", session_id=session("input"))
    for asked in run.steps_requiring_user_input:
        asked.set_user_input(colour="red", size=2)
    told = await names(
        client.continue_workflow_run_stream("hitl-input", run.run_id, run.step_requirements, session_id=session("input"))
    )
    step = ["StepStarted", "StepOutput", "StepCompleted"]
    same(told, ["StepContinued", *step, *step, "WorkflowCompleted"], "events")


@check
async def a_router_that_asks_takes_the_route_that_was_chosen(client):
    run = await client.run_workflow("hitl-router", "go", session_id=session("router"))
    same(run.steps_requiring_route[0].available_choices, ["route a", "route b"], "choices")
    run.step_requirements[0].select("route b")
    run = await client.continue_workflow_run(
        "hitl-router", run.run_id, run.step_requirements, session_id=session("router")
    )
    same((text(run.status), [step.step_name for step in run.step_results]), ("COMPLETED", ["pick", "after"]), "end")


@check
async def a_pause_is_streamed(client):
    told = await names(client.run_workflow_stream("hitl-confirm", "go", session_id=session("pause")))
    step = ["StepStarted", "StepOutput", "StepCompleted"]
    same(told, ["WorkflowStarted", *step, "StepPaused", "WorkflowPaused"], "events")


@check
async def a_remote_workflow_is_continued_like_a_local_one(client):
    remote = RemoteWorkflow(base_url=BASE, workflow_id="hitl-confirm")
    run = await remote.arun("go", session_id=session("remote-pause"))
    for asked in run.step_requirements:
        asked.reject()
    run = await remote.acontinue_run(run)
    same((text(run.status), run.content), ("COMPLETED", "plain:go"), "end")
    same([(step.step_name, step.success) for step in run.step_results], [("before", True), ("after", True)], "steps")


def event_of(frame):
    """An event, in either of the two forms in which a socket sends it."""
    for line in frame.splitlines():
        if line.startswith("data: "):
            return json.loads(line[len("data: ") :])
    return json.loads(frame)


async def connected():
    socket = await websockets.connect(SOCKET)
    first = event_of(await asyncio.wait_for(socket.recv(), PATIENCE))
    same(first["event"], "connected", "first frame")
    return socket


async def heard(socket, until):
    """Events up to the first for which `until` holds."""
    events = []
    while not events or not until(events[-1]):
        events.append(event_of(await asyncio.wait_for(socket.recv(), PATIENCE)))
    return events


def is_end(event):
    return event["event"] in ("WorkflowCompleted", "WorkflowError", "WorkflowCancelled")


def indices(events):
    return [event["event_index"] for event in events if "event_index" in event]


async def started(message):
    socket = await connected()
    start = {"action": "start-workflow", "workflow_id": CONTENT, "message": message, "session_id": session("socket")}
    await socket.send(json.dumps(start))
    return socket


async def reconnected(run_id, last_event_index):
    socket = await connected()
    frame = {"action": "reconnect", "run_id": run_id, "last_event_index": last_event_index, "workflow_id": CONTENT}
    await socket.send(json.dumps(frame))
    return socket


@check
async def a_socket_tells_every_event_without_a_gap(client):
    socket = await started("AI trends")
    events = await heard(socket, is_end)
    same(indices(events), list(range(len(events))), "indices")
    await socket.close()


@check
async def a_client_that_left_catches_up_and_goes_on(client):
    socket = await started("AI trends DELAY=0.5 CHUNKDELAY=0.05")
    before = await heard(socket, lambda event: event["event"] == "TeamModelRequestCompleted")
    await socket.close()
    run_id, last = before[0]["run_id"], before[-1]["event_index"]
    # Leaves time for events that nobody hears.
    await polled(CONTENT, run_id, {"RUNNING"})
    async with httpx.AsyncClient(base_url=BASE) as http:
        await http.get(f"/workflows/{CONTENT}/runs/{run_id}", params={"wait": "1s"})
    socket = await reconnected(run_id, last)
    after = await heard(socket, is_end)
    notices = [event["event"] for event in after if "event_index" not in event]
    same(notices, ["catch_up", "subscribed"], "notices")
    assert after[0]["missed_events"] > 0, after[0]
    whole = indices(before) + indices(after)
    same(whole, list(range(len(whole))), "indices before and after")
    await socket.close()


@check
async def a_client_without_an_index_is_told_everything_again(client):
    socket = await started("AI trends DELAY=0.5 CHUNKDELAY=0.05")
    before = await heard(socket, lambda event: event["event"] == "TeamModelRequestCompleted")
    await socket.close()
    socket = await reconnected(before[0]["run_id"], None)
    after = await heard(socket, is_end)
    same(after[0]["event"], "catch_up", "first notice")
    whole = indices(after)
    same(whole, list(range(len(whole))), "indices")
    await socket.close()


@check
async def a_run_that_is_over_is_replayed_whole_whatever_the_index(client):
    socket = await started("AI trends")
    events = await heard(socket, is_end)
    await socket.close()
    for index in (None, 0, 10):
        socket = await reconnected(events[0]["run_id"], index)
        again = await heard(socket, is_end)
        same(again[0]["event"], "replay", "first notice")
        same(again[0]["total_events"], len(events), "announced events")
        same(again[1:], events, f"events after index {index}")
        await socket.close()


async def main():
    client = AgentOSClient(base_url=BASE)
    failed = 0
    for function in CHECKS:
        words = function.__name__.replace("_", " ")
        try:
            await asyncio.wait_for(function(client), 2 * PATIENCE)
        except Exception as error:
            failed += 1
            print(f"FAILED  {words}: {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        else:
            print(f"ok      {words}", flush=True)
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold")
    sys.exit(1 if failed else 0)


asyncio.run(main())
