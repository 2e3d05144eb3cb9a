//! Workflow files that nobody should write: each is refused where it is wrong, at once, and none takes the process down.

use outlive::prelude::*;
use outlive::{File, InvalidFile};
use std::fmt::Write;

fn invalid(text: &str) -> InvalidFile {
    let file = File::parse("x.yaml", text);
    match file.and_then(|file| file.model("demo", ScriptedModel::replies([])).definitions()) {
        Err(outlive::Error::File(invalid)) => invalid,
        Err(other) => panic!("{other}"),
        Ok(built) => panic!("{built:?} is fine: {text}"),
    }
}

/// The problems of a text, as lines.
fn problems(text: &str) -> String {
    invalid(text).to_string()
}

const HEAD: &str = "version: 1\nmodel: demo\nagents: { a: {} }\n";

/// A document whose only workflow has these steps, each on a line of its own from line 7 on.
fn with_steps(steps: &str) -> String {
    format!("{HEAD}workflows:\n  w:\n    steps:\n{steps}\n")
}

fn with_tool(tool: &str) -> String {
    format!("{HEAD}tools:\n  t: {tool}\nworkflows: {{ w: {{ steps: [{{ step: A, agent: a }}] }} }}\n")
}

#[test]
fn workflows_that_repeat_each_other_are_counted_before_they_are_built() {
    let mut text = format!("{HEAD}workflows:\n");
    for level in 0..20 {
        let next = level + 1;
        writeln!(
            text,
            "  w{level:02}: {{ steps: [{{ step: A, workflow: w{next:02} }}, {{ step: B, workflow: w{next:02} }}] }}"
        )
        .unwrap();
    }
    writeln!(text, "  w20: {{ steps: [{{ step: A, agent: a }}] }}").unwrap();
    let said = problems(&text);
    assert!(said.contains("more than 10000 steps, those of inner workflows included"), "{said}");
    assert!(said.lines().all(|line| line.starts_with("x.yaml:")), "{said}");
}

#[test]
fn a_long_row_of_workflows_or_teams_overflows_no_stack() {
    let mut text = format!("{HEAD}workflows:\n");
    for level in 0..1_000 {
        writeln!(text, "  w{level}: {{ steps: [{{ step: A, workflow: w{} }}] }}", level + 1).unwrap();
    }
    writeln!(text, "  w1000: {{ steps: [{{ step: A, agent: a }}] }}").unwrap();
    assert!(problems(&text).contains("more than 32 deep inside each other"), "{}", problems(&text));

    let mut text = format!("{HEAD}teams:\n");
    for level in 0..1_000 {
        writeln!(text, "  t{level}: {{ members: [t{}] }}", level + 1).unwrap();
    }
    writeln!(text, "  t1000: {{ members: [a] }}\nworkflows: {{ w: {{ steps: [{{ step: A, team: t0 }}] }} }}").unwrap();
    assert!(problems(&text).contains("more than 32 deep"), "{}", problems(&text));
}

#[test]
fn teams_that_share_members_are_counted_before_they_are_asked() {
    let mut text = format!("{HEAD}teams:\n");
    for level in 0..40 {
        let members = if level == 39 { "[a]".to_owned() } else { format!("[l{0}, r{0}]", level + 1) };
        writeln!(text, "  l{level}: {{ members: {members} }}\n  r{level}: {{ members: {members} }}").unwrap();
    }
    writeln!(text, "workflows: {{ w: {{ steps: [{{ step: A, team: l0 }}] }} }}").unwrap();
    let said = problems(&text);
    assert!(said.contains("it has more than 1000 members with those of its teams"), "{said}");
}

