//! Expressions: what they give, what is wrong with them and where, and that none of them hangs or overflows the stack.

use outlive_core::cel::{Cel, CelError, Mistake, Scope};
use serde_json::{Map, Value, json};
use std::thread;

fn variables(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

/// What a condition or a router is given.
fn before_step() -> Map<String, Value> {
    variables(json!({
        "input": "URGENT: the printer is on fire",
        "input_data": {"topic": "printers", "floors": [1, 2]},
        "previous_step_content": "TECHNICAL: no ink",
        "previous_step_outputs": {"Research": "three sources", "Draft": ""},
        "additional_data": {"priority": 8, "route": "Billing", "tags": ["vip", "eu"], "nested": {"deep": [1, 2.5]}},
        "session_state": {"retries": 2, "ratio": 3.0, "big": u64::MAX, "plan": null, "users": [{"n": "a"}, {"n": "b"}]},
        "step_choices": ["Image Step", "Video Step"],
    }))
}

/// What the end condition of a loop is given.
fn after_iteration() -> Map<String, Value> {
    variables(json!({
        "current_iteration": 2,
        "max_iterations": 5,
        "all_success": true,
        "last_step_content": "the text is DONE",
        "step_outputs": {"Write": "a draft of some length", "Review": "APPROVED"},
    }))
}

fn bool_of(text: &str, scope: Scope, variables: &Map<String, Value>) -> bool {
    Cel::compile(text, scope).and_then(|cel| cel.evaluate_bool(variables)).unwrap()
}

fn mistakes(text: &str, scope: Scope) -> Vec<Mistake> {
    match Cel::compile(text, scope) {
        Err(CelError::Invalid { mistakes, .. }) => mistakes,
        other => panic!("{text}: {other:?}"),
    }
}

fn failure(text: &str) -> String {
    Cel::compile(text, Scope::Router)
        .unwrap_or_else(|error| panic!("{error}"))
        .evaluate(&before_step())
        .unwrap_err()
        .to_string()
}

/// On the stack of a runtime's worker, partly used.
fn on_a_small_stack(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(1 << 20).spawn_scoped(scope, work);
        thread.expect("a thread").join().expect("no panic");
    });
}

