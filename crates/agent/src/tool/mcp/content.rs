//! What a call gave, as the text that a model is told.
//!
//! It must never know a session. The invariant: what cannot be told as text is named, so that the model knows of it.

use super::super::ToolError;
use outlive_core::{Failure, FailureKind};
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};

/// The text of a result, or of the error that the tool reports.
///
/// # Errors
/// What the tool says went wrong.
pub(super) fn told(result: CallToolResult) -> Result<String, ToolError> {
    let mut parts: Vec<String> = result.content.into_iter().map(part).collect();
    // By the protocol, text says the same again.
    if let Some(structured) = result.structured_content.filter(|_| parts.iter().all(String::is_empty)) {
        parts = vec![structured.to_string()];
    }
    let text = parts.join("\n");
    if result.is_error != Some(true) {
        return Ok(text);
    }
    let text = if text.trim().is_empty() { "the tool failed, and did not say why".to_owned() } else { text };
    Err(ToolError::Failed(Failure { retryable: false, ..Failure::new(FailureKind::Function, text) }))
}

fn part(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(image) => left_out("image", &image.mime_type, image.data.len()),
        ContentBlock::Audio(audio) => left_out("audio", &audio.mime_type, audio.data.len()),
        ContentBlock::Resource(embedded) => match embedded.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("{uri}:\n{text}"),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                let kind = mime_type.as_deref().unwrap_or("application/octet-stream");
                format!("{uri}: {}", left_out("file", kind, blob.len()))
            }
            _ => "[a resource of an unknown kind: left out]".to_owned(),
        },
        ContentBlock::ResourceLink(link) => {
            let about = link.description.as_deref().or(link.title.as_deref());
            let about = about.map(|text| format!(": {text}")).unwrap_or_default();
            format!("[{} at {}{about}]", link.name, link.uri)
        }
        _ => "[content of an unknown kind: left out]".to_owned(),
    }
}

/// Instead of bytes in base 64.
fn left_out(what: &str, kind: &str, encoded: usize) -> String {
    format!("[{what}, {kind}, {} bytes: left out, a tool's result is text]", encoded / 4 * 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(result: Value) -> Result<String, String> {
        told(serde_json::from_value(result).unwrap()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn every_kind_of_content_is_told_as_text() {
        let content = json!([
            { "type": "text", "text": "first" },
            { "type": "image", "data": "AAAA", "mimeType": "image/png" },
            { "type": "audio", "data": "AAAAAAAA", "mimeType": "audio/wav" },
            { "type": "resource", "resource": { "uri": "file:///a", "text": "inside" } },
            { "type": "resource", "resource": { "uri": "file:///b", "mimeType": "x/y", "blob": "AAAA" } },
            { "type": "resource_link", "uri": "file:///c", "name": "c", "description": "the third" },
        ]);
        let text = of(json!({ "content": content })).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "first",
                "[image, image/png, 3 bytes: left out, a tool's result is text]",
                "[audio, audio/wav, 6 bytes: left out, a tool's result is text]",
                "file:///a:",
                "inside",
                "file:///b: [file, x/y, 3 bytes: left out, a tool's result is text]",
                "[c at file:///c: the third]",
            ]
        );
    }

    #[test]
    fn structured_content_is_told_where_no_text_says_it() {
        assert_eq!(of(json!({ "content": [], "structuredContent": { "a": 1 } })).unwrap(), r#"{"a":1}"#);
        let both = json!({ "content": [{ "type": "text", "text": "one" }], "structuredContent": { "a": 1 } });
        assert_eq!(of(both).unwrap(), "one");
        assert_eq!(of(json!({ "content": [] })).unwrap(), "");
    }

    #[test]
    fn an_error_of_the_tool_is_an_error() {
        let failed = json!({ "content": [{ "type": "text", "text": "no such city" }], "isError": true });
        assert_eq!(of(failed).unwrap_err(), "no such city");
        assert_eq!(of(json!({ "content": [], "isError": true })).unwrap_err(), "the tool failed, and did not say why");
    }
}
