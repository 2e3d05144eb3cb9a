//! Calls of files whose end is not heard of: who is asked, who is called again, and under which key.

use outlive::agent::outbound::Outbound;
use outlive::prelude::*;
use outlive::{File, OpenQuestion, QuestionKind};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\npaid";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy";

/// A server of which each test says what it answers to the first, the second … request, if anything; and the heads of the
/// requests so far.
struct Site {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn new(answer: impl Fn(usize, &str) -> Option<&'static str> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heads, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let seen = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, seen, answer) = (stream.unwrap(), seen.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let (mut head, mut line) = (String::new(), String::new());
                    while reader.read_line(&mut line).unwrap() > 2 {
                        head.push_str(&line);
                        line.clear();
                    }
                    let length = value(&head, "content-length").map_or(0, |length| length.parse().unwrap());
                    reader.read_exact(&mut vec![0; length]).unwrap();
                    let number = {
                        let mut seen: std::sync::MutexGuard<'_, Vec<String>> = seen.lock().unwrap();
                        seen.push(head.clone());
                        seen.len()
                    };
                    let _ = answer(number, &head).map(|answer| stream.write_all(answer.as_bytes()));
                });
            }
        });
        Self { address, heads }
    }

    /// How often it was asked for this path.
    fn count(&self, path: &str) -> usize {
        self.heads.lock().unwrap().iter().filter(|head| head.contains(&format!(" {path} "))).count()
    }

    /// A workflow with these steps, in which ADDRESS stands for the server.
    fn workflow(&self, steps: &str) -> Workflow {
        let text = format!("version: 1\nworkflows:\n  w:\n    steps:\n{steps}\n").replace("ADDRESS", &self.address);
        self.file(&text)
    }

    fn file(&self, text: &str) -> Workflow {
        let file = File::parse("w.yaml", text).unwrap();
        let file = file.outbound(Outbound::default().allow(&self.address).unwrap()).allow_commands(true);
        let call = ToolCall::new("call-1", "pay", "{}");
        let model = ScriptedModel::replies([ModelResponse::calls(vec![call]), ModelResponse::text("done")]);
        file.model("demo", model).db(InMemoryDb::new()).workflows().unwrap().remove(0)
    }
}

/// The value of a header.
fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)))
        .map(|it| it.1)
}

/// Nobody hears any more of whoever asked.
fn silence() -> ! {
    loop {
        std::thread::park();
    }
}

/// Starts a run and waits until it asks what came of something.
async fn asked(workflow: &Workflow) -> (RunHandle, OpenQuestion) {
    let run = workflow.run("x").background().await.unwrap();
    let paused = run.wait().await.unwrap();
    assert_eq!(paused.status, RunStatus::Paused, "{:?}", paused.content);
    let open = run.questions().await.unwrap().remove(0);
    assert_eq!(open.question.kind, QuestionKind::Outcome, "{:?}", open.question.message);
    (run, open)
}

async fn answered(workflow: &Workflow, run: &RunHandle, open: &OpenQuestion, answer: Answer) -> WorkflowRunOutput {
    workflow.continue_run(run.run_id().as_str(), [(open.id().clone(), answer)], Some("ada")).await.unwrap();
    run.wait().await.unwrap()
}

