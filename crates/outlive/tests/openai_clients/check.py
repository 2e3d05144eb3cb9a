"""Holds a server against OpenAI's own SDK: runs as responses in background mode, through a server that is killed.

    python check.py APP DATABASE

APP is the example `agno_app`, which this script starts on the file DATABASE, kills and starts again. OPENAI_BASE_URL names
its model server, which waits before its answer if a message says `DELAY=seconds`, and before each piece of it if one says
`CHUNKDELAY=seconds`. Prints one line a check. The exit code is 0 when all of them hold.
"""

import os
import socket
import subprocess
import sys
import time
import traceback

import openai

APP, DATABASE = sys.argv[1:3]
PATIENCE = 60
AGENT, WORKFLOW = "agent:solo-agent", "content-creation-workflow"
WAITING = {"queued", "in_progress"}
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def same(actual, expected, what):
    assert actual == expected, f"{what}: expected {expected!r}, is {actual!r}"


class Server:
    """The example as a process on a port of its own, which stays the same when it is started again."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="not-a-key", timeout=PATIENCE)

    def start(self):
        environment = os.environ | {"PORT": str(self.port), "AGNO_DB": DATABASE, "OPENAI_API_KEY": "not-a-key"}
        self.process = subprocess.Popen([APP], env=environment, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("serving "):
                return
        raise AssertionError("the server ended before it served")

    def kill(self):
        """As by `kill -9`."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def polled(client, response):
    """The response once it is over, and the statuses seen on the way."""
    deadline, seen = time.monotonic() + PATIENCE, [response.status]
    while response.status in WAITING:
        assert time.monotonic() < deadline, f"{response.id} stays {seen}"
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
        if response.status != seen[-1]:
            seen.append(response.status)
    return response, seen


def whole(client, response_id):
    return list(client.responses.retrieve(response_id, stream=True))


def dumped(events):
    return [event.model_dump() for event in events]


@check
def what_is_served_are_models(server):
    ids = [model.id for model in server.client.models.list()]
    assert {AGENT, WORKFLOW, "team:research-team", "fn-pipeline"} <= set(ids), ids
    same(server.client.models.retrieve(AGENT).id, AGENT, "a model")


@check
def a_response_is_started_and_polled(server):
    client = server.client
    started = client.responses.create(
        model=AGENT, input="hello DELAY=0.3", background=True, instructions="Be brief.", metadata={"order": "7"}
    )
    same((started.status, started.background, started.output_text), ("queued", True, ""), "as accepted")
    done, seen = polled(client, started)
    same((done.status, seen[0]), ("completed", "queued"), "the end")
    same((done.metadata, done.instructions), ({"order": "7"}, "Be brief."), "what was given")
    assert done.output_text and done.usage.total_tokens > 0, done
    items = list(client.responses.input_items.list(done.id))
    same(items[0].content[0].text, "Be brief.\n\nhello DELAY=0.3", "what was asked")
    waited = client.responses.create(model="fn-pipeline", input="hello")
    same((waited.status, waited.background), ("completed", False), "who waits")
    same(client.responses.retrieve(waited.id), waited, "who polls")


@check
def a_stream_is_told_from_every_event_on(server):
    client = server.client
    events = list(client.responses.create(model=AGENT, input="hello", background=True, stream=True))
    same([event.type for event in events[:3]], ["response.created", "response.queued", "response.in_progress"], "begins")
    same(events[-1].type, "response.completed", "ends")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    same(text, events[-1].response.output_text, "the text")
    response_id = events[0].response.id
    for place, event in enumerate(events):
        rest = client.responses.retrieve(response_id, stream=True, starting_after=event.sequence_number)
        same(dumped(rest), dumped(events[place + 1 :]), f"after {event.sequence_number}")
    same(client.responses.retrieve(response_id), events[-1].response, "who polls")


