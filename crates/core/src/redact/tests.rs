//! Redaction tried: a canary in every encoding, and text that must come back untouched.

use super::*;
use crate::event::{EventKind, Origin, RunEvent};
use crate::id::{DefinitionId, RunId, SessionId};
use crate::log::{Key, Page, Writer};
use crate::run::RunInfo;
use serde_json::json;
use serde_json::value::to_raw_value;

const CANARY: &str = "canary-3f9a/7+b2 \"quoted\\\"\nüñí";

fn redactor() -> Redactor {
    Redactor::new([Secret::from(CANARY)])
}

fn encode(alphabet: char, bytes: &[u8]) -> String {
    let alphabet: Vec<char> = match alphabet {
        '/' => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".chars().collect(),
        _ => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars().collect(),
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(alphabet[(bits >> (18 - 6 * index) & 63) as usize]);
        }
        text.push_str(&"=".repeat(3 - chunk.len()));
    }
    text
}

#[test]
fn the_test_encoder_is_right() {
    assert_eq!(encode('/', b"\xfb\xff a"), "+/8gYQ==");
    assert_eq!(encode('_', b"\xfb\xff a"), "-_8gYQ==");
}

#[test]
fn a_known_value_goes_in_every_encoding() {
    let escaped = |text: &str| serde_json::to_string(text).unwrap();
    let once = escaped(CANARY);
    let once = &once[1..once.len() - 1];
    let cases = [
        CANARY.to_owned(),
        once.to_owned(),
        escaped(once).trim_matches('"').to_owned(),
        "canary-3f9a/7+b2 \\\"quoted\\\\\\\"\\n\\u00fc\\u00f1\\u00ed".to_owned(),
        // encodeURIComponent, Python's quote and quote_plus, lower-case digits.
        "canary-3f9a%2F7%2Bb2%20%22quoted%5C%22%0A%C3%BC%C3%B1%C3%AD".to_owned(),
        "canary-3f9a/7%2Bb2%20%22quoted%5C%22%0A%C3%BC%C3%B1%C3%AD".to_owned(),
        "canary-3f9a%2F7%2Bb2+%22quoted%5C%22%0A%C3%BC%C3%B1%C3%AD".to_owned(),
        "canary-3f9a%2f7%2bb2%20%22quoted%5c%22%0a%c3%bc%c3%b1%c3%ad".to_owned(),
        encode('/', CANARY.as_bytes()),
        encode('_', CANARY.as_bytes()),
        encode('/', format!("me:{CANARY}").as_bytes()),
        encode('_', format!("user:{CANARY}:more of it").as_bytes()),
        encode('/', format!("user0:{CANARY}").as_bytes()),
    ];
    for case in cases {
        let text = format!("before <{case}> after");
        assert!(!redactor().is_clean(&text), "{text}");
        assert_eq!(redactor().text(&text), "before <[redacted]> after");
    }
}

#[test]
fn an_ordinary_text_is_left_alone() {
    let ordinary = [
        "the risk-free rate of task-force members, sk-short, disk-abcdefghijklmnopqrstuv",
        "bearer of good news; Bearer tokens are sent with `authorization: bearer`",
        "a fortune \"cookie\" and {\"fortune_cookie\": \"you will be lucky\", \"cookies\": 3, \"cookie\": null}",
        "eyJust.words.here and eyJhbGciOiJIUzI1NiJ9 alone",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUJ\n-----END CERTIFICATE-----",
        "it begins with -----BEGIN PRIVATE KEY----- and so on",
        "c2VjcmV0 0x7f.1 https://example.org/a/b?c=d olv_table",
    ];
    for text in ordinary {
        assert!(redactor().is_clean(text), "{text}");
        assert!(matches!(redactor().text(text), Cow::Borrowed(same) if same == text));
    }
}