#[test]
fn conditions_decide() {
    let given = before_step();
    for (text, verdict) in [
        // The input's text.
        (r#"input.startsWith("URGENT")"#, true),
        (r#"input.contains("refund")"#, false),
        (r#"input.matches("(?i)printer|scanner")"#, true),
        // What the run was given besides.
        ("additional_data.priority >= 7", true),
        (r#"has(additional_data.tier) && additional_data.tier == "gold""#, false),
        // The step before.
        (r#"previous_step_content.startsWith("TECHNICAL")"#, true),
        // Any step before, by its name.
        (r#"previous_step_outputs.Research.contains("sources")"#, true),
        (r#""Research" in previous_step_outputs && previous_step_outputs["Draft"] != """#, false),
        ("size(previous_step_outputs) == 2", true),
        // The session's state.
        ("session_state.retries < 3", true),
        ("session_state.ratio == 3 && session_state.retries == 2.0", true),
    ] {
        assert_eq!(bool_of(text, Scope::Condition, &given), verdict, "{text}");
    }
}

#[test]
fn loops_end() {
    let given = after_iteration();
    for (text, verdict) in [
        ("current_iteration >= 2", true),
        ("current_iteration == max_iterations", false),
        (r#"last_step_content.contains("DONE")"#, true),
        ("all_success && current_iteration > 1", true),
        ("all_success && size(last_step_content) > 100 || current_iteration >= max_iterations - 1", false),
        (r#"step_outputs.Review.contains("APPROVED")"#, true),
        (r#"step_outputs.all(name, step_outputs[name] != "") && size(step_outputs) == 2"#, true),
    ] {
        assert_eq!(bool_of(text, Scope::EndCondition, &given), verdict, "{text}");
    }
}

#[test]
fn routers_choose() {
    let given = before_step();
    for (text, names) in [
        ("additional_data.route", vec!["Billing"]),
        (r#"previous_step_content.contains("TECHNICAL") ? "Technician" : "Desk""#, vec!["Technician"]),
        (r#"session_state.retries > 3 ? "Escalate" : "Retry""#, vec!["Retry"]),
        (r#"input.contains("video") ? "Video" : input.contains("printer") ? "Hardware" : "Other""#, vec!["Hardware"]),
        ("step_choices[0]", vec!["Image Step"]),
        (r#"step_choices.filter(name, name.endsWith("Step"))"#, vec!["Image Step", "Video Step"]),
        ("[]", vec![]),
    ] {
        let cel = Cel::compile(text, Scope::Router).unwrap();
        assert_eq!(cel.evaluate_names(&given).unwrap(), names, "{text}");
    }
}

#[test]
fn expressions_give_json() {
    let given = before_step();
    for (text, result) in [
        ("additional_data", given["additional_data"].clone()),
        ("session_state.big", json!(u64::MAX)),
        ("session_state.users.map(user, user.n)", json!(["a", "b"])),
        ("session_state.users.map(user, user.n != 'a', user.n + '!')", json!(["b!"])),
        ("additional_data.map(key, key)", json!(["nested", "priority", "route", "tags"])),
        ("{'z': 1, 'a': [true, null, 2.5], 'text': input.size()}", json!({"a": [true, null, 2.5], "text": 30, "z": 1})),
        ("session_state.plan", json!(null)),
        ("1 + 2 * 3 - 4 / 2", json!(5)),
        ("7 % 4", json!(3)),
        ("7 / 2", json!(3)),
        ("7.0 / 2.0", json!(3.5)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("0x10", json!(16)),
        ("3u", json!(3)),
        ("3.0 == 3 && 3 == 3u && 1 < 1.5", json!(true)),
        ("'é' + \"€\"", json!("é€")),
        ("size('é€')", json!(2)),
        ("r'a\\b' + 'c\\n'", json!("a\\bc\n")),
        ("'''one\ntwo'''", json!("one\ntwo")),
        ("[1, 2] + [3]", json!([1, 2, 3])),
        ("[1, 2, 3].exists(x, x > 2) && [1, 2, 3].exists_one(x, x > 2) && ![1].all(x, x > 1)", json!(true)),
        ("int('12') + int(3.9) + int(2u)", json!(17)),
        ("double('1.5') + double(1)", json!(2.5)),
        ("string(1) + string(1.5) + string(true)", json!("11.5true")),
        ("string(bytes('x'))", json!("x")),
        ("bool('true')", json!(true)),
        ("type(1) == int && type('') == string", json!(true)),
        ("1 in [1, 2] && 'vip' in additional_data.tags && 'route' in additional_data", json!(true)),
        ("has(additional_data.nested.deep)", json!(true)),
        ("has(additional_data.nested.none)", json!(false)),
        ("additional_data.nested.deep[1]", json!(2.5)),
        ("additional_data['tags'][0]", json!("vip")),
        ("matches(input, '^URGENT: .*fire$')", json!(true)),
        // What decides hides what fails beside it.
        ("true || additional_data.none", json!(true)),
        ("additional_data.none == 1 && false", json!(false)),
        ("[1, 0].exists(x, 1 / x == 1)", json!(true)),
        // An item hides a variable.
        ("['x'].map(input, input)", json!(["x"])),
        ("// a comment\n.input == input", json!(true)),
    ] {
        // A router must give names, and nobody knows what `dyn` gives.
        let cel = Cel::compile(&format!("dyn({text}\n)"), Scope::Router).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cel.evaluate(&given).unwrap_or_else(|error| panic!("{error}")), result, "{text}");
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let at = |line, column, message: &str| Mistake { line, column, message: message.to_owned() };
    for (text, expected) in [
        ("inptu == 'a'", vec![at(1, 1, "a condition has no variable `inptu`; did you mean `input`?")]),
        ("'é' == Input", vec![at(1, 8, "a condition has no variable `Input`; did you mean `input`?")]),
        (
            "input == 'a' &&\n  prevous_step_content.contain('b') ||\n  sessionstate.n",
            vec![
                at(2, 3, "a condition has no variable `prevous_step_content`; did you mean `previous_step_content`?"),
                at(2, 24, "there is no function `contain`; did you mean `contains`?"),
                at(3, 3, "a condition has no variable `sessionstate`; did you mean `session_state`?"),
            ],
        ),
        (
            "banana",
            vec![at(
                1,
                1,
                "a condition has no variable `banana`, only `input`, `input_data`, `previous_step_content`, `previous_step_outputs`, \
                 `additional_data`, `session_state`",
            )],
        ),
        ("input.size(1) > 0", vec![at(1, 7, "`size` is used as in `value.size()`")]),
        ("contains(input, 'a')", vec![at(1, 1, "`contains` is used as in `text.contains(part)`")]),
        ("input.lower()", vec![at(1, 7, "there is no function `lower`")]),
        ("[1].all(x)", vec![at(1, 5, "`all` is used as in `list.all(item, condition)`")]),
        (
            "[1].map(x, x) == x",
            vec![at(
                1,
                18,
                "a condition has no variable `x`, only `input`, `input_data`, `previous_step_content`, `previous_step_outputs`, `additional_data`, `session_state`",
            )],
        ),
        ("[1].exists(item, itm > 0)", vec![at(1, 18, "a condition has no variable `itm`; did you mean `item`?")]),
        ("'é' == 'é' && has(input)", vec![at(1, 19, "`has()` needs a field, as in `has(session_state.user)`")]),
        ("[1].map(1, 2)", vec![at(1, 9, "this must be a name for the item, as in `list.all(item, …)`")]),
        ("input ==", vec![at(1, 9, "the expression ends too early")]),
        ("", vec![at(1, 1, "the expression ends too early")]),
        ("input = 'a'", vec![at(1, 7, "`=` compares nothing: write `==`")]),
        ("true & false", vec![at(1, 6, "`&` is not an operator: write `&&`")]),
        ("input == 'abc", vec![at(1, 10, "this text has no closing quote")]),
        ("input.contains('x'", vec![at(1, 19, "`)` is missing")]),
        ("true\n&& size(]", vec![at(2, 9, "`]` is not expected here")]),
        ("true and false", vec![at(1, 6, "`and` is not expected here")]),
        ("1 + # + $", vec![at(1, 5, "`#` has no meaning in CEL"), at(1, 9, "`$` has no meaning in CEL")]),
        ("if", vec![at(1, 1, "`if` is reserved")]),
        ("99999999999999999999 > 1", vec![at(1, 1, "this whole number does not fit in 64 bits")]),
        ("Thing{a: 1}", vec![at(1, 1, "there is no message type `Thing`: write a map")]),
        ("input.?a", vec![at(1, 6, "CEL's optional values cannot be used: use `has()`")]),
        (
            "optional.none()",
            vec![
                at(
                    1,
                    1,
                    "a condition has no variable `optional`, only `input`, `input_data`, `previous_step_content`, `previous_step_outputs`, `additional_data`, `session_state`",
                ),
                at(1, 10, "there is no function `none`"),
            ],
        ),
    ] {
        assert_eq!(mistakes(text, Scope::Condition), expected, "{text}");
    }
    let pattern = mistakes("input.matches('a(')", Scope::Condition);
    assert_eq!((pattern[0].line, pattern[0].column), (1, 15));
    assert!(pattern[0].message.starts_with("`matches` cannot use its pattern: "), "{pattern:?}");
    let error = Cel::compile("inptu", Scope::Condition).unwrap_err().to_string();
    let expected = "the CEL expression `inptu` is invalid: line 1 column 1: a condition has no variable `inptu`; did \
                    you mean `input`?";
    assert_eq!(error, expected);
}

#[test]
fn each_place_has_its_own_variables() {
    let places = [Scope::Condition, Scope::Router, Scope::EndCondition, Scope::Items];
    for place in places {
        for other in places {
            for name in other.variables() {
                let known = place.variables().contains(name);
                assert_eq!(Cel::compile(&format!("dyn({name})"), place).is_ok(), known, "`{name}` in {place}");
            }
        }
    }
    assert!(Scope::Router.variables().contains(&"step_choices"));
    assert!(!Scope::Condition.variables().contains(&"step_choices"));
}

#[test]
fn what_fails_says_why_and_shows_no_value() {
    for (text, problem) in [
        (
            "additional_data.tier == 'gold' ? 'a' : 'b'",
            "there is no key `tier`: ask with `has()`, or with `in`, whether it is there",
        ),
        (
            "input_data.tier == 'gold' ? 'a' : 'b'",
            "there is no key `tier`: ask with `has()`, or with `in`, whether it is there",
        ),
        ("additional_data.route > 3 ? 'a' : 'b'", "`>` cannot take string and int"),
        ("additional_data.route + 3", "this operator cannot take string and int"),
        ("additional_data.tags.contains('vip') ? 'a' : 'b'", "`contains` cannot take list and string"),
        ("dyn(!additional_data.route)", "`!` cannot take string"),
        ("additional_data.route ? 'a' : 'b'", "bool is needed, and this is string"),
        ("additional_data.route[0]", "`[]` cannot take string and int"),
        ("step_choices[9]", "an index is out of bounds: ask with `size()` how long the list is"),
        ("string(1 / (session_state.retries - 2))", "a division by zero"),
        ("string(9223372036854775807 + 1)", "a number does not fit in 64 bits"),
        ("string(int(input))", "`int()` cannot convert this value"),
        ("dyn({'a': 1, 'a': 2})", "a map has the same key twice"),
        ("[{1: 2}]", "it gives a map with a key that is not text, which JSON does not have: use `string()` on it"),
        ("[bytes(input)]", "it gives bytes, which JSON does not have: make text of them with `string()`"),
        ("[0.0 / 0.0]", "it gives NaN, a number that JSON does not have"),
        ("[1e308 * 10.0]", "it gives inf, a number that JSON does not have"),
        ("additional_data.route.map(c, c)", "iterable is needed, and this is string"),
    ] {
        assert_eq!(failure(text), format!("the CEL expression `{text}` failed: {problem}"));
    }
    let bad_pattern = failure("[input.matches(input + '(')]");
    assert!(bad_pattern.contains("cannot use its pattern"), "{bad_pattern}");
    assert!(!bad_pattern.contains("printer is on fire("), "{bad_pattern}");

    let error = Cel::compile("input", Scope::Router).unwrap().evaluate(&Map::new()).unwrap_err();
    assert_eq!(error.to_string(), "the CEL expression `input` failed: `input` has no value");
}

#[test]
fn fields_of_the_input_are_read_and_missed_by_name() {
    let given = before_step();
    for text in [
        "input_data.topic == 'printers' && !has(input_data.price)",
        "2 in input_data.floors && size(input_data.floors) == 2",
        "'topic' in input_data",
    ] {
        assert!(bool_of(text, Scope::Condition, &given), "{text}");
    }
    let floors = Cel::compile("input_data.floors", Scope::Items).unwrap();
    assert_eq!(floors.evaluate_list(&given).unwrap(), [json!(1), json!(2)]);
    let plain = variables(json!({ "input_data": "tea" }));
    for text in ["has(input_data.topic)", "input_data.topic == 'tea'"] {
        let error = Cel::compile(text, Scope::Condition).unwrap().evaluate_bool(&plain).unwrap_err();
        assert_eq!(error.to_string(), format!("the CEL expression `{text}` failed: a string has no fields"));
    }
}

#[test]
fn what_decides_or_chooses_nothing_is_refused() {
    let given = before_step();
    let cel = |text: &str| Cel::compile(&format!("dyn({text})"), Scope::Router).unwrap();
    let failed = |text: &str, problem: &str| format!("the CEL expression `dyn({text})` failed: {problem}");
    for (text, kind) in [
        ("input", "a string"),
        ("1", "an int"),
        ("1.5", "a double"),
        ("null", "null"),
        ("step_choices", "a list"),
        ("session_state", "a map"),
    ] {
        let error = cel(text).evaluate_bool(&given).unwrap_err().to_string();
        assert_eq!(error, failed(text, &format!("it gives {kind}, but must give true or false")));
    }
    for (text, kind) in [("true", "a bool"), ("1", "an int"), ("['a', 1]", "a list with an int in it")] {
        let error = cel(text).evaluate_names(&given).unwrap_err().to_string();
        assert_eq!(error, failed(text, &format!("it gives {kind}, but must give a name or a list of names")));
    }
    let error = cel("session_state").evaluate_list(&given).unwrap_err().to_string();
    assert_eq!(error, failed("session_state", "it gives a map, but must give a list"));
    assert_eq!(cel("session_state.users").evaluate_list(&given).unwrap(), [json!({"n": "a"}), json!({"n": "b"})]);
}

#[test]
fn what_certainly_fails_does_not_compile() {
    let verdict = "must give true or false, and this gives";
    let as_data = ": `input_data` is the input as JSON";
    let names = "a router's selector must give a name or a list of names, and this gives a bool";
    for (scope, text, column, message) in [
        (Scope::Condition, "input", 1, &*format!("a condition {verdict} a string{as_data}")),
        (Scope::Condition, "size(input)", 1, &format!("a condition {verdict} an int")),
        (Scope::Condition, "true ? 1 > 0 : 'no'", 16, &format!("a condition {verdict} a string")),
        (Scope::EndCondition, "step_outputs.map(n, n)", 1, &format!("a loop's end condition {verdict} a list")),
        (Scope::EndCondition, "current_iteration + 1", 1, &format!("a loop's end condition {verdict} an int")),
        (Scope::Router, "has(session_state.a)", 1, names),
        (Scope::Router, "input == 'a'", 1, names),
        (
            Scope::Items,
            "input",
            1,
            &format!("the items of a ForEach must give a list, and this gives a string{as_data}"),
        ),
        (Scope::Items, "session_state", 1, "the items of a ForEach must give a list, and this gives a map"),
        (Scope::Condition, "input > 3", 7, "`>` cannot take string and int"),
        (Scope::Condition, "!input", 1, "`!` cannot take string"),
        (Scope::Condition, "input + 1 == 'a'", 7, "`+` cannot take string and int"),
        (Scope::Condition, "previous_step_outputs.contains('a')", 23, "`contains` cannot take map and string"),
        (Scope::Condition, "input.topic == 'a'", 6, "a string has no field `topic`: did you mean `input_data.topic`?"),
        (Scope::Condition, "has(input.topic)", 4, "a string has no field `topic`: did you mean `input_data.topic`?"),
        (Scope::Condition, "previous_step_content.topic == 'a'", 22, "a string has no field `topic`"),
        (Scope::Condition, "'a' in input", 5, "`in` cannot take string and string"),
    ] {
        let expected = vec![Mistake { line: 1, column, message: message.to_owned() }];
        assert_eq!(mistakes(text, scope), expected, "{text}");
    }
    // Nothing is said about what depends on values, or about an item that hides a variable.
    for text in ["session_state.done", "additional_data.n > 'a'", "[1].exists(input, input > 0)", "dyn(input)"] {
        Cel::compile(text, Scope::Condition).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_compiled_expression_is_shared_between_threads_and_says_what_it_is() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>(value: T) -> T {
        value
    }
    let cel = shared(Cel::compile("input == 'a'", Scope::Condition).unwrap());
    let copy = cel.clone();
    assert_eq!(copy.text(), "input == 'a'");
    assert_eq!(format!("{copy:?}"), r#"Cel("input == 'a'")"#);
    thread::spawn(move || copy.evaluate_bool(&before_step()).unwrap()).join().unwrap();
    assert!(!cel.evaluate_bool(&before_step()).unwrap());
}

/// Expressions of each shape that nests, `levels` deep.
fn nested(levels: usize) -> Vec<String> {
    let around =
        |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(levels), close.repeat(levels));
    vec![
        around("(", "1", ")"),
        around("[", "1", "]"),
        around("{'a': ", "1", "}"),
        around("string(", "1", ")"),
        around("[1].map(x, ", "1", ")"),
        around("true ? 1 : ", "1", ""),
        around("true ? (", "1", ") : 1"),
        around("-", "1", ""),
        around("!", "true", ""),
        around("", "session_state", ".a"),
        around("", "session_state", "['a']"),
        around("", "[1]", ".map(x, x)"),
        around("", "[1]", ".filter(x, [x].all(y, y > 0))"),
        around("", "1", " + 1"),
        around("", "'a'", " + 'a'"),
        around("", "1", " == 1"),
        around("", "true", " && true"),
        around("", "false", " || true"),
        around("1 + (", "1", ")"),
        around("", "input", ".size()"),
        format!("{}{}{}", "(".repeat(levels.min(40)), "1 + ".repeat(levels), "1") + &")".repeat(levels.min(40)),
    ]
}

#[test]
fn what_is_nested_or_long_overflows_no_stack() {
    on_a_small_stack(|| {
        for levels in [1, 2, 3, 4, 5, 8, 20, 44, 60, 100, 300, 1000, 2000, 4000] {
            for text in nested(levels) {
                match Cel::compile(&format!("dyn({text})"), Scope::Router) {
                    Ok(cel) => drop(cel.evaluate(&before_step())),
                    Err(error) => assert!(levels > 20, "{error}"),
                }
            }
        }
    });
    let deep = mistakes(&"(".repeat(60), Scope::Router);
    assert!(deep.iter().any(|mistake| mistake.message == "nested more than 48 levels deep"), "{deep:?}");
    let long = mistakes(&format!("input == '{}'", "a".repeat(5000)), Scope::Router);
    assert_eq!(long[0].message, "it has 5011 bytes, and may have 4096: use a function instead");
    let sum = mistakes(&vec!["'a'"; 200].join(" + "), Scope::Router);
    assert_eq!(sum[0].message, "more than 96 operators and calls deep: use a function instead");
}

#[test]
fn values_nested_as_deeply_as_allowed_can_be_read() {
    let mut deep = json!(1);
    for _ in 0..500 {
        deep = json!([deep]);
    }
    let mut given = before_step();
    given.insert("session_state".to_owned(), json!({ "deep": deep.clone() }));
    on_a_small_stack(|| {
        let cel = Cel::compile("session_state.deep", Scope::Items).unwrap();
        assert_eq!(cel.evaluate(&given).unwrap(), deep);
        let cel = Cel::compile("[session_state == session_state]", Scope::Items).unwrap();
        assert_eq!(cel.evaluate(&given).unwrap(), json!([true]));
    });
}

#[test]
fn what_would_run_on_and_on_is_stopped() {
    let spent = "it takes too much work: walk shorter lists, or use a function instead";
    let mut given = before_step();
    let numbers: Vec<_> = (0..3000).collect();
    given.insert("session_state".to_owned(), json!({"list": numbers, "text": "abc".repeat(30_000)}));
    for text in [
        // Walks within walks.
        "session_state.list.all(a, session_state.list.all(b, session_state.list.all(c, a + b + c >= 0)))",
        "session_state.list.exists(a, session_state.list.exists(b, a == b && false))",
        "size(session_state.list.map(a, session_state.list.map(b, session_state.list))) > 0",
        // An error that a later `||` would hide.
        "session_state.list.all(a, session_state.list.all(b, session_state.list.all(c, c < 0 || true))) || true",
        // Text and lists appended to themselves.
        &format!("size(['ab']{}) > 0", ".map(x, x + x + x + x + x + x + x + x)".repeat(12)),
        &format!("size([[1, 2]]{}) > 0", ".map(x, [x, x, x, x, x, x, x, x])".repeat(12)),
        &format!("size([{{'a': 1}}]{}) > 0", ".map(x, {'a': x, 'b': x, 'c': x, 'd': x})".repeat(14)),
        // Looking through a long text again and again.
        "session_state.list.all(a, !session_state.text.contains('abd'))",
        "session_state.list.all(a, session_state.text == session_state.text)",
        "session_state.list.all(a, !session_state.text.matches('(a|b|c|ab|bc)*d$'))",
        "session_state.list.all(a, size(session_state.text + string(a)) > 0)",
    ] {
        let cel = Cel::compile(text, Scope::Condition).unwrap_or_else(|error| panic!("{error}"));
        let error = cel.evaluate_bool(&given).expect_err(text).to_string();
        assert!(error.ends_with(spent), "{text}: {error}");
    }
}

#[test]
fn one_walk_over_anything_is_allowed() {
    let mut given = before_step();
    let users: Vec<_> = (0..20_000).map(|n| json!({"name": format!("user {n}"), "age": n % 90})).collect();
    let long = "x".repeat(1 << 20);
    given.insert("session_state".to_owned(), json!({ "users": users }));
    given.insert("input".to_owned(), json!(long));
    let walk = "session_state.users.filter(user, user.age > 88 && user.name.startsWith('user')).map(user, user.name)";
    let names = Cel::compile(walk, Scope::Items).unwrap().evaluate_names(&given).unwrap();
    assert_eq!(names.len(), 222);
    assert!(bool_of("!input.contains('y') && (input + input).size() == 2097152", Scope::Condition, &given));
}

/// The same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

#[test]
fn no_text_makes_it_panic() {
    let seeds = [
        "input.contains(\"a\") ? step_choices[0] : 'b'",
        "session_state.users.filter(u, has(u.n) && u.n != 'a').map(u, u.n + '!')",
        "{'a': [1, 2.5, -3u, 0x1F], \"b\\n\": null}['a'][1] >= 1e3 || !(true && false)",
        "previous_step_outputs.all(k, previous_step_outputs[k].matches('^[a-z]+\\\\d{2}$'))",
        "// note\nsize(b'\\x00') % 2 == int(string(additional_data.priority)) - r'\\'.size()",
    ];
    let pieces = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "'''",
        "\\",
        ".",
        ",",
        "?",
        ":",
        "&&",
        "|",
        "!",
        "-",
        "e",
        "u",
        "0x",
        "é",
        "\u{1F600}",
        "\n",
        "\0",
        "`",
        "@",
        "$",
        "in",
        "has",
        "all(",
        ".map(x, ",
        "null",
        "9999999999",
        "b'\\xff'",
        "\\u12",
    ];
    let given = before_step();
    let mut numbers = Numbers(7);
    for round in 0..1500 {
        let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(text.len() + 1);
            match numbers.below(3) {
                0 if at < text.len() => drop(text.remove(at)),
                1 => drop(text.splice(at..at, pieces[numbers.below(pieces.len())].chars())),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        match Cel::compile(&text, Scope::Router) {
            Ok(cel) => drop(cel.evaluate(&given).inspect_err(|error| no_panic(&text, error))),
            Err(error) => {
                no_panic(&text, &error);
                let CelError::Invalid { mistakes, .. } = &error else { panic!("{text:?}: {error}") };
                for mistake in mistakes {
                    let line = text.split('\n').nth(mistake.line - 1).unwrap_or_else(|| panic!("{text:?}: {error}"));
                    assert!((1..=line.chars().count() + 1).contains(&mistake.column), "{text:?}: {error}");
                }
            }
        }
    }
}

fn no_panic(text: &str, error: &CelError) {
    assert!(!error.to_string().contains("panicked"), "{text:?}: {error}");
}