@check
def the_helper_for_streams_puts_a_response_together(server):
    with server.client.responses.stream(model=AGENT, input="hello", background=True) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    same(final.output_text, snapshots[-1], "the text")
    with server.client.responses.stream(response_id=final.id, starting_after=1000) as stream:
        same(stream.get_final_response().output_text, final.output_text, "the text again")


@check
def a_conversation_goes_on(server):
    client = server.client
    first = client.responses.create(model=AGENT, input="one")
    second = client.responses.create(model=AGENT, input="two", previous_response_id=first.id)
    same(second.conversation, first.conversation, "the conversation")
    same(second.previous_response_id, first.id, "the response before")


@check
def a_response_is_cancelled_and_deleted(server):
    client = server.client
    started = client.responses.create(model=AGENT, input="hello DELAY=30", background=True)
    same(client.responses.cancel(started.id).status, "cancelled", "cancelled")
    same(client.responses.cancel(started.id).status, "cancelled", "cancelled twice")
    same(client.responses.retrieve(started.id).status, "cancelled", "polled")
    last = whole(client, started.id)[-1]
    same((last.type, last.response.status), ("response.incomplete", "cancelled"), "followed")
    client.responses.delete(started.id)
    try:
        client.responses.retrieve(started.id)
        raise AssertionError("it is still there")
    except openai.NotFoundError as error:
        same(error.type, "invalid_request_error", "the kind of error")


@check
def what_is_wrong_is_said_in_the_sdks_errors(server):
    client = server.client
    for call, kind, param in [
        (lambda: client.responses.create(model="nobodys", input="x"), openai.NotFoundError, None),
        (lambda: client.responses.create(model=AGENT, input="x", store=False), openai.BadRequestError, "store"),
        (lambda: client.responses.create(model=AGENT, input="x", max_output_tokens=5), openai.BadRequestError, "max_output_tokens"),
        (lambda: client.responses.retrieve("resp_nobodys"), openai.NotFoundError, None),
    ]:
        try:
            call()
            raise AssertionError(f"no {kind}")
        except kind as error:
            same(error.param, param, "the parameter")


@check
def a_response_outlives_its_server(server):
    """Killed while it waits for its model, and while the answer comes: the client goes on from the last event it has."""
    client = server.client
    for model, message, until in [
        (WORKFLOW, "AI trends DELAY=0.4", "response.in_progress"),
        (AGENT, "hello CHUNKDELAY=0.3", "response.output_text.delta"),
    ]:
        events = []
        try:
            for event in client.responses.create(model=model, input=message, background=True, stream=True):
                events.append(event)
                if event.type == until:
                    break
            server.kill()
        finally:
            server.start()
        response_id, cursor = events[0].response.id, events[-1].sequence_number
        assert events[-1].type == until, [event.type for event in events]
        events += client.responses.retrieve(response_id, stream=True, starting_after=cursor)
        same(events[-1].type, "response.completed", "ends")
        numbers = [event.sequence_number for event in events]
        same(numbers, sorted(set(numbers)), "the numbers")
        same(dumped(events), dumped(whole(client, response_id)), "nothing is missing or told twice")
        done, _ = polled(client, client.responses.retrieve(response_id))
        same(done, events[-1].response, "who polls")
        assert done.output_text, done


@check
def a_response_that_nobody_follows_outlives_its_server(server):
    client = server.client
    started = client.responses.create(model=WORKFLOW, input="AI trends DELAY=0.4", background=True)
    server.kill()
    server.start()
    done, _ = polled(client, started)
    same(done.status, "completed", "the end")
    assert done.output_text, done


def main():
    server, failed = Server(), 0
    server.start()
    try:
        for function in CHECKS:
            try:
                function(server)
                print(f"ok    {function.__name__}")
            except Exception:
                failed += 1
                print(f"FAIL  {function.__name__}\n{traceback.format_exc()}")
    finally:
        server.kill()
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold with openai {openai.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
