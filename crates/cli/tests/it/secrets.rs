//! What is said of a file never repeats a secret in it, however the file is looked at.

use crate::fixture::{Done, Place};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Everything that is said of `w.yaml`.
fn said(place: &Place) -> String {
    let ways = [
        &["workflow", "validate", "w.yaml"][..],
        &["workflow", "validate", "w.yaml", "--json"],
        &["run", "w.yaml", "x"],
        &["run", "w.yaml", "x", "--json"],
        &["serve", "w.yaml", "--addr", "127.0.0.1:0"],
        &["dev", "w.yaml", "--addr", "127.0.0.1:0"],
    ];
    let each = ways.map(|way| {
        let Done { stdout, stderr, .. } = place.run(way).exits(2);
        stdout + &stderr
    });
    each.concat()
}

#[test]
fn bad_e04_no_line_with_a_secret_is_repeated_and_no_secret_in_a_problem() {
    let step = |fields: &str| format!("version: 1\nworkflows: {{ w: {{ steps: [{{ step: A, {fields} }}] }} }}\n");
    let top = |line: &str| step("command: [cat], effect: read") + line;
    let model = |fields: &str| top(&format!("models: {{ m: {{ model: openai:x, {fields} }} }}"));
    let command = |fields: &str| step(&format!("{fields}, effect: read, tiemout: 1s"));
    let header = |value: &str| {
        let http = format!("http: {{ url: \"https://x.org\", headers: {{ X-Api-Key: {value} }} }}");
        step(&format!("{http}, efect: read"))
    };
    let (hunter, key) = ("hunter2hunter2", "sk-abcdefghijklmnop1234");
    for text in [
        header(hunter),
        header("\"hunter2\n  hunter2\""),
        header("\"hunter2hunter2 : \" }"),
        header("\"Bearer ${env:hunter2hunter2}\""),
        model("api_key: hunter2hunter2"),
        model("api_key_varaible: hunter2hunter2"),
        model("api_key_variable: hunter2hunter2"),
        model("api_key_variable: 'hunter2 hunter2'"),
        top("password: hunter2hunter2"),
        top("openai_api_key: hunter2hunter2"),
        top("pasword:\n  password: hunter2hunter2"),
        top(&format!("{key}: x")),
        top(&format!("agents: {{ {key}: {{}}, {key}: {{}} }}")),
        model(&format!("{key}: x")),
        command("command: [psql, --password=hunter2hunter2]"),
        command("command: [psql, --password, hunter2hunter2]"),
        command("command: [sh, -c, 'PGPASSWORD=hunter2hunter2 psql']"),
        command("command: [psql], env: [hunter2hunter2]"),
    ] {
        let place = Place::new();
        std::fs::write(place.path("w.yaml"), &text).unwrap();
        let said = said(&place);
        assert!(!said.contains("hunter2") && !said.contains(key), "{text}\n{said}");
        let is_named =
            ["a secret", "unknown key \"pasword\"", "it is not YAML"].iter().any(|words| said.contains(words));
        assert!(is_named, "{text}\n{said}");
    }
}

#[test]
fn what_is_no_secret_is_still_repeated_beside_its_problem() {
    let place = Place::new();
    let text = "version: 1\npassword: hunter2hunter2\nworkflows: { w: { steps: [{ stpe: A }] } }\n";
    std::fs::write(place.path("w.yaml"), text).unwrap();
    let said = said(&place);
    assert!(said.contains("    3 | workflows: { w: { steps: [{ stpe: A }] } }"), "{said}");
    assert!(said.contains("w.yaml:2:1: this looks like a secret"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[cfg(unix)]
#[test]
fn bad_e04_the_text_of_a_file_that_is_refused_unread_is_not_repeated() {
    let place = Place::new();
    std::fs::create_dir(place.path("d")).unwrap();
    std::fs::write(place.path("p.txt"), "TOPSECRET\n").unwrap();
    std::os::unix::fs::symlink("../p.txt", place.path("d/z.yaml")).unwrap();
    for way in [
        &["workflow", "validate", "d"][..],
        &["workflow", "validate", "d", "--json"],
        &["serve", "d", "--addr", "127.0.0.1:0"],
        &["dev", "d", "--addr", "127.0.0.1:0"],
        &["worker", "d"],
    ] {
        let Done { stdout, stderr, .. } = place.run(way).exits(2);
        let said = stdout + &stderr;
        assert!(said.contains("it leads out of d") && !said.contains("TOPSECRET"), "{way:?}: {said}");
    }
    std::fs::remove_file(place.path("d/z.yaml")).unwrap();
    let fine = "version: 1\nmodel: demo\nagents: { a: {} }\nworkflows: { w: { steps: [{ step: A, agent: a }] } }\n";
    std::fs::write(place.path("d/a.yaml"), fine).unwrap();
    let mut dev = place.command(&["dev", "d", "--addr", "127.0.0.1:0"]);
    let mut child = dev.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("Listening on ")).unwrap();
    std::os::unix::fs::symlink("../p.txt", place.path("d/z.yaml")).unwrap();
    let said: Vec<_> = lines.by_ref().take_while(|line| !line.contains("is left out")).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.join("\n");
    assert!(said.contains("it leads out of d") && !said.contains("TOPSECRET"), "{said}");
}