#[tokio::test]
async fn a_request_that_is_tried_again_has_the_key_of_the_first() {
    let site = Site::new(|number, _| Some(if number < 3 { BUSY } else { FINE }));
    let workflow = site.workflow(
        "      - { step: Pay, http: { url: \"http://ADDRESS/pay\", method: POST }, effect: idempotent, retry: { times: 2, \
         backoff: 0s } }",
    );
    let run = workflow.run("x").await.unwrap();
    assert_eq!(run.text(), "paid");
    let heads = site.heads.lock().unwrap().clone();
    let keys: Vec<_> = heads.iter().map(|head| value(head, "idempotency-key").unwrap()).collect();
    assert_eq!(keys, vec![format!("{}/0", run.run_id); 3]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_that_is_tried_again_has_the_key_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let script = format!("echo $OUTLIVE_IDEMPOTENCY_KEY >> {0}; [ $(wc -l < {0}) = 2 ] || exit 75", log.display());
    let workflow = Site::new(|_, _| None).workflow(&format!(
        "      - {{ step: Pay, command: [sh, -c, '{script}'], effect: idempotent, retry: {{ times: 2, backoff: 0s }} }}"
    ));
    let run = workflow.run("x").await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{0}/0\n{0}/0\n", run.run_id));
}

#[tokio::test]
async fn of_a_call_that_must_never_start_twice_and_takes_too_long_people_are_asked() {
    let site = Site::new(|number, _| if number == 1 { silence() } else { Some(FINE) });
    let workflow = site.workflow(
        "      - { step: Pay, http: { url: \"http://ADDRESS/pay\", method: POST }, effect: once, timeout: 1s, retry: { \
         times: 3, backoff: 0s } }",
    );
    let (run, open) = asked(&workflow).await;
    let message = open.question.message.clone().unwrap();
    assert!(message.contains("\"Pay\" took longer than its limit of 1000 ms"), "{message}");
    assert_eq!(site.count("/pay"), 1);
    let run = answered(&workflow, &run, &open, Answer::Retry).await;
    assert_eq!((run.text(), site.count("/pay")), ("paid".into(), 2));
}

#[tokio::test]
async fn what_is_tried_again_around_such_a_call_asks_first() {
    let site = Site::new(|number, _| if number == 1 { silence() } else { Some(FINE) });
    let workflow = site.workflow(
        "      - sequence: Both\n        timeout: 1s\n        retry: { times: 3, backoff: 0s }\n        steps: [{ step: Pay, http: { \
         url: \"http://ADDRESS/pay\", method: POST }, effect: once }]",
    );
    let (run, open) = asked(&workflow).await;
    let message = open.question.message.clone().unwrap();
    assert!(message.contains("limit of 1000 ms; that broke off step \"Pay\""), "{message}");
    assert_eq!((&*open.question.step_name, site.count("/pay")), ("Both", 1));
    let run = answered(&workflow, &run, &open, Answer::Retry).await;
    assert_eq!((run.text(), site.count("/pay")), ("paid".into(), 2));
}

#[tokio::test]
async fn what_fails_beside_such_a_call_asks_before_both_are_tried_again() {
    let paying = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let site = Site::new(move |_, head| {
        let (is_paying, told) = &*paying;
        let mut is_paying = is_paying.lock().unwrap();
        if head.contains(" /pay ") {
            *is_paying = true;
            told.notify_all();
            drop(is_paying);
            silence()
        }
        while !*is_paying {
            is_paying = told.wait(is_paying).unwrap();
        }
        Some(BUSY)
    });
    let workflow = site.workflow(
        "      - parallel: Both\n        retry: { times: 3, backoff: 0s }\n        steps:\n          - { step: Pay, http: { url: \
         \"http://ADDRESS/pay\", method: POST }, effect: once }\n          - { step: Look, http: { url: \"http://ADDRESS/look\" } }",
    );
    let (run, open) = asked(&workflow).await;
    let message = open.question.message.clone().unwrap();
    assert!(message.contains("answered 503") && message.contains("that broke off step \"Pay\""), "{message}");
    let done = Answer::Result { result: "paid by hand".into() };
    let run = answered(&workflow, &run, &open, done).await;
    assert_eq!((run.status, site.count("/pay")), (RunStatus::Completed, 1));
}

#[tokio::test]
async fn of_a_lost_connection_people_are_asked_where_it_must_not_happen_twice() {
    let lost_first = |number: usize, _: &str| (number > 1).then_some(FINE);
    for effect in ["once", "idempotent"] {
        let site = Site::new(lost_first);
        let workflow = site.workflow(&format!(
            "      - {{ step: Pay, http: {{ url: \"http://ADDRESS/pay\", method: POST }}, effect: {effect}, retry: {{ times: 3, \
             backoff: 0s }} }}"
        ));
        let run = match effect {
            "once" => {
                let (run, open) = asked(&workflow).await;
                let message = open.question.message.clone().unwrap();
                assert!(message.contains("127.0.0.1 broke off"), "{message}");
                assert_eq!(site.count("/pay"), 1);
                answered(&workflow, &run, &open, Answer::Retry).await
            }
            _ => workflow.run("x").await.unwrap(),
        };
        assert_eq!((run.text(), site.count("/pay")), ("paid".into(), 2));
    }
}

#[tokio::test]
async fn a_tools_lost_connection_is_told_to_people_and_not_to_the_model() {
    for cut in [None, Some("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\npai")] {
        let site = Site::new(move |number, _| if number == 1 { cut } else { Some(FINE) });
        let text = format!(
            "version: 1\nmodel: demo\ntools:\n  pay: {{ http: {{ url: \"http://{}/pay\", method: POST }}, description: Pays, effect: \
             once }}\nagents: {{ a: {{ tools: [pay] }} }}\nworkflows: {{ w: {{ steps: [{{ step: A, agent: a }}] }} }}\n",
            site.address
        );
        let workflow = site.file(&text);
        let (run, open) = asked(&workflow).await;
        let message = format!("{:?}", open.question);
        assert!(message.contains("lost its connection"), "{message}");
        assert_eq!(site.count("/pay"), 1);
        let done = Answer::Result { result: "paid by hand".into() };
        let run = answered(&workflow, &run, &open, done).await;
        assert_eq!((run.text(), site.count("/pay")), ("done".into(), 1));
    }
}