#[test]
fn a_file_with_very_many_workflows_is_not_kept_as_often() {
    let mut text = format!("{HEAD}workflows:\n");
    for number in 0..1_500 {
        writeln!(text, "  w{number}: {{ steps: [{{ step: A, agent: a, description: \"{}\" }}] }}", "x".repeat(400))
            .unwrap();
    }
    let said = problems(&text);
    assert!(said.contains("definition_too_large: from here on its workflows come to more than 64 MiB"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn numbers_and_times_are_refused_where_they_stand() {
    for (step, place, words) in [
        ("{ step: A, agent: a, retry: { times: 5000000000 } }", "7:46", "at most 4294967295"),
        ("{ step: A, agent: a, retry: { times: 1.5 } }", "7:46", "a whole number"),
        ("{ step: A, agent: a, retry: { times: 007 } }", "7:46", "a whole number"),
        ("{ step: A, agent: a, timeout: 99999999999999999999d }", "7:39", "longer than anybody waits"),
        ("{ step: A, agent: a, timeout: 99999d }", "7:39", "longer than anybody waits"),
        ("{ step: A, agent: a, timeout: soon }", "7:39", "it must look like 30s"),
        ("{ loop: A, max_iterations: 99999999999, steps: [{ step: B, agent: a }] }", "7:36", "at most 4294967295"),
    ] {
        let said = problems(&with_steps(&format!("      - {step}")));
        assert!(said.starts_with(&format!("x.yaml:{place}: ")) && said.contains(words), "{step}: {said}");
        assert_eq!(said.lines().count(), 1, "{step}: {said}");
    }
    // However it is written, it is three.
    for three in ["3", "3.0", "3e0", "0x3", "+3"] {
        let text =
            with_steps(&format!("      - {{ loop: A, max_iterations: {three}, steps: [{{ step: B, agent: a }}] }}"));
        let file = File::parse("x.yaml", text).unwrap().model("demo", ScriptedModel::replies([]));
        let json = file.definitions().unwrap()[0].to_json().to_string();
        assert!(json.contains("\"max_iterations\":3"), "{three}: {json}");
    }
}

#[test]
fn what_nobody_sees_is_refused_and_ends_no_file() {
    for (hidden, code) in [("\u{0}", "U+0000"), ("\u{1b}", "U+001B"), ("\u{202e}", "U+202E"), ("\u{2066}", "U+2066")] {
        let said = problems(&with_steps(&format!("      - {{ step: A, agent: a }} # é{hidden}")));
        assert!(said.starts_with("x.yaml:7:34: ") && said.contains(code), "{hidden:?}: {said}");
        let behind = format!("{}{hidden}\nrubbish", with_steps("      - { step: A, agent: a }"));
        assert!(problems(&behind.replace('\n', "\r\n")).starts_with("x.yaml:8:1: "), "{hidden:?}");
    }
    let said = problems(&with_steps("      - { step: \"A\\e[31m\\nB\", agent: a }"));
    assert!(said.starts_with("x.yaml:7:9: its name is one line of text"), "{said}");
    let said = problems(&with_steps("      - { step: ' ', agent: a }"));
    assert_eq!(said, "x.yaml:7:9: its name must not be empty");
}

#[test]
fn secrets_are_refused_wherever_they_stand() {
    let key = "sk-abcdefghijklmnopqrstuvwxyz123456";
    let plain = with_steps("      - { step: A, agent: a }");
    let of_model = |fields: &str| {
        plain.replace("model: demo\n", &format!("models: {{ m: {{ model: openai:x, {fields} }} }}\nmodel: m\n"))
    };
    let of_call = |http: &str| with_tool(&format!("{{ http: {{ {http} }}, description: Asks }}"));
    for text in [
        plain.replace("model: demo", &format!("model: demo # {key}")),
        plain.replace("agent: a }", "agent: a, description: AIzaSyA1234567890abcdefghijklmnopqrstuv }"),
        plain.replace("agent: a }", "agent: a, description: 'use ghp_abcdefghijklmnopqrstuvwxyz0123456789!' }"),
        of_model("parameters: { api_key: hunter2hunter2 }"),
        of_model("base_url: 'https://user:hunter2hunter2@models.example.org/v1'"),
        of_call(&format!("url: 'https://api.example.org/', headers: {{ {key}: x }}")),
        of_call("url: 'https://api.example.org/', headers: { X-Auth-Token: hunter2hunter2 }"),
        of_call("url: 'https://api.example.org/?api_key=hunter2hunter2'"),
        of_call("url: 'https://api.example.org/?token=hunter2hunter2'"),
        of_call("url: 'https://api.example.org/?q=x&key=hunter2hunter2'"),
        of_call("url: 'https://api.example.org/?access_key=hunter2hunter2'"),
        of_call("url: 'https://hunter2hunter2@api.example.org/'"),
        of_call("url: 'https://api.example.org/', headers: { Ocp-Apim-Subscription-Key: hunter2hunter2 }"),
        of_model("base_url: 'https://hunter2hunter2@models.example.org/v1'"),
        of_model("base_url: 'https://models.example.org/v1?key=hunter2hunter2'"),
        of_model("parameters: { token: hunter2hunter2 }"),
        with_tool("{ mcp: { url: 'https://mcp.example.org/?token=hunter2hunter2' } }"),
        with_tool("{ command: [curl, 'https://x.example.org/?key=hunter2hunter2'], description: Asks, effect: read }"),
        with_tool("{ command: [psql, --password=hunter2hunter2], description: Asks, effect: read }"),
        with_tool("{ command: [psql, --password, hunter2hunter2], description: Asks, effect: read }"),
        with_tool("{ mcp: { command: [server, --token=hunter2hunter2] } }"),
        of_model("api_key: hunter2hunter2"),
        format!("{plain}password: hunter2hunter2\n"),
        format!("{plain}{key}: x\n"),
    ] {
        let said = problems(&text);
        assert!(said.contains("looks like a secret"), "{text}: {said}");
        assert!(!said.contains("hunter2") && !said.contains(key), "{said}");
    }
    let said = problems(&of_call("url: 'https://api.example.org/', headers: { Authorization: 'Bearer ${TOKEN}' }"));
    assert!(said.contains("written ${env:NAME} here"), "{said}");
    for variable in ["env: [hunter2hunter2], command: [psql]", "command: [psql], env: ['hunter2 hunter2']"] {
        let said = problems(&with_tool(&format!("{{ {variable}, description: Asks, effect: read }}")));
        assert!(
            said.contains("here stands the name of an environment variable") && !said.contains("hunter2"),
            "{said}"
        );
    }
    let said = problems(&of_model("api_key: HOUSE_KEY"));
    assert!(said.contains("unknown key \"api_key\": did you mean \"api_key_variable\"?"), "{said}");
    for fine in [
        plain.replace("model: demo", "model: demo # the token is in the environment, see https://example.org/#tokens"),
        of_call("url: 'https://api.example.org/?token={token}'").replace(
            "description: Asks",
            "description: Asks, arguments: { type: object, properties: { token: { type: string } } }",
        ),
        of_model("parameters: { max_tokens: 100, stop_token: end, prompt_cache_key: news }"),
        with_tool("{ command: [sort, --key=2, '--token={t}', --token-file=/x], description: Sorts, effect: read }")
            .replace(
                "description: Sorts",
                "description: Sorts, arguments: { type: object, properties: { t: { type: string } } }",
            ),
        with_tool(
            "{ command: [sh, -c, 'curl --token=$TOKEN'], env: [TOKEN, http_proxy], description: A, effect: read }",
        ),
        with_tool("{ command: [git, ls-remote, 'ssh://git@example.org/x'], description: Lists, effect: read }"),
        plain.replace("agent: a }", "agent: a, description: 'see https://example.org/?key=NAME' }"),
    ] {
        assert!(File::parse("x.yaml", &*fine).is_ok(), "{fine}");
    }
}

#[test]
fn a_wait_that_is_longer_than_the_longest_is_refused() {
    let plain = with_steps("      - { step: A, agent: a }");
    for (text, place, words) in [
        (
            plain.replace("agent: a }", "agent: a, retry: { times: 2, backoff: 5m, backoff_max: 1s } }"),
            "7:58",
            "longer than `backoff_max`:",
        ),
        (plain.replace("agent: a }", "agent: a, retry: { times: 2, backoff: 10m } }"), "7:58", "5m unless said"),
        (
            plain.replace("{ a: {} }", "{ a: { retry: { times: 2, backoff: 2s, backoff_max: 1s } } }"),
            "3:44",
            "backoff_max",
        ),
    ] {
        let said = problems(&text);
        assert!(said.starts_with(&format!("x.yaml:{place}: ")) && said.contains(words), "{text}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn an_address_of_a_model_is_checked_where_it_stands() {
    for (base, words) in [
        ("nonsense", "base_url is not a valid address"),
        ("'ftp://models.example.org'", "base_url is not an http or https address"),
    ] {
        let text = format!(
            "version: 1\nmodel: m\nmodels: {{ m: {{ model: 'ollama:x', base_url: {base} }} }}\nagents: {{ a: {{}} }}\nworkflows: \
             {{ w: {{ steps: [{{ step: A, agent: a }}] }} }}\n"
        );
        let said = problems(&text);
        assert!(said.starts_with("x.yaml:3:45: ") && said.contains(words), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_call_is_checked_before_it_is_made() {
    let of_call = |http: &str| {
        let arguments = "arguments: { type: object, properties: { q: { type: string } } }";
        problems(&with_tool(&format!("{{ http: {{ {http} }}, description: Asks, {arguments} }}")))
    };
    for (http, words) in [
        ("url: 'https:///{q}/a.example.org'", "may not choose the host"),
        ("url: 'https:\\/{q}/a.example.org'", "may not choose the host"),
        ("url: 'https://example.org:{q}/'", "may not choose the host"),
        ("url: 'https://example.org/{q}', headers: { X-User: '{q}' }", "has a place for `q`"),
        ("url: 'https://example.org/', headers: { Host: other.example.org }", "is the request's own"),
        ("url: 'https://example.org/', headers: { Content-Length: '5' }", "is the request's own"),
        ("url: 'https://example.org/', headers: { idempotency-key: mine }", "is the request's own"),
        ("url: 'https://example.org/', headers: { x-a: '1', X-A: '2' }", "is there twice"),
        ("url: 'https://example.org/', headers: { X-A: '${env:}' }", "names no variable"),
        ("url: 'https://example.org/', headers: { X-A: '${env:A' }", "names no variable"),
    ] {
        let said = of_call(http);
        assert!(said.starts_with("x.yaml:5:8: ") && said.contains(words), "{http}: {said}");
    }
    let said = of_call("url: 'https://example.org/', headers: { A: '${env:NOBODY_1}', B: '${env:NOBODY_2}' }");
    assert!(said.contains("NOBODY_1, which is not set") && said.contains("NOBODY_2, which is not set"), "{said}");
}

#[test]
fn schemas_that_mean_nothing_are_refused_where_they_stand() {
    let plain = with_steps("      - { step: A, agent: a }");
    for (text, place) in [
        (plain.replace("    steps:", "    input: { type: objekt }\n    steps:"), "6:20"),
        (plain.replace("    steps:", "    input: { $ref: 'http://169.254.169.254/' }\n    steps:"), "6:20"),
        (plain.replace("{ a: {} }", "{ a: { output: { properties: { n: { type: int } } } } }"), "3:51"),
        (
            with_tool(
                "{ http: { url: 'https://example.org/' }, description: Asks, arguments: { properties: { n: { type: int } } } }",
            ),
            "5:104",
        ),
    ] {
        let said = problems(&text);
        let (at, rest) = said.split_once(": ").unwrap();
        assert_eq!(at, format!("x.yaml:{place}"), "{said}");
        assert!(rest.starts_with("in this JSON Schema: "), "{said}");
    }
}

#[test]
fn a_mistake_in_cel_has_its_place_in_every_style_of_text() {
    let when = |text: &str| {
        problems(&with_steps(&format!(
            "      - condition: C\n        when: {text}\n        then: [{{ step: B, agent: a }}]"
        )))
    };
    for (text, place) in [
        ("odd(1)", "8:15"),
        ("'odd(1)'", "8:16"),
        ("\"true && odd(1)\"", "8:24"),
        ("|\n          true &&\n            odd(1)", "10:13"),
        (">-\n          true &&\n          odd(1)", "9:11"),
        ("true &&\n          odd(1)", "8:15"),
    ] {
        let said = when(text);
        assert!(said.starts_with(&format!("x.yaml:{place}: not valid in a condition")), "{text}: {said}");
    }
}

#[test]
fn a_list_comes_from_a_step_that_has_ended() {
    let of = |step: &str| format!("{{ for_each: E, items_of: {step}, steps: [{{ step: I, agent: a }}] }}");
    let step = |name: &str| format!("{{ step: {name}, agent: a }}");
    let (e, s, t) = (of("S"), step("S"), step("T"));
    for (steps, is_fine) in [
        (format!("[{s}, {e}]"), true),
        (format!("[{e}, {s}]"), false),
        (format!("[{{ parallel: P, steps: [{s}, {t}] }}, {e}]"), true),
        (format!("[{{ parallel: P, steps: [{s}, {e}] }}]"), false),
        (format!("[{{ parallel: S, steps: [{t}, {e}] }}]"), false),
        (format!("[{{ sequence: Q, steps: [{s}, {t}, {e}] }}]"), true),
        (format!("[{{ sequence: Q, steps: [{e}] }}, {s}]"), false),
        // What may be before it in another iteration, or in another order, is.
        (format!("[{{ loop: L, max_iterations: 2, steps: [{e}, {s}] }}]"), true),
        (format!("[{{ loop: L, max_iterations: 2, steps: [{e}] }}, {s}]"), false),
        (format!("[{{ router: R, select: step_choices, choices: [{e}, {s}] }}]"), true),
        (format!("[{{ condition: C, when: 'true', then: [{s}], else: [{e}] }}]"), false),
        (format!("[{{ condition: C, when: 'true', then: [{s}], else: [{t}] }}, {e}]"), true),
        (format!("[{{ for_each: F, items: '[1]', steps: [{s}, {e}] }}]"), true),
        (format!("[{{ for_each: F, items: '[1]', steps: [{e}, {s}] }}]"), false),
    ] {
        let file = File::parse("x.yaml", format!("{HEAD}workflows: {{ w: {{ steps: {steps} }} }}\n")).unwrap();
        let built = file.model("demo", ScriptedModel::replies([])).definitions();
        assert_eq!(built.is_ok(), is_fine, "{steps}: {:?}", built.err());
    }
}

#[test]
fn a_problem_is_told_once_and_where_it_is() {
    for (step, told) in [
        ("{ step: A, agent: a, function: f }", "x.yaml:7:9: it has agent and function: leave one of them"),
        ("{ step: A, workflow: w }", "x.yaml:7:30: workflows execute each other: w → w"),
        ("{ step: A, command: [ls] }", "x.yaml:7:20: nothing says what a repetition of it does"),
        ("{ step: A, agent: a, <<: { timeout: 5s } }", "x.yaml:7:30: `<<` merges nothing"),
        ("{ for_each: R, steps: [{ step: A, agent: a }] }", "x.yaml:7:9: it says no list"),
        ("{ for_each: R, items_of: B, steps: [{ step: A, agent: a }] }", "x.yaml:7:34: unknown step \"B\""),
        (
            "{ for_each: R, items_of: S, steps: [{ step: S, agent: a }] }",
            "x.yaml:7:34: \"S\" has not ended when this begins: name a step before it",
        ),
        (
            "{ router: R, select: '\"Nope\"', choices: [{ step: Note, agent: a }] }",
            "x.yaml:7:30: \"Nope\" is not among its choices: did you mean \"Note\"?",
        ),
        (
            "{ router: R, select: 'size(input) > 9 ? [\"B\"] : \"Other\"', choices: [{ step: B, agent: a }] }",
            "x.yaml:7:30: \"Other\" is not among its choices",
        ),
        ("{ step: A, agent: a, review: {} }", "x.yaml:7:30: it asks nothing"),
        ("{ step: A, agent: a, review: { confirm: Go?, on_reject: else } }", "x.yaml:7:9: an agent step \"A\": only a"),
        ("{ step: @a, agent: a }", "x.yaml:7:17: it is not YAML"),
    ] {
        let file = File::parse("x.yaml", with_steps(&format!("      - {step}")));
        let file = file.map(|file| file.allow_commands(true).model("demo", ScriptedModel::replies([])));
        let said = match file.and_then(|file| file.definitions()) {
            Err(outlive::Error::File(invalid)) => invalid.to_string(),
            other => panic!("{step}: {other:?}"),
        };
        assert!(said.starts_with(told), "{step}: {said}");
        assert_eq!(said.lines().count(), 1, "{step}: {said}");
    }
    let said = problems(&format!(
        "{HEAD}teams: {{ t: {{ members: [t] }} }}\nworkflows: {{ w: {{ steps: [{{ step: A, team: t }}] }} }}\n"
    ));
    assert_eq!(said, "x.yaml:4:25: teams are members of each other: t → t");
    let said = problems(
        &with_tool("{ http: { url: 'https://example.org/' }, description: x, user_input: [zip] }")
            .replace("{ a: {} }", "{ a: { tools: [t] } }"),
    );
    assert_eq!(said, "x.yaml:5:76: \"zip\" is not one of its arguments");
    let text = with_steps("      - { step: A, agent: a }");
    for (schedule, told) in [
        ("{ cron: '1 * * * *', input: { y: 1 } }", "x.yaml:7:49: "),
        ("{ cron: '1 * * * *' }", "x.yaml:7:18: "),
        ("{ cron: '1 * * * *', input: { x: 1 }, session: a b }", "x.yaml:7:68: session id contains ' '"),
    ] {
        let input = "    input: { type: object, required: [x] }\n";
        let said =
            problems(&text.replace("    steps:", &format!("{input}    schedules: {{ s: {schedule} }}\n    steps:")));
        assert!(said.starts_with(told), "{schedule}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let zone = "schedules: { s: { cron: '1 * * * *', time_zone: Mars/X } }";
    let said = problems(
        &with_steps("      - { step: A, agent: a }").replace("    steps:", &format!("    {zone}\n    steps:")),
    );
    assert!(said.starts_with("x.yaml:6:53: the schedule's time_zone"), "{said}");
}

#[test]
fn an_id_that_no_address_has_is_refused_where_it_is_written() {
    let steps = "steps: [{ step: A, agent: a }]";
    for id in ["a/b", "'a\\b'", "'a;b'", "..", "'a b'"] {
        let workflow = format!("{HEAD}workflows:\n  w: {{ id: {id}, {steps} }}\n");
        let agent = format!(
            "{}workflows:\n  w: {{ {steps} }}\n",
            HEAD.replace("{ a: {} }", &format!("{{ a: {{ id: {id} }} }}"))
        );
        let leader = format!("{HEAD}workflows:\n  w: {{ leader: {{ id: {id} }}, {steps} }}\n");
        for (text, place) in [(workflow, "x.yaml:5:12: "), (agent, "x.yaml:3:20: "), (leader, "x.yaml:5:22: ")] {
            let said = problems(&text);
            assert!(said.starts_with(&format!("{place}definition id ")), "{id}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn a_thing_in_place_of_its_name_and_a_word_of_agnos_are_told_with_the_remedy() {
    let step = |step: &str| with_steps(&format!("      - {step}"));
    let agent = |said: &str| step("{ step: A, agent: a }").replace("{ a: {} }", &format!("{{ a: {{ {said} }} }}"));
    let declared = "declare it there, and write its name here";
    for (text, told) in [
        (
            step("{ step: A, agent: { name: V, model: x } }"),
            "7:27: it must be the name of an agent under `agents`, and is a mapping",
        ),
        (step("{ step: A, team: [a] }"), "7:26: it must be the name of a team under `teams`, and is a list"),
        (
            step("{ step: A, workflow: { steps: [] } }"),
            "7:30: it must be the name of a workflow under `workflows`, and is a mapping",
        ),
        (
            agent("model: { id: x }"),
            "3:23: it must be the name of a model, such as openai:gpt-5.2, or of one under `models`, and is a",
        ),
        (agent("tools: [{ http: x }]"), "3:24: it must be the name of a tool under `tools`, and is a mapping"),
    ] {
        let said = problems(&text);
        assert!(said.starts_with(&format!("x.yaml:{told}")) && said.contains(declared), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for (text, told) in [
        (agent("output_schema: {}"), "3:16: unknown key \"output_schema\": did you mean \"output\"?"),
        (agent("num_history_runs: 3"), "3:16: unknown key \"num_history_runs\": did you mean \"history\"?"),
        (step("{ step: A, agent: a, requires_confirmation: true }"), "did you mean \"review\"?"),
        (
            step("{ loop: L, max_iterations: 2, end_condition: 'true', steps: [{ step: A, agent: a }] }"),
            "did you mean \"until\"?",
        ),
    ] {
        assert!(problems(&text).contains(told), "{}", problems(&text));
    }
    let said = problems(&step("{ for_each: F, items: 'nothing', steps: [{ step: A, agent: a }] }"));
    assert!(said.contains("not valid in the items of a ForEach: "), "{said}");
}
