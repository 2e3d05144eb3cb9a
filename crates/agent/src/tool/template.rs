//! Text with places for arguments: `{name}` is replaced by an argument, `{{name}}` stands for `{name}` itself, and any other
//! brace for itself.
//!
//! It must never know what the text is for: who fills it in says how a value is written there.

use serde_json::{Map, Value};

/// A text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(String),
}

impl Template {
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some((name, after)) =
                rest.strip_prefix("{{").and_then(name_of).filter(|(_, rest)| rest.starts_with("}}"))
            {
                plain.push_str(&format!("{{{name}}}"));
                rest = &after[2..];
            } else if let Some((name, after)) = name_of(&rest[1..]).filter(|(_, rest)| rest.starts_with('}')) {
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Place(name.to_owned()));
                rest = &after[1..];
            } else {
                plain.push('{');
                rest = &rest[1..];
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Self { parts }
    }

    /// The names of its places.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text before the first place.
    #[cfg(feature = "commands")]
    pub(super) fn beginning(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The name of the one place that it consists of.
    #[cfg(feature = "commands")]
    pub(super) fn only_place(&self) -> Option<&str> {
        match &self.parts[..] {
            [Part::Place(name)] => Some(name),
            _ => None,
        }
    }

    /// With every place filled in; a place of which there is no argument stays empty.
    ///
    /// # Errors
    /// What `write` says of a value.
    pub(super) fn fill<E>(
        &self,
        arguments: &Map<String, Value>,
        mut write: impl FnMut(&str, String) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Place(name) => text.push_str(&write(name, written(arguments.get(name)))?),
            }
        }
        Ok(text)
    }
}

/// A name at the beginning, and what follows it.
fn name_of(text: &str) -> Option<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (end > 0 && begins_well).then(|| text.split_at(end))
}

/// An argument as text: JSON where it is none.
fn written(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_filled_in_and_other_braces_stay() {
        let arguments = json!({ "city": "Oslo", "days": 3 });
        let arguments = arguments.as_object().expect("an object");
        for (text, filled) in [
            ("{city}/{days}d", "Oslo/3d"),
            ("{{city}}: {city}", "{city}: Oslo"),
            ("{a: .b, c}", "{a: .b, c}"),
            ("{}{", "{}{"),
            ("[{missing}]", "[]"),
            ("", ""),
        ] {
            let template = Template::parse(text);
            assert_eq!(template.fill(arguments, |_, value| Ok::<_, ()>(value)), Ok(filled.to_owned()), "{text}");
        }
        assert_eq!(Template::parse("{city}").only_place(), Some("city"));
        assert_eq!(Template::parse("a{city}{days}").names().collect::<Vec<_>>(), ["city", "days"]);
    }
}
