//! Reads `name=value&name=value`, of queries and of forms.
//!
//! It knows no names. The invariant: what is accepted has one reading and every store can keep it: UTF-8 without NUL. A
//! percent sign that begins no escape stands for itself, as everywhere on the web.

/// Text that is not UTF-8 or has a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoText;

/// The pairs in their order.
///
/// # Errors
/// [`NoText`], when a name or a value is none.
pub(crate) fn pairs(encoded: &[u8]) -> Result<Vec<(String, String)>, NoText> {
    let parts = encoded.split(|byte| *byte == b'&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let end = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            Ok((text(&part[..end])?, text(part.get(end + 1..).unwrap_or_default())?))
        })
        .collect()
}

fn text(encoded: &[u8]) -> Result<String, NoText> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, escaped(after)) {
            (b'%', Some(byte)) => (byte, &after[2..]),
            (b'+', _) => (b' ', after),
            (byte, _) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    plain(bytes)
}

/// The byte that two digits name.
pub(crate) fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Bytes as text.
///
/// # Errors
/// [`NoText`].
pub(crate) fn plain(bytes: Vec<u8>) -> Result<String, NoText> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or(NoText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(encoded: &[u8]) -> Result<String, NoText> {
        let pairs = pairs(encoded)?;
        Ok(pairs.iter().map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join("|"))
    }

    #[test]
    fn pairs_come_decoded_and_in_their_order() {
        for (encoded, expected) in [
            ("", ""),
            ("&&", ""),
            ("a=1&b=2&a=3", "a:1|b:2|a:3"),
            ("a", "a:"),
            ("=x", ":x"),
            ("a=b=c", "a:b=c"),
            ("a+b=c+d%2B", "a b:c d+"),
            ("%61=%C3%A9%26", "a:é&"),
            ("a=100%&b=%zz%4", "a:100%|b:%zz%4"),
        ] {
            assert_eq!(read(encoded.as_bytes()).as_deref(), Ok(expected), "{encoded}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused_wherever_it_stands() {
        for encoded in [&b"a=%00"[..], b"%00=a", b"a=\0", b"a=%ff", b"%ff", b"a=\xff", b"a=%C3", b"a=%ed%a0%80"] {
            assert_eq!(read(encoded), Err(NoText), "{encoded:?}");
        }
    }
}
