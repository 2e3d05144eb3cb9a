//! Text that is written once and then shared, such as a page of the log. Each thread builds it in a buffer that it
//! reuses, so it costs one allocation of exactly its size.

use serde::Serialize;
use std::cell::RefCell;
use std::sync::Arc;

/// Memory a thread keeps for its next text.
const KEPT_BYTES: usize = 64 << 10;

thread_local! {
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What `write` writes, which must be UTF-8. `write` must not call this itself.
pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Arc<str> {
    DRAFT.with_borrow_mut(|draft| {
        draft.clear();
        write(draft);
        let text = Arc::from(str::from_utf8(draft).expect("text is written"));
        draft.clear();
        draft.shrink_to(KEPT_BYTES);
        text
    })
}

/// Writes a value as JSON.
///
/// # Panics
/// When an object in it has keys that are not strings.
pub(crate) fn write_json(to: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *to, value).expect("keys are strings, and writing to memory succeeds");
}

/// A value as JSON text.
///
/// # Panics
/// When an object in it has keys that are not strings.
pub(crate) fn json(value: &impl Serialize) -> Arc<str> {
    written(|text| write_json(text, value))
}
