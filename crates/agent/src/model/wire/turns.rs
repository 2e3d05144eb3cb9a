//! What turns of a conversation have in common when they are sent again, whichever format they are written in: ids that
//! pair calls with results, names and arguments that every server takes back, images and files by address or by value.
//!
//! It must never know an endpoint. Invariant: what a model wrote that no server would take back is mended in the copy
//! that is sent, and nowhere else.

use outlive_core::{Media, Message, OutputSchema};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// The longest name of a function that every format allows.
const NAME_LEN_MAX: usize = 64;
/// More tokens than any answer uses: a count beyond it is a mistake, and sums of counts must not overflow.
const TOKENS_MAX: u64 = 1 << 40;

/// The count at this place of what an answer used; zero where there is none.
pub(crate) fn counted(usage: &Value, pointer: &str) -> u64 {
    usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0).min(TOKENS_MAX)
}

/// What a model is told that must answer with a schema which its server does not take.
pub(crate) fn in_words(output: &OutputSchema) -> String {
    format!(
        "When you have the answer, write it as JSON and nothing else, without a code fence. It must follow this JSON \
         Schema:\n{}",
        output.schema
    )
}

/// From the ids that results carry to the ids that the provider pairs them by.
pub(crate) type CallIds<'a> = HashMap<&'a str, Cow<'a, str>>;

pub(crate) fn call_ids(messages: &[Message]) -> CallIds<'_> {
    let calls = messages.iter().flat_map(|message| &message.tool_calls);
    calls.map(|call| (call.id.as_str(), Cow::Borrowed(call.call_id.as_deref().unwrap_or(&call.id)))).collect()
}

/// The same for servers whose ids have nine letters and digits: others, which another model may have given, are
/// replaced by ones that depend on them alone.
pub(crate) fn short_call_ids(messages: &[Message]) -> CallIds<'_> {
    const LEN: usize = 9;
    let is_short = |id: &str| id.len() == LEN && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut ids = call_ids(messages);
    for id in ids.values_mut().filter(|id| !is_short(id)) {
        // FNV-1a, written with 36 digits.
        let mut print = id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let digits = std::iter::repeat_with(|| {
            let digit = char::from_digit((print % 36) as u32, 36);
            print /= 36;
            digit.unwrap_or('0')
        });
        *id = Cow::Owned(digits.take(LEN).collect());
    }
    ids
}

/// The id that the provider pairs a call and its result by.
pub(crate) fn paired<'a>(call_ids: &'a CallIds<'_>, id: &'a str) -> &'a str {
    call_ids.get(id).map_or(id, |id| &**id)
}

/// An image or a file as it can be sent: where it is, or what is in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source<'a> {
    Address(&'a str),
    /// Its type, and its content in base64.
    Content(&'a str, &'a str),
}

impl<'a> Source<'a> {
    /// That of an image or a file. An address that holds the content itself counts as content.
    pub(crate) fn of(media: &'a Media, mime_type_default: &'a str) -> Self {
        let mime_type = media.mime_type.as_deref().unwrap_or(mime_type_default);
        let Some(url) = media.url.as_deref() else {
            return Self::Content(mime_type, media.content.as_deref().unwrap_or_default());
        };
        let held = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
        match held {
            Some((own, content)) => {
                let own = own.split(';').next().filter(|own| !own.is_empty());
                Self::Content(own.unwrap_or(mime_type), content)
            }
            None => Self::Address(url),
        }
    }
}

/// The content of a file or an image as an address.
pub(crate) fn data_url(media: &Media, mime_type_default: &str) -> String {
    let mime_type = media.mime_type.as_deref().unwrap_or(mime_type_default);
    format!("data:{mime_type};base64,{}", media.content.as_deref().unwrap_or_default())
}

/// A model may ask for a tool whose name no server accepts; the conversation must go on all the same.
pub(crate) fn replayable_name(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = name.chars().map(|c| if legal(c) { c } else { '_' }).take(NAME_LEN_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// Some servers fail on arguments in the history that are not a JSON object, although a model wrote them.
pub(crate) fn replayable_arguments(arguments: &str) -> &str {
    let is_object = outlive_core::json::read::<Map<String, Value>>(arguments).is_ok();
    if is_object { arguments } else { "{}" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{Role, ToolCall};

    #[test]
    fn a_short_id_is_kept_and_another_becomes_one() {
        let mut turn = Message::new(Role::Assistant, "", "message".into(), 0);
        turn.tool_calls = ["aB3dE6gH9", "call_1", "toolu_01A09q90qw90lq917835lq9"]
            .map(|id| ToolCall::new(id, "price", "{}"))
            .to_vec();
        let turns = [turn];
        let ids = short_call_ids(&turns);
        assert_eq!(paired(&ids, "aB3dE6gH9"), "aB3dE6gH9");
        let [one, other] = ["call_1", "toolu_01A09q90qw90lq917835lq9"].map(|id| paired(&ids, id));
        assert_ne!(one, other);
        assert!([one, other].iter().all(|id| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
        assert_eq!(paired(&ids, "unknown"), "unknown");
    }

    #[test]
    fn an_address_that_holds_the_content_is_content() {
        let at = |url: &str| Media { url: Some(url.to_owned()), ..Media::default() };
        assert_eq!(Source::of(&at("data:image/gif;base64,QUJD"), "image/png"), Source::Content("image/gif", "QUJD"));
        assert_eq!(Source::of(&at("data:;base64,QUJD"), "image/png"), Source::Content("image/png", "QUJD"));
        assert_eq!(Source::of(&at("https://a/b.png"), "image/png"), Source::Address("https://a/b.png"));
        let held = Media { content: Some("QUJD".to_owned()), ..Media::default() };
        assert_eq!(Source::of(&held, "image/png"), Source::Content("image/png", "QUJD"));
    }
}
