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

/// The length of a value as JSON text, in bytes.
///
/// # Panics
/// When an object in it has keys that are not strings.
pub(crate) fn len_of(value: &impl Serialize) -> usize {
    struct Counted(usize);
    impl std::io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).expect("keys are strings, and counting succeeds");
    counted.0
}

/// A value as JSON text.
///
/// # Panics
/// When an object in it has keys that are not strings.
pub(crate) fn json(value: &impl Serialize) -> Arc<str> {
    written(|text| write_json(text, value))
}