#[test]
fn credentials_are_known_by_their_shape() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl";
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMjM0In0.";
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow==\n-----END RSA PRIVATE KEY-----";
    let cut_off = "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEAabcdefgh\nabcdef";
    let cases = [
        ("key=sk-proj-abcDEF0123456789_x;", "key=[redacted];"),
        ("olv_0123456789abcdefghijklmnop", "[redacted]"),
        ("\\nsk-0123456789abcdefghijklmnop", "\\n[redacted]"),
        ("error\x1b[0m\x1b[2m=\x1b[0msk-0123456789abcdefghijklmnop", "error\x1b[0m\x1b[2m=\x1b[0m[redacted]"),
        ("authorization: BEARER  abc.def~ghi/jkl+mno=", "authorization: BEARER  [redacted]"),
        (&format!("<{jwt}>"), "<[redacted]>"),
        (&format!("<{unsigned}>"), "<[redacted]>"),
        (&format!("key:\n{pem}\nend"), "key:\n[redacted]\nend"),
        (&format!("key: {cut_off}, cut"), "key: [redacted], cut"),
        (r#"{"Set-Cookie":"a=\"b\"; c","d":1}"#, r#"{"Set-Cookie":"[redacted]","d":1}"#),
        (r#"{\"x-api-key\" : \"a \\\" b\",\"d\":1}"#, r#"{\"x-api-key\" : \"[redacted]\",\"d\":1}"#),
        (r#"{"cookie":[["a"],"b"],"d":1}"#, r#"{"cookie":"[redacted]","d":1}"#),
        (r#"{"x-api-key":12345,"d":1}"#, r#"{"x-api-key":"[redacted]","d":1}"#),
        ("{'Proxy-Authorization': 'Basic YTpi', 'd': 1}", "{'Proxy-Authorization': '[redacted]', 'd': 1}"),
    ];
    for (text, clean) in cases {
        assert!(!redactor().is_clean(text), "{text}");
        assert_eq!(redactor().text(text), clean);
        assert_eq!(redactor().text(clean), clean, "what is redacted stays as it is");
    }
}

#[test]
fn json_loses_secrets_in_strings_keys_and_headers() {
    let mut value = json!({
        "headers": {"Authorization": ["Basic abc"], "COOKIE": {"a": 1}, "x-api-key": null, "accept": "*/*"},
        CANARY: [1, {"deep": format!("it is {CANARY}!")}],
        "nested": json!({"set-cookie": "a=b"}).to_string(),
        "count": 12_345_678,
    });
    redactor().value(&mut value);
    assert_eq!(
        value,
        json!({
            "headers": {"Authorization": "[redacted]", "COOKIE": "[redacted]", "x-api-key": null, "accept": "*/*"},
            "[redacted]": [1, {"deep": "it is [redacted]!"}],
            "nested": "{\"set-cookie\":\"[redacted]\"}",
            "count": 12_345_678,
        })
    );
    let text = json!({"a": CANARY}).to_string();
    assert_eq!(redactor().json(&text), r#"{"a":"[redacted]"}"#);
    assert_eq!(redactor().json(&format!("no json: {CANARY}")), "no json: [redacted]");
    let clean: Arc<str> = Arc::from(r#"{ "a" : 1 }"#);
    assert!(Arc::ptr_eq(&redactor().shared_json(clean.clone()), &clean));
}

#[test]
fn short_values_are_passed_over() {
    let redactor = Redactor::new([Secret::from("word"), Secret::from("")]);
    assert_eq!(redactor.text("a word of it"), "a word of it");
    assert!(Redactor::default().is_clean(CANARY));
}

#[test]
fn the_redactor_shows_no_value() {
    assert!(!format!("{:#?}", redactor()).contains("canary"));
}

fn info() -> RunInfo {
    RunInfo {
        run_id: RunId::parse("run-1").unwrap(),
        workflow_id: DefinitionId::parse("workflow").unwrap(),
        workflow_name: Arc::from("Workflow"),
        session_id: SessionId::parse("session-1").unwrap(),
        user_id: None,
    }
}

fn page(redactor: &Redactor, first_index: u64, entries: &[Entry]) -> Page {
    Writer::new(Arc::new(info())).page(first_index, entries, redactor).0
}

fn entry(content: &str) -> Entry {
    let origin = Origin { session_id: SessionId::parse("olv_0123456789abcdefghij").ok(), ..Origin::default() };
    let kind = EventKind::WorkflowError { error: content.to_owned(), error_type: None, refusal: None };
    let event = RunEvent { created_at: 7, kind, origin, event_index: None };
    let value = to_raw_value(&json!({"content": content, "rate": 0.1, "big": u64::MAX})).unwrap();
    Entry::recorded(
        event,
        Record::Result { key: Key::parse("0/olv_0123456789abcdefghij"), value: Arc::from(value), sleeps: false },
    )
}

#[test]
fn a_page_loses_secrets_and_keeps_the_names_the_log_is_folded_by() {
    let entries = [entry("ordinary"), entry(CANARY)];
    let written = entries.clone().map(|entry| redactor().entry(&entry));
    let page = page(&redactor(), 5, &entries);
    let mut read = page.decode(&info()).unwrap();
    assert!(!page.body.contains("canary"));
    read.iter_mut().for_each(|entry| entry.event.event_index = None);
    assert_eq!(read, written, "what is passed on is what was written");
    let EventKind::WorkflowError { error, .. } = &read[1].event.kind else { panic!("another event") };
    assert_eq!(error, "[redacted]");
    assert_eq!(read[1].event.origin, entries[1].event.origin);
    let Some(Record::Result { key, value, .. }) = &read[1].record else { panic!("another record") };
    assert_eq!(key.as_str(), "0/olv_0123456789abcdefghij");
    let value: Value = serde_json::from_str(value.get()).unwrap();
    assert_eq!(value, json!({"content": "[redacted]", "rate": 0.1, "big": u64::MAX}));
}

#[test]
fn a_clean_page_is_the_same_text() {
    let clean = [Entry::event(RunEvent { origin: Origin::default(), ..entry("ordinary").event })];
    assert_eq!(page(&redactor(), 0, &clean), Page::encode(&info(), 0, &clean));
}

#[test]
fn a_value_that_is_a_word_of_the_log_does_not_break_it() {
    let redactor = Redactor::new([Secret::from("WorkflowError")]);
    assert!(page(&redactor, 0, &[entry("ordinary")]).decode(&info()).is_ok());
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn text(&mut self, length: usize) -> String {
        const LETTERS: [&str; 24] = [
            "a", "b", "Z", "0", "9", "-", "_", ".", "/", "+", "=", "\"", "\\", "\n", "\t", "'", ":", " ", "%", "é",
            "中", "🦀", "sk-", "eyJ",
        ];
        (0..length).map(|_| LETTERS[self.below(LETTERS.len())]).collect()
    }
}

/// A secret as it may appear, in an encoding chosen by `numbers`, with other text before and after it.
fn disguised(secret: &str, numbers: &mut Numbers) -> String {
    let padding = numbers.below(4);
    let before = "x".repeat(padding);
    let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let escaped = serde_json::to_string(secret).unwrap();
    match numbers.below(6) {
        0 => secret.to_owned(),
        1 => encode('/', format!("{before}{secret}{before}").as_bytes()),
        2 => encode('_', format!("{before}{secret}{before}").as_bytes()),
        3 => urlencoded(secret),
        4 => escaped[1..escaped.len() - 1].to_owned(),
        _ if secret.bytes().all(|byte| !byte.is_ascii_alphanumeric()) => percent,
        _ => json!({"inner": json!({ "value": secret }).to_string()}).to_string(),
    }
}

fn urlencoded(text: &str) -> String {
    let kept = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if kept(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Whether a secret can be recovered from a text: as it is, or by decoding base64 in any alignment, percent signs or
/// escapes.
fn survives(secret: &str, text: &str) -> bool {
    let spellings = [secret.to_owned(), urlencoded(secret), escaped_times(secret, 1), escaped_times(secret, 2)];
    let decoded = text.split(|c: char| !(c.is_ascii_alphanumeric() || "+/-_".contains(c))).any(|run| {
        (0..4).any(|start| {
            let bytes = decode(run.as_bytes().get(start..).unwrap_or_default());
            bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
        })
    });
    decoded || spellings.iter().any(|spelling| text.contains(spelling.as_str()))
}

fn escaped_times(text: &str, times: usize) -> String {
    (0..times).fold(text.to_owned(), |text, _| {
        let quoted = serde_json::to_string(&text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    })
}

fn decode(run: &[u8]) -> Vec<u8> {
    let sextet = |byte: &u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    };
    let chunks = run.chunks(4).flat_map(|chunk| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 6 | u32::from(sextet(byte)));
        let bits = bits << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len().max(1)].to_vec()
    });
    chunks.collect()
}

#[test]
fn no_canary_survives() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..30 {
        let secrets: Vec<_> = (0..3)
            .map(|_| {
                let length = SECRET_LEN_MIN + numbers.below(24);
                format!("k{}k", numbers.text(length))
            })
            .collect();
        let redactor = Redactor::new(secrets.iter().cloned().map(Secret::from));
        let disguises: Vec<_> = (0..3).map(|index| disguised(&secrets[index], &mut numbers)).collect();
        let noise = numbers.text(12);
        let text = format!("{noise} {} {noise} {}{}", disguises[0], disguises[1], disguises[2]);
        for (secret, disguise) in secrets.iter().zip(&disguises) {
            assert!(survives(secret, disguise), "round {round}: the test sees {secret:?} in {disguise:?}");
        }
        let value = json!({"a": [text], "b": {disguises[0].clone(): 1}});
        let page = value.to_string();
        assert!(!redactor.is_clean(&page), "round {round}: {page:?} is not clean");
        for clean in [redactor.json(&page), redactor.text(&text)] {
            for secret in &secrets {
                assert!(!survives(secret, &clean), "round {round}: {secret:?} is in {clean:?}");
            }
        }
    }
}

#[test]
fn any_text_can_be_redacted_and_only_once() {
    let mut numbers = Numbers(42);
    let parts = [
        "\"cookie\"",
        "'set-cookie'",
        "\\\"authorization\\\"",
        ":",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "\\",
        " ",
        "null",
        "bearer ",
        "sk-",
        "olv_",
        "eyJ",
        ".",
        "-----BEGIN ",
        "PRIVATE KEY",
        "-----",
        "-----END ",
        "aaaaaaaaaaaaaaaa",
        "é",
        "🦀",
        "\n",
        "x",
    ];
    let redactor = redactor();
    for _ in 0..20_000 {
        let length = numbers.below(16);
        let text: String = (0..length).map(|_| parts[numbers.below(parts.len())]).collect();
        let clean = redactor.text(&text).into_owned();
        assert_eq!(redactor.is_clean(&text), clean == text || text.contains(REDACTED), "{text:?}");
        // The check of a page must find in the JSON whatever redaction would find in its strings.
        let page = json!({ "text": text }).to_string();
        assert!(!redactor.is_clean(&page) || clean == text, "{text:?} in {page}");
    }
}

/// The text as it leaves in pieces, cut where `numbers` say.
fn in_pieces(redactor: &Redactor, text: &str, numbers: &mut Numbers) -> (String, Vec<String>) {
    let mut passage = Passage::default();
    let mut told = String::new();
    let mut pieces = Vec::new();
    let longest = 1 + numbers.below(12);
    let mut rest = text;
    while !rest.is_empty() {
        let length = 1 + numbers.below(longest);
        let cut = rest.char_indices().nth(length).map_or(rest.len(), |(place, _)| place);
        pieces.push(rest[..cut].to_owned());
        told.push_str(&redactor.piece(&mut passage, &rest[..cut]));
        rest = &rest[cut..];
    }
    told.push_str(&redactor.end(passage));
    (told, pieces)
}

#[test]
fn a_text_in_pieces_is_the_whole_text_redacted() {
    let mut numbers = Numbers(7);
    let values = ["correct-horse", "horse-battery", "kiñata/7+b2", "aaaaaaaaab"];
    let redactor = Redactor::new(values.map(Secret::from));
    // The text before a value in base64 may have left already, so there it begins with a blank.
    let encoded = values.map(|value| format!(" {}", encode('/', value.as_bytes())));
    let percent = values.map(urlencoded);
    let mut parts = vec![
        "\"cookie\"",
        "'Set-Cookie'",
        "\\\"authorization\\\"",
        "x-api-key",
        ":",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\\",
        " ",
        "  ",
        "null",
        "12",
        "bearer ",
        "Bearer ",
        "BEARER",
        "sk-",
        "olv_",
        "eyJ",
        ".",
        ",",
        "-----BEGIN ",
        "PRIVATE KEY",
        "RSA ",
        "-----",
        "-----END ",
        "PRIVATE KEY-----",
        "aaaaaaaaaaaaaaaa",
        "aaaaaaaaaaa",
        "0123456789",
        "-",
        "s",
        "e",
        "é",
        "🦀",
        "\n",
        "\\n",
        "x",
        "correct-",
        "horse",
        "corr",
        "battery",
        "=",
        "+",
        "\\u00e9",
    ];
    parts.extend(values);
    parts.extend(encoded.iter().map(String::as_str));
    parts.extend(percent.iter().map(String::as_str));
    let mut redacted = 0;
    for _ in 0..8_000 {
        let length = numbers.below(24);
        let text: String = (0..length).map(|_| parts[numbers.below(parts.len())]).collect();
        let whole = redactor.text(&text);
        redacted += usize::from(whole != text);
        let (told, pieces) = in_pieces(&redactor, &text, &mut numbers);
        assert_eq!(told, whole, "{text:?} in {pieces:?}");
    }
    assert!(redacted > 2_000, "only {redacted} texts had a secret");
}

#[test]
fn credentials_of_every_shape_are_found_across_every_cut() {
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl";
    let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow==\n-----END RSA PRIVATE KEY-----";
    for secret in [
        "sk-proj-abcDEF0123456789_x",
        "olv_0123456789abcdefghijklmnop",
        "Bearer abc.def~ghi/jkl+mno=",
        jwt,
        pem,
        "correct-horse",
        r#"{\"x-api-key\" : \"a \\\" b\",\"d\":1}"#,
        r#"{"Set-Cookie":[["a"],"b"],"d":1}"#,
    ] {
        let redactor = Redactor::new([Secret::from("correct-horse")]);
        let text = format!("it is <{secret}>, you see");
        let whole = redactor.text(&text).into_owned();
        assert_ne!(whole, text);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut passage = Passage::default();
                let mut told = redactor.piece(&mut passage, &text[..first]);
                told += &redactor.piece(&mut passage, &text[first..second]);
                told += &redactor.piece(&mut passage, &text[second..]);
                assert!(passage.is_empty(), "the text is over, so is the secret: {passage:?}");
                told += &redactor.end(passage);
                assert_eq!(told, whole, "cut at {first} and {second}");
            }
        }
    }
}

#[test]
fn no_canary_survives_in_pieces() {
    let mut numbers = Numbers(0x1234_5678_9abc_def0);
    for round in 0..100 {
        let length = SECRET_LEN_MIN + numbers.below(24);
        let secret = format!("k{}k", numbers.text(length));
        let redactor = Redactor::new([Secret::from(secret.as_str())]);
        let (noise, disguise) = (numbers.text(12), disguised(&secret, &mut numbers));
        let text = format!("{noise}{disguise}{noise} {disguise}");
        let (told, pieces) = in_pieces(&redactor, &text, &mut numbers);
        assert!(!survives(&secret, &told), "round {round}: {secret:?} is in {told:?}, from {pieces:?}");
    }
}

#[test]
fn ordinary_pieces_leave_as_they_come() {
    let pieces = [
        "Ask", " the", " task", "-force", " about", " the", " risk", "-free", " rate", ".", "\n\n", "##", " A", " \"",
        "cookie", "\"", " for", " the", " bear", " of", " good", " news", ";", " auth", "or", "ization", ":", " ey",
        " `", "key", "`", " =", " *", "*",
    ];
    let redactor = Redactor::default();
    let mut passage = Passage::default();
    for piece in pieces {
        let told = redactor.piece(&mut passage, piece);
        if piece == " ey" {
            // As a token may begin.
            assert_eq!(told, " ");
            assert_eq!(redactor.piece(&mut passage, "es"), "eyes");
        } else {
            assert_eq!(told, piece);
            assert!(passage.is_empty());
        }
    }
    // With a secret to look for, the first sign of it, as it is or encoded, may come a piece later.
    let redactor = Redactor::new([Secret::from("Xylophone-7")]);
    let mut passage = Passage::default();
    let (mut come, mut told) = (0, 0);
    for piece in pieces {
        come += piece.len();
        told += redactor.piece(&mut passage, piece).len();
        assert!(come - told <= 2, "{piece:?} left {} bytes behind", come - told);
    }
}

#[test]
fn what_is_held_is_bounded() {
    let redactor = Redactor::default();
    let part = "a".repeat(100);
    // A word of any length that began like a token is released when no token is that long.
    let mut passage = Passage::default();
    let mut told = redactor.piece(&mut passage, "eyJ");
    for _ in 0..200 {
        told += &redactor.piece(&mut passage, &part);
    }
    assert!(told.len() > 10_000, "{}", told.len());
    // A secret without an end is removed with everything that follows.
    let mut passage = Passage::default();
    let mut told = redactor.piece(&mut passage, "x sk-");
    for _ in 0..2000 {
        told += &redactor.piece(&mut passage, &part);
    }
    assert_eq!(told, "x [redacted]");
    assert!(passage.shapes_len() <= 70_000);
    told += &redactor.piece(&mut passage, " more");
    assert_eq!(told + &redactor.end(passage), "x [redacted]");
}

#[test]
fn a_secret_under_many_levels_goes_and_the_levels_stay() {
    let nested = |core: &str, depth| (0..depth).fold(json!(core), |inner, _| json!({ "a": inner }));
    for depth in [1, 126, 127, 128, 512] {
        let fields = Map::from_iter([("value".to_owned(), nested(CANARY, depth))]);
        let event = EventKind::CustomEvent { fields };
        let event = RunEvent { created_at: 1, kind: event, origin: Origin::default(), event_index: None };
        let record = Record::Result {
            key: Key::parse("k"),
            value: to_raw_value(&nested(CANARY, depth)).unwrap().into(),
            sleeps: false,
        };
        let page = page(&redactor(), 0, &[Entry::recorded(event, record)]);
        assert!(!page.body.contains("canary"), "{depth}");
        let entries = page.decode(&info()).unwrap();
        let EventKind::CustomEvent { fields } = &entries[0].event.kind else { panic!("{depth}") };
        assert_eq!(fields["value"], nested(REDACTED, depth), "{depth}");
        let text = nested(CANARY, depth).to_string();
        assert_eq!(redactor().json(&text), nested(REDACTED, depth).to_string(), "{depth}");
    }
}
